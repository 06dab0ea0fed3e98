"""The results of a fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analysis.errors import UserError
from analysis.fitting.dispersion import Dispersion
from analysis.fitting.misfit import Runs
from analysis.fitting.objectives import Objective
from analysis.fitting.observations import Observations
from analysis.laws.base import Law
from analysis.stats.arrays import Array

POOLED = "one fit to all points"
ABOUT = ("units", "data", "model", POOLED, "intervals")
"""What a warning is about, in the order in which warnings are told."""


class Warned(str):
    """A warning in one line, with what it is about."""

    __slots__ = ("about",)

    def __new__(cls, text: str, about: str) -> Warned:
        made = super().__new__(cls, text)
        made.about = about
        return made


def in_order(warnings: Iterable[str]) -> list[str]:
    """By what they are about; those that do not say are about the data."""
    return sorted(warnings, key=lambda line: ABOUT.index(line.about if isinstance(line, Warned) else "data"))


@dataclass(frozen=True, kw_only=True)
class FitBatch:
    """R fits of one law, solved together (replicates, profiles, held-out parts)."""

    law: Law
    theta: Array
    """(R, P), natural scale."""
    objective: Array
    """(R,), minimised: summed loss or negative log-likelihood."""
    own: Array | None = None
    """(R,), the objective's own parameter (beta-binomial: concentration)."""
    gradient_norm: Array
    """(R,), largest projected derivative on the solved scale."""
    starts_at_optimum: Array
    """(R,), share of each replicate's starts that reached its best objective."""

    @property
    def half_life(self) -> Array | None:
        """(R,); inf if never reached; None if the law has none."""
        return self.law.half_life(self.theta)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The best fit of one law to one set of observations."""

    law: Law
    observations: Observations
    theta: Array
    """(P,), natural scale."""
    objective: float
    """Minimised: summed Huber loss, negative log-likelihood, or half the summed squares."""
    error: Objective
    own: float | None = None
    """The objective's own parameter (beta-binomial: concentration)."""
    log_likelihood: float | None
    """None for a loss that is not a likelihood (Huber)."""
    extra: int
    """Error parameters besides the law's (a variance, a dispersion): they count in AICc."""
    gradient_norm: float
    covariance: Array | None
    """(P, P) on the solved scale (logarithms for log parameters); None if the Hessian is singular."""
    starts: int
    starts_at_optimum: float
    """Share of the starts that reached the best objective."""
    optima: tuple[tuple[float, Array], ...]
    """Distinct local optima, best first: (objective, theta)."""
    warnings: tuple[str, ...]
    dispersion: Dispersion | None = None
    """Of counts around a binomial's law: whether they scatter more or less."""
    misfit: Runs | None = None
    """Runs of residuals around the curve, or around each group's own."""
    fixed: Mapping[str, float] = field(default_factory=dict)
    """Parameters that were held, by name."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Of the table that was fitted, by what they are here: an input of the law, "y", "rate", "group"."""
    derived: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Cache of results computed from this fit."""

    @property
    def parameters(self) -> dict[str, float]:
        return dict(zip(self.law.names, self.theta.tolist(), strict=True))

    @property
    def half_life(self) -> float | None:
        """Of this one fit to all points: inf if never reached; None if the law has none."""
        found = self.law.half_life(self.theta)
        return None if found is None else float(found)

    def predict(self, x: Array) -> Array:
        """The law's values (m,) at x (m, inputs), or (m,) of one input. Raises UserError on other shapes."""
        x = np.asarray(x, dtype=float)
        x = x[:, None] if x.ndim == 1 and len(self.law.inputs) == 1 else x
        if x.ndim != 2 or x.shape[1] != len(self.law.inputs):
            wanted = ", ".join(self.law.inputs)
            raise UserError(f"x has shape {x.shape}; expected one row a point with a column for each of {wanted}")
        return self.law.value(self.theta, x)

    @property
    def aicc(self) -> float | None:
        """Akaike's criterion with the small-sample term (Hurvich and Tsai 1989); inf with too few points; None for a
        loss that is not a likelihood."""
        if self.log_likelihood is None:
            return None
        count = len(self.law.parameters) - len(self.fixed) + self.extra
        left = self.observations.n - count - 1
        return 2 * count - 2 * self.log_likelihood + (2 * count * (count + 1) / left if left > 0 else float("inf"))
