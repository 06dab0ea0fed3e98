"""Whether residuals come in runs of one sign along the clock, as where a law misses the curve's shape: no scatter.

Given how many residuals are positive and how many negative, every order is as likely where the law is right, and the
number of runs has an exact distribution, also for few points (Wald and Wolfowitz 1940, Annals of Mathematical
Statistics 11, 147); runs of several groups add up. Fitted parameters leave residuals of alternating rather than equal
signs, so that few runs are rarer by chance than the test takes them to be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from analysis.fitting.dispersion import VARIANCE
from analysis.fitting.observations import Observations
from analysis.stats.arrays import Array

SURE = 0.05
"""Probability of as few runs by chance below which it is told: of fits of the right law, at most 0.02 were below it."""
TINY = 1e-9
"""Residuals, as shares of the largest value, that are rounding."""
EXACT = 400
"""Signs of a group up to which the distribution is exact; beyond it is normal."""


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Runs of residuals of one sign along the first input, over all groups."""

    count: int
    expected: float
    points: int
    chance: float
    """Probability of as few or fewer, if the order of signs is by chance."""

    @property
    def few(self) -> bool:
        return self.chance < SURE

    @property
    def text(self) -> str:
        shown = f"p = {self.chance:.2g}" if self.chance >= 1e-4 else "p < 1e-4"
        return f"{self.count} runs of one sign in {self.points} residuals, by chance {self.expected:.3g}, {shown}"


def distribution(positive: int, negative: int) -> Array:
    """Probabilities of 0, 1, 2, ... runs of so many signs in random order."""
    count = positive + negative
    found = np.zeros(count + 1)
    if not positive or not negative:
        found[min(count, 1)] = 1.0
        return found
    half = np.arange(1, min(positive, negative) + 1)

    def log(n: int, k: NDArray[Any]) -> Array:
        with np.errstate(invalid="ignore"):
            each = special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1)
        return np.where(k <= n, each, -np.inf)

    whole = log(count, np.array(positive))
    even = log(positive - 1, half - 1) + log(negative - 1, half - 1) + np.log(2)
    odd = np.logaddexp(log(positive - 1, half) + log(negative - 1, half - 1),
                       log(positive - 1, half - 1) + log(negative - 1, half))  # fmt: skip
    found[2 * half] = np.exp(even - whole)
    inside = 2 * half + 1 <= count
    found[(2 * half + 1)[inside]] = np.exp(odd - whole)[inside]
    return found


def runs(signs: list[Array]) -> Runs:
    """Of the signs (-1 or 1) of each group in their order."""
    count, points, mean, variance, exact = 0, 0, 0.0, 0.0, np.ones(1)
    for each in signs:
        positive, negative, n = int((each > 0).sum()), int((each < 0).sum()), each.size
        count, points = count + 1 + int((each[1:] != each[:-1]).sum()), points + n
        product = 2.0 * positive * negative
        mean += product / n + 1
        variance += product * (product - n) / (n**2 * max(n - 1, 1))
        exact = np.convolve(exact, distribution(positive, negative)) if points <= EXACT else exact
    if points <= EXACT:
        chance = float(exact[: count + 1].sum())
    else:
        chance = float(stats.norm.cdf((count + 0.5 - mean) / np.sqrt(max(variance, 1e-300))))
    return Runs(count=count, expected=mean, points=points, chance=chance)


def residual_runs(data: Observations, value: Array, chance: float = 0.0) -> Runs | None:
    """Of a response around a law's values (n,), in each group along the one input; rows at one x count once, counts
    only where a normal variable is like them. None with more inputs, bounds in place of values, or no residuals."""
    if data.x.shape[1] != 1 or data.censored is not None:
        return None
    used = np.ones(data.n, dtype=bool) if data.weights is None else data.weights > 0
    if data.hits is not None and data.trials is not None:
        rate = chance + (1 - chance) * np.clip(value, 0.0, 1.0)
        residual, used = data.hits - data.trials * rate, used & (data.trials * rate * (1 - rate) >= VARIANCE)
    else:
        residual = data.response - value
    used &= np.isfinite(residual)
    size = np.abs(value[used]).max(initial=0.0) * (1.0 if data.trials is None else data.trials.max())
    groups = np.zeros(data.n) if data.group is None else np.unique(data.group, return_inverse=True)[1]
    signs = []
    for group in np.unique(groups[used]):
        _, place = np.unique(data.x[used & (groups == group), 0], return_inverse=True)
        sums = np.bincount(place, residual[used & (groups == group)])
        signs.append(np.sign(sums[np.abs(sums) > TINY * size]))
    signs = [each for each in signs if each.size]
    return runs(signs) if signs else None
