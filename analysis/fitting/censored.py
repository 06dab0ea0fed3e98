"""Errors of a response that is known only by its bounds at some points: a time beyond the last evaluation.

The likelihood of a bounded value is the probability of its interval (Tobin 1958, Econometrica 26, 24); the standard
deviation is fitted together with the law. Dropping such values, or taking the bound for the value, biases the law.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from analysis.fitting.objectives import Objective, Terms, measured
from analysis.fitting.observations import Observations
from analysis.laws.base import Parameter
from analysis.stats.arrays import Array

ROOT = 0.5 * np.log(2 * np.pi)


@dataclass(frozen=True, kw_only=True)
class Censored(Objective):
    """Negative log-likelihood of normal errors, of the logarithm with `log`, where some values are only bounded."""

    log: bool = False

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return ("lognormal" if self.log else "gaussian") + ", censored"

    @property
    def own(self) -> Parameter:  # pyright: ignore[reportIncompatibleVariableOverride]
        return Parameter(
            name="sigma", low=0, high=float("inf"), log=True, unit="1" if self.log else "y", start=(0.03, 1),
            meaning="standard deviation of " + ("ln y" if self.log else "y"),
        )  # fmt: skip

    @property
    def relative(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.log

    def check(self, data: Observations) -> None:
        measured(data, self.name, 0.0 if self.log else -np.inf)

    def terms(self, value: Array, data: dict[str, Array], own: Array | None) -> Terms:
        assert own is not None
        low, high, sigma = data["low"], data["high"], own
        with np.errstate(all="ignore"):
            if self.log:
                value, low, high = np.log(value), np.log(np.maximum(low, 0.0)), np.log(high)
            exact = low == high
            seen = _seen((value - low) / sigma, sigma)
            hidden = _hidden((low - value) / sigma, (high - value) / sigma, sigma)
            loss, slope, second, own_slope, cross, own_second = (
                np.where(exact, a, b) for a, b in zip(seen, hidden, strict=True)
            )
            metric = np.maximum(second, 1e-6 / sigma**2)
            if self.log:
                inverse = np.exp(-value)
                second, metric = (second - slope) * inverse**2, metric * inverse**2
                slope, cross, loss = slope * inverse, cross * inverse, np.where(np.isnan(value), np.inf, loss)
        return Terms(
            loss=loss, slope=slope, curvature=second, metric=metric,
            own_slope=own_slope, own_cross=cross, own_curvature=own_second,
        )  # fmt: skip

    def rescaled(self, objective: Array, scale: float, data: dict[str, Array]) -> Array:
        """A density has the unit 1/y."""
        seen = (data["low"] == data["high"]) * data.get("weights", np.ones(1))
        return objective if self.log else objective + seen.sum(axis=-1) * np.log(scale)

    def log_likelihood(self, objective: Array, data: Observations) -> Array | None:
        assert data.y is not None
        seen = np.ones(data.n) if data.censored is None else ~data.censored
        return -np.asarray(objective) - (np.log(data.y) * seen).sum() * self.log


def _seen(residual: Array, sigma: Array) -> tuple[Array, ...]:
    """Loss, its derivative and second one in the value, in ln sigma, in both, and the second one in ln sigma."""
    square = residual**2
    return (
        ROOT + np.log(sigma) + 0.5 * square, residual / sigma, np.ones_like(residual) / sigma**2, 1 - square,
        -2 * residual / sigma, 2 * square,
    )  # fmt: skip


def _hidden(a: Array, b: Array, sigma: Array) -> tuple[Array, ...]:
    """The same of -ln(Phi(b) - Phi(a)), with tails by symmetry."""
    swap = a > 0
    lower, upper = np.where(swap, -b, a), np.where(swap, -a, b)
    top = special.log_ndtr(upper)
    log = top + np.log1p(-np.exp(special.log_ndtr(lower) - top))
    at_a = np.where(np.isfinite(a), np.exp(-0.5 * a**2 - ROOT - log), 0.0)
    at_b = np.where(np.isfinite(b), np.exp(-0.5 * b**2 - ROOT - log), 0.0)
    a, b = np.where(np.isfinite(a), a, 0.0), np.where(np.isfinite(b), b, 0.0)
    by_value, by_own = at_a - at_b, a * at_a - b * at_b
    return (
        -log, -by_value / sigma, (by_value**2 - by_own) / sigma**2, -by_own,
        (by_own * by_value - ((a**2 - 1) * at_a - (b**2 - 1) * at_b)) / sigma,
        by_own**2 - (b * (1 - b**2) * at_b - a * (1 - a**2) * at_a),
    )  # fmt: skip
