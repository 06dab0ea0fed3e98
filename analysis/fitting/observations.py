"""The data of a fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.errors import UserError
from analysis.stats.arrays import Array


@dataclass(frozen=True, kw_only=True)
class Observations:
    """n points: inputs x (n, inputs) and either a response y or counts hits of trials, each (n,).

    `group` (n,) names the cluster (seed) of each point. `weights` (n,) multiply each point's loss: for a Gaussian, the
    inverse squares of standard errors, up to a factor. `low` and `high` (n,) bound a response that was not seen, and
    equal y where it was: a time beyond the last evaluation has that as `low`, and `high` is inf. y is then the bound
    that is finite. Raises UserError on NaN, negative counts, hits above trials, or lengths that differ.
    """

    x: Array
    y: Array | None = None
    hits: Array | None = None
    trials: Array | None = None
    group: NDArray[np.generic] | None = None
    weights: Array | None = None
    low: Array | None = None
    high: Array | None = None

    def __post_init__(self) -> None:
        x = np.asarray(self.x, dtype=float)
        object.__setattr__(self, "x", x[:, None] if x.ndim == 1 else x)
        self._take_bounds()
        if (self.y is None) == (self.hits is None) or (self.hits is None) != (self.trials is None):
            raise UserError("observations need either y, or both hits and trials")
        for name in ("y", "hits", "trials", "weights", "low", "high"):
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
                raise UserError(f"hits are above trials at {over} of {self.n} points; expected at most trials")
        if self.weights is not None and (self.weights < 0).any():
            raise UserError("weights are negative; they are 0 or more")

    def _take_bounds(self) -> None:
        if self.low is None and self.high is None:
            return
        if self.hits is not None:
            raise UserError("counts cannot be censored: bounds are for a response y")
        low, high = (self.y if end is None else end for end in (self.low, self.high))
        if low is None or high is None:
            raise UserError("one bound is missing: pass low and high, or one of them and y")
        low, high = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
        if low.shape != high.shape or not (low <= high).all():
            raise UserError(f"low is above high, or missing, at {int((~(low <= high)).sum())} of {low.size} points")
        if (unknown := np.isinf(low) & np.isinf(high)).any():
            raise UserError(f"{int(unknown.sum())} of {low.size} values have no bound at all: leave them out")
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)
        object.__setattr__(self, "y", np.where(np.isfinite(low), low, high))

    @property
    def censored(self) -> NDArray[np.bool_] | None:
        """Which responses are known by their bounds alone, (n,); None if all were seen."""
        found = None if self.low is None or self.high is None else self.low < self.high
        return found if found is not None and found.any() else None

    @property
    def n(self) -> int:
        return self.x.shape[0]

    @property
    def response(self) -> Array:
        """y, or the rate of hits (NaN without trials)."""
        if self.y is not None:
            return self.y
        assert self.hits is not None
        assert self.trials is not None
        return np.divide(self.hits, self.trials, out=np.full(self.n, np.nan), where=self.trials > 0)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.integer]) -> Observations:
        """The points at `rows`."""
        parts = {name: getattr(self, name) for name in ("y", "hits", "trials", "group", "weights", "low", "high")}
        return Observations(x=self.x[rows], **{k: None if v is None else v[rows] for k, v in parts.items()})
