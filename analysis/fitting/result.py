"""What goes into a fit and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from analysis.errors import UserError
from analysis.laws.base import Array, Law

if TYPE_CHECKING:
    from analysis.fitting.objectives import Objective


@dataclass(frozen=True, kw_only=True)
class Observations:
    """n points: inputs x (n, inputs) and either a response y or counts hits of trials, each (n,).

    `group` (n,) names the cluster (seed) of each point. `weights` (n,) multiply each point's loss.
    Raises UserError on NaN, negative counts, hits above trials, or lengths that differ.
    """

    x: Array
    y: Array | None = None
    hits: Array | None = None
    trials: Array | None = None
    group: NDArray[np.generic] | None = None
    weights: Array | None = None

    def __post_init__(self) -> None:
        x = np.asarray(self.x, dtype=float)
        object.__setattr__(self, "x", x[:, None] if x.ndim == 1 else x)
        if (self.y is None) == (self.hits is None) or (self.hits is None) != (self.trials is None):
            raise UserError("observations need either y, or both hits and trials")
        for name in ("y", "hits", "trials", "weights"):
            if (values := getattr(self, name)) is not None:
                values = np.asarray(values, dtype=float)
                object.__setattr__(self, name, values)
                if values.shape != (self.n,):
                    raise UserError(f"{name} has shape {values.shape}; expected ({self.n},) like x")
        for name in ("x", "y", "hits", "trials", "weights"):
            values = getattr(self, name)
            if values is not None and not np.isfinite(values).all():
                raise UserError(f"{name} has {int((~np.isfinite(values)).sum())} values that are NaN or infinite")
        if self.hits is not None and self.trials is not None:
            if (self.hits < 0).any() or (self.trials < 0).any():
                raise UserError("counts are negative; hits and trials are 0 or more")
            if (over := int((self.hits > self.trials).sum())) > 0:
                raise UserError(f"hits are above trials at {over} of {self.n} points; a count of successes cannot be")
        if self.weights is not None and (self.weights < 0).any():
            raise UserError("weights are negative; they are 0 or more")

    @property
    def n(self) -> int:
        return self.x.shape[0]

    @property
    def response(self) -> Array:
        """y, or the rate of hits (nan where there were no trials)."""
        if self.y is not None:
            return self.y
        assert self.hits is not None
        assert self.trials is not None
        return np.divide(self.hits, self.trials, out=np.full(self.n, np.nan), where=self.trials > 0)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.integer]) -> Observations:
        """The points at `rows`."""
        parts = {name: getattr(self, name) for name in ("y", "hits", "trials", "group", "weights")}
        return Observations(x=self.x[rows], **{k: None if v is None else v[rows] for k, v in parts.items()})


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
        """(R,); inf where never; None for a law without."""
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
    """None for a loss that is no likelihood (Huber)."""
    extra: int
    """Parameters of the error beside the law's (a variance, a dispersion): they count in AICc."""
    gradient_norm: float
    covariance: Array | None
    """(P, P) on the solved scale (logarithms where the law says so); None where the Hessian is singular."""
    starts: int
    starts_at_optimum: float
    """Share of the starts that reached the best objective."""
    optima: tuple[tuple[float, Array], ...]
    """Distinct local optima, best first: (objective, theta)."""
    warnings: tuple[str, ...]
    derived: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What was computed from this fit once and is asked for again."""

    @property
    def parameters(self) -> dict[str, float]:
        return dict(zip(self.law.names, self.theta.tolist(), strict=True))

    @property
    def half_life(self) -> float | None:
        """inf where never; None for a law without."""
        found = self.law.half_life(self.theta)
        return None if found is None else float(found)

    def predict(self, x: Array) -> Array:
        """Values at x (m, inputs), (m,)."""
        return self.law.value(self.theta, np.asarray(x, dtype=float))

    @property
    def aicc(self) -> float | None:
        """Akaike's criterion with the small-sample term (Hurvich and Tsai 1989); inf where there are too few points;
        None for a loss that is no likelihood."""
        if self.log_likelihood is None:
            return None
        count = len(self.law.parameters) + self.extra
        left = self.observations.n - count - 1
        return 2 * count - 2 * self.log_likelihood + (2 * count * (count + 1) / left if left > 0 else float("inf"))
