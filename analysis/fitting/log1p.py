"""Errors that are normal in ln(1 + y): for responses of 0 or more, such as counts, steps or rises of a loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.errors import UserError
from analysis.fitting.objectives import Objective, Terms
from analysis.fitting.observations import Observations
from analysis.stats.arrays import Array


@dataclass(frozen=True, kw_only=True)
class Log1p(Objective):
    """Half the summed squares of ln(1 + value) - ln(1 + y); the variance is profiled out.

    Relative for large y, absolute near 0, where a logarithm would not exist. The unit of y matters: 1 of it divides
    small from large.
    """

    name: str = "log1p"
    profiled: int = 1
    unit: str = "1"

    def check(self, data: Observations) -> None:
        if data.y is None:
            raise UserError("log1p is for a response: pass y, not hits and trials, nor bounds")
        if (data.y <= -1).any():
            raise UserError("log1p errors need y above -1")

    def terms(self, value: Array, data: dict[str, Array], own: Array | None) -> Terms:
        with np.errstate(all="ignore"):
            residual = np.log1p(value) - np.log1p(data["y"])
            inverse = 1 / (1 + value)
        loss = np.where(value > -1, 0.5 * residual * residual, np.inf)
        square = inverse * inverse
        return Terms(loss=loss, slope=residual * inverse, curvature=(1 - residual) * square, metric=square)

    def log_likelihood(self, objective: Array, data: Observations) -> Array | None:
        """Of y, with the maximum-likelihood variance."""
        weights = np.ones(data.n) if data.weights is None else data.weights
        variance = np.maximum(2 * np.asarray(objective) / weights.sum(), np.finfo(float).tiny)
        jacobian = 0.0 if data.y is None else (np.log1p(data.y) * weights).sum()
        return -0.5 * weights.sum() * (np.log(2 * np.pi * variance) + 1) - jacobian
