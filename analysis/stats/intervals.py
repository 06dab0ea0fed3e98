"""Intervals: binomial for counts, Student-t over seeds. A seed is a cluster; evaluations within a run are not."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

LEVEL = 0.95
Z = float(stats.norm.ppf(0.5 + LEVEL / 2))


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate over `count` seeds; `low` and `high` are None if one seed gives no interval."""

    estimate: float
    low: float | None
    high: float | None
    count: int

    def contains(self, value: float) -> bool:
        """Whether the interval does not exclude `value`; without an interval nothing is excluded."""
        return self.low is None or self.high is None or self.low <= value <= self.high

    def scaled(self, factor: float) -> Interval:
        """The interval times a positive factor."""
        low, high = (None if end is None else factor * end for end in (self.low, self.high))
        return Interval(estimate=factor * self.estimate, low=low, high=high, count=self.count)

    def exp(self) -> Interval:
        """The interval on the ratio scale, for estimates made on logarithms; inf on overflow."""
        low, high = (None if end is None else _exp(end) for end in (self.low, self.high))
        return Interval(estimate=_exp(self.estimate), low=low, high=high, count=self.count)


def _exp(value: float) -> float:
    return math.exp(value) if value < math.log(sys.float_info.max) else math.inf


def binomial_interval(
    hits: ArrayLike, trials: ArrayLike, level: float = LEVEL
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Wilson's score interval of a rate, elementwise; NaN where a count is missing or there were no trials.

    Wilson 1927; Brown, Cai and DasGupta 2001 (Statistical Science 16, 101) on why not the normal approximation. Not
    statsmodels' `proportion_confint`, which has the same formula and speed but rounds past 0 and 1.
    """
    k, n = np.broadcast_arrays(np.asarray(hits, dtype=float), np.asarray(trials, dtype=float))
    z = stats.norm.ppf(0.5 + level / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = k / n
        centre = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
        half_width = z / (1 + z**2 / n) * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    # Exact at the ends, where rounding would leave 1e-17 below 0 or above 1.
    return np.where(k == 0, 0.0, centre - half_width) + 0 * rate, np.where(k == n, 1.0, centre + half_width) + 0 * rate


def t_interval(values: Iterable[float], level: float = LEVEL) -> Interval | None:
    """Mean and Student-t interval of one value per seed; None without values."""
    x = np.array([value for value in values if value is not None and math.isfinite(value)], dtype=float)
    if x.size == 0:
        return None
    if x.size == 1:
        return Interval(estimate=float(x[0]), low=None, high=None, count=1)
    half_width = stats.t.ppf(0.5 + level / 2, x.size - 1) * x.std(ddof=1) / math.sqrt(x.size)
    mean = float(x.mean())
    return Interval(estimate=mean, low=mean - float(half_width), high=mean + float(half_width), count=int(x.size))


@dataclass(frozen=True, kw_only=True)
class Median:
    """Median over seeds, with its interval, of values that are infinite where something was not reached."""

    estimate: float
    """NaN if the two middle values are infinities of opposite sign: the median could be anywhere."""
    low: float
    high: float
    coverage: float
    """Probability that the interval holds the median of all seeds, whatever their distribution; 0 for one seed."""
    reached: int
    """Number of finite values."""
    count: int


def median_interval(values: Iterable[float], level: float = LEVEL) -> Median:
    """Median and the narrowest interval of order statistics that covers it with probability `level`. For few values, of
    which no such interval does (5 give 0.94), their range, with its coverage.

    The sign test's interval: the r-th from both ends covers with 1 - 2 P(Binomial(n, 1/2) < r). Raises ValueError
    without values or with NaN.
    """
    x = np.sort(np.array(list(values), dtype=float))
    if not x.size or np.isnan(x).any():
        raise ValueError("a median needs values, and none may be NaN")
    ranks = np.arange(1, (x.size + 1) // 2 + 1)
    covers = np.maximum(0.0, 1 - 2 * stats.binom.cdf(ranks - 1, x.size, 0.5))
    rank = int(ranks[covers >= level][-1]) if (covers >= level).any() else 1
    below, above = float(x[(x.size - 1) // 2]), float(x[x.size // 2])
    return Median(
        estimate=below if below == above else (below + above) / 2, low=float(x[rank - 1]),
        high=float(x[x.size - rank]), coverage=float(covers[rank - 1]), reached=int(np.isfinite(x).sum()),
        count=int(x.size),
    )  # fmt: skip
