"""Comparing speeds on a machine that is never quiet: contenders take turns, round after round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from scipy.stats import binom


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Median over rounds of ours / theirs, with an interval of at least 95 % confidence."""

    median: float
    low: float
    high: float
    rounds: int


def rounds(contenders: Mapping[str, Callable[[], float]], count: int) -> Iterator[dict[str, float]]:
    """`count` rounds of every contender's speed. The order turns about, and a first round is thrown away."""
    names = list(contenders)
    for number in range(count + 1):
        turned = names[number % len(names) :] + names[: number % len(names)]
        speeds = {name: contenders[name]() for name in turned}
        if number:
            yield speeds


def ratio(ours: list[float], theirs: list[float]) -> Ratio:
    """The median of the rounds' ratios; its interval from order statistics, which assumes no distribution.

    Raises ValueError below 6 rounds, where even the extremes do not hold 95 %.
    """
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    count = len(ratios)
    if count < 6:
        raise ValueError(f"{count} rounds: expected at least 6 for an interval of 95 %")
    # each round lies below the true median with probability 1/2
    skipped = int(binom.ppf(0.025, count, 0.5)) - 1
    return Ratio(median=statistics.median(ratios), low=ratios[skipped], high=ratios[-1 - skipped], rounds=count)
