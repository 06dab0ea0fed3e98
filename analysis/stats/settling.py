"""Seeds that would settle an undecided question, from its margin and the spread over seeds, never from its effect.

Power at the effect seen only restates its p-value (Hoenig and Heisey 2001, The American Statistician 55, 19).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy import special

from analysis.stats.arrays import Array
from analysis.stats.sequential import Looks

WANTED = 0.8
"""Probability with which a question is to be settled."""
SPREAD_LEVEL = 0.8
"""Level of the chi-square interval of the standard deviation, whose ends give the range of seeds."""
REPLICATES = 5000
MOST = 10_000
"""Seeds above which a number is not searched."""

Truth = Literal["effect", "equivalent"]
Range = tuple[int | None, int | None]


@dataclass(frozen=True, kw_only=True)
class Settling:
    """Seeds in all, at the ends of the deviation's interval; None: more than 10,000."""

    effect: Range
    """If the true effect equals the margin."""
    equivalent: Range
    """If there is none."""


def seeds_to_settle(margin: float, deviation: float, count: int, looks: Looks, alpha: float) -> Settling:
    """For a question that `count` seeds with this standard deviation left undecided: the next of the looks at which it
    is settled with probability 0.8. Beyond the last look, the number of seeds with that look's nominal level.
    """
    freedom = count - 1
    # The upper tail's quantile first: it gives the smallest deviation, and so the fewest seeds.
    ends = [special.chdtri(freedom, share) for share in ((1 - SPREAD_LEVEL) / 2, (1 + SPREAD_LEVEL) / 2)]
    ratios = [margin / (deviation * math.sqrt(freedom / float(end))) for end in ends]
    found = {truth: [seeds_at(ratio, truth, count, looks, alpha) for ratio in ratios] for truth in get_args(Truth)}
    return Settling(**{truth: (few, many) for truth, (few, many) in found.items()})


def chances(ratio: float, truth: Truth, looks: tuple[int, ...], critical: tuple[float, ...]) -> Array:
    """Probability (K,) that the question is settled rightly by each look, by simulation. `ratio`: margin over standard
    deviation; `critical`: |t| at each look. An effect has to have the right sign.
    """
    means, errors = _noise(looks)
    means = means + (ratio if truth == "effect" else 0.0)
    half_width = np.array(critical)[:, None] * errors
    effect = np.abs(means) >= half_width
    equivalent = ~effect & (np.abs(means) + half_width <= ratio)
    answered = effect | equivalent
    first = answered & (answered.cumsum(axis=0) == 1)  # then it is frozen
    right = first & ((effect & (means > 0)) if truth == "effect" else equivalent)
    return right.cumsum(axis=0).mean(axis=1)


def seeds_at(ratio: float, truth: Truth, count: int, looks: Looks, alpha: float) -> int | None:
    """The least number of seeds above `count` at which `chances` reach 0.8; None above 10,000."""
    critical, last = looks.boundaries(alpha), looks.seeds[-1]
    for seeds, chance in zip(looks.seeds, chances(ratio, truth, looks.seeds, critical), strict=True):
        if seeds > count and chance >= WANTED:
            return seeds
    nominal = float(special.stdtr(last - 1, -critical[-1]))
    before = len(looks.seeds) > 1  # a single look is over: more seeds are another study

    def settled(seeds: int) -> bool:
        t = -float(special.stdtrit(seeds - 1, nominal))
        plan, ends = ((*looks.seeds, seeds), (*critical, t)) if before else ((seeds,), (t,))
        return bool(chances(ratio, truth, plan, ends)[-1] >= WANTED)

    low = high = max(last, count)
    while not settled(high := high * 2):
        if (low := high) >= MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if settled(middle) else (middle, high)
    return high if high <= MOST else None


@functools.lru_cache(maxsize=64)
def _noise(looks: tuple[int, ...]) -> tuple[Array, Array]:
    """Means and standard errors (K, R) of standard normal values at each look, of data sets that grow."""
    rng = np.random.default_rng(looks)
    count, mean, squares = 0, np.zeros(REPLICATES), np.zeros(REPLICATES)
    means, errors = [], []
    for seeds in looks:
        new = seeds - count
        away = rng.standard_normal(REPLICATES) / math.sqrt(new) - mean
        squares = squares + away**2 * count * new / seeds + (rng.chisquare(new - 1, REPLICATES) if new > 1 else 0.0)
        mean, count = mean + away * new / seeds, seeds
        means.append(mean)
        errors.append(np.sqrt(squares / (seeds - 1) / seeds))
    return np.array(means), np.array(errors)
