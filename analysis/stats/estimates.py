"""One estimate a seed, and what Student's t says of their mean: the input of every verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from analysis.stats.arrays import Array
from analysis.stats.imputation import Mixture, augment, few_censored
from analysis.stats.intervals import Interval


@dataclass(frozen=True, kw_only=True)
class Censored:
    """The values behind slopes over sizes x (K,), some only bounded: low and high (S, K). With one x, the values
    themselves."""

    x: Array
    low: Array
    high: Array


@dataclass(frozen=True, kw_only=True)
class Estimates:
    """Paired differences, slopes or correlations, one a seed, in the order in which seeds were added."""

    values: Array
    """(S,). NaN: this seed gives none. A slope with censored values is at its bound."""
    seeds: Sequence[object] = ()
    """Their names."""
    censored: Censored | None = None
    most: float | None = None
    """The largest that any values within the range of these could give; None: unknown."""

    @property
    def bounds(self) -> tuple[int, int]:
        """Of the values behind estimates, how many are known only by a bound, and how many there are."""
        if self.censored is None:
            return 0, int(np.isfinite(self.values).sum())
        known = np.isfinite(self.values)
        late = (self.censored.low != self.censored.high)[known]
        return int(late.sum()), late.size

    def first(self, seeds: int | None) -> Estimates:
        """Those of the first `seeds` seeds; of all if None."""
        late = self.censored and replace(self.censored, low=self.censored.low[:seeds], high=self.censored.high[:seeds])
        return replace(self, values=self.values[:seeds], seeds=self.seeds[:seeds], censored=late)

    def at(self, seeds: int) -> Evidence:
        """What the first `seeds` seeds say."""
        values = self.values[:seeds]
        known = np.isfinite(values)
        values = values[known]
        if self.censored is not None and values.size:
            low, high = self.censored.low[:seeds][known], self.censored.high[:seeds][known]
            if (late := low != high).any():
                if values.size < 2:
                    return Evidence(estimate=None, error=None, count=values.size)
                if not few_censored(late):
                    return _bounded(self.censored.x, low, high)
                mixture = augment(self.censored.x, low[None], high[None], contrast=min(1, self.censored.x.size - 1))
                middle = float(mixture.quantile(0.5)[0])
                return Evidence(estimate=middle, error=None, count=values.size, mixture=mixture)
        mean = float(values.mean()) if values.size else None
        error = float(values.std(ddof=1) / np.sqrt(values.size)) if values.size > 1 else None
        return Evidence(estimate=mean, error=error, count=values.size)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A mean over `count` seeds. `estimate` is None without values, or if too many are censored."""

    estimate: float | None
    error: float | None
    """Standard error of the mean; None below two seeds, or where `mixture` stands for it."""
    count: int
    mixture: Mixture | None = None
    bounds: tuple[Array, Array] | None = None
    """Where too many values are censored to impute them: bounds of each seed's estimate (S,) from below and from above,
    all finite or all infinite. The mean of the bounds from above is at least the mean itself, whatever lies behind
    them, so Student's t on them errs on the safe side."""

    @property
    def t(self) -> float:
        """Student's t of the mean against 0, with count - 1 degrees of freedom; NaN if there is none."""
        if self.bounds is not None and self.estimate is not None:
            below, above = (np.sqrt(self.count) * _ratio(ends) for ends in self.bounds)
            return above if above < 0 else below if below > 0 else 0.0
        if self.mixture is not None:
            ends = -self.mixture.centre / self.mixture.error
            below = float(special.stdtr(self.mixture.freedom, ends).mean())
            # The smaller tail: near 1 a share cannot be resolved.
            above = float(special.stdtr(self.mixture.freedom, -ends).mean())
            return float(np.sign(above - below) * -special.stdtrit(self.count - 1, min(below, above)))
        if self.error is None or self.estimate is None:
            return np.nan
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(np.divide(self.estimate, self.error))

    def interval(self, critical: float) -> Interval | None:
        """The values that |t| < critical does not exclude; without ends below two seeds."""
        if self.estimate is None:
            return None
        if self.bounds is not None and np.isfinite(critical):
            half = [
                critical * float(ends.std(ddof=1)) / self.count**0.5 if known(ends) else 0.0 for ends in self.bounds
            ]
            low, high = float(self.bounds[0].mean()) - half[0], float(self.bounds[1].mean()) + half[1]
        elif self.mixture is not None and np.isfinite(critical):
            share = float(special.stdtr(self.count - 1, -critical))
            low, high = (float(self.mixture.quantile(each)[0]) for each in (share, 1 - share))
        elif self.error is not None and np.isfinite(critical):
            low, high = self.estimate - critical * self.error, self.estimate + critical * self.error
        else:
            low = high = None
        return Interval(estimate=self.estimate, low=low, high=high, count=self.count)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds."""
        if self.bounds is not None:
            return None
        if self.mixture is None:
            return None if self.error is None else self.error * self.count**0.5
        found = self.interval(1.0)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        return (found.high - found.low) / 2 * self.count**0.5


def known(ends: Array) -> bool:
    return bool(np.isfinite(ends).all())


def _ratio(ends: Array) -> float:
    """Mean over standard deviation; 0, which excludes nothing, where the ends are unknown."""
    if not known(ends):
        return 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.divide(ends.mean(), ends.std(ddof=1)))


def _bounded(x: Array, low: Array, high: Array) -> Evidence:
    """From bounds (S, K) of values at x (K,): bounds of each seed's value, or of its least-squares slope. `estimate`
    is the mean of those from above where they are finite, otherwise from below; None if neither are."""
    weights = np.ones(1) if x.size == 1 else (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    ends: list[Array] = []
    for rising, falling in ((low, high), (high, low)):
        parts = np.where(weights > 0, rising, falling)
        found = np.where(weights == 0, 0.0, parts) @ weights
        ends.append(found if known(found) else np.full(len(found), -np.inf if len(ends) == 0 else np.inf))
    means = [float(each.mean()) for each in reversed(ends) if known(each)]
    return Evidence(
        estimate=means[0] if means else None, error=None, count=len(low), bounds=(ends[0], ends[1])
    )  # fmt: skip
