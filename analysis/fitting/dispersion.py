"""Whether counts scatter around a law as a binomial's do: more when rates vary between points, less when the same items
are asked at every point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis.fitting.grouping import grouped
from analysis.fitting.objectives import Binomial
from analysis.fitting.observations import Observations
from analysis.stats.arrays import Array

SURE, POSSIBLE = 0.01, 0.2
"""Probabilities of as much, or as little, scatter by chance below which it is told; and below which the beta-binomial
is fitted: with ten points of 100, where half of the scatter is not a binomial's, 0.01 covered 0.91 and 0.2 0.95."""
VARIANCE = 0.5
"""Expected variance of a count below which its square says little and the point is left out."""


@dataclass(frozen=True, kw_only=True)
class Dispersion:
    """Pearson's chi-square per degree of freedom; 1 on average for a binomial."""

    ratio: float
    left: int
    """Degrees of freedom."""
    more: float
    """Probability of as much or more by chance."""
    less: float
    groups: int = 0
    """Around as many curves, one of each group; 0: around one curve. The statistic is pooled over the groups, which are
    runs of one procedure: those of one run leave few degrees of freedom."""

    @property
    def over(self) -> bool:
        return self.more < SURE

    @property
    def possible(self) -> bool:
        return self.more < POSSIBLE

    @property
    def under(self) -> bool:
        return self.less < SURE

    @property
    def text(self) -> str:
        chance = min(self.more, self.less)
        shown = f"p = {chance:.2g}" if chance >= 1e-4 else "p < 1e-4"
        around = f" around their curves, over {self.groups} groups" if self.groups else ""
        return f"chi-square {self.ratio:.2g} per degree of freedom{around}, {shown}"


def summed(data: Observations) -> Observations:
    """Counts summed at equal inputs where every row is one trial; otherwise as they are."""
    assert data.hits is not None
    assert data.trials is not None
    if data.trials.max() > 1 or data.weights is not None:
        return data
    found = grouped(Binomial(), data.x, {"hits": data.hits, "trials": data.trials})
    return Observations(x=found.x, **found.arrays)


def dispersion(data: Observations, rate: Array, parameters: int, groups: int = 0) -> Dispersion | None:
    """Of counts (n,) around expected rates, by Pearson's chi-square against its own law: a scaled chi-square with the
    mean and the variance that binomial counts give it. None without a degree of freedom."""
    assert data.hits is not None
    assert data.trials is not None
    variance = data.trials * rate * (1 - rate)
    used = (variance >= VARIANCE) & (np.ones(data.n) if data.weights is None else data.weights > 0).astype(bool)
    left = int(used.sum()) - parameters
    if left < 1:
        return None
    variance, rate = variance[used], rate[used]
    total = float(((data.hits[used] - data.trials[used] * rate) ** 2 / variance).sum())
    spread = float((2 + (1 - 6 * rate * (1 - rate)) / variance).sum()) * left / used.sum()
    scale, freedom = spread / (2 * left), 2 * left**2 / spread
    return Dispersion(
        ratio=total / left, left=left, more=float(stats.chi2.sf(total / scale, freedom)),
        less=float(stats.chi2.cdf(total / scale, freedom)), groups=groups,
    )  # fmt: skip
