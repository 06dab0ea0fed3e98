"""A law, an objective and observations as one function of many parameter vectors, for any number of replicates."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from analysis.errors import UserError
from analysis.fitting.objectives import Objective
from analysis.fitting.observations import Observations
from analysis.laws.base import Law
from analysis.stats.arrays import Array

CHUNK = 16_384
"""Values per temporary array, so that it stays in a core's cache."""
np.empty(31 * 2**20, dtype=np.uint8)
"""Freed at once and never touched, this makes glibc serve the temporaries below from its heap, up to blocks of this
size, and return heap to the system only above twice that; otherwise each would be faulted in anew, at three times the
cost of the arithmetic. No effect on other C libraries."""


class Problem:
    """Objective, gradient, Hessian and metric at z (b, Q): the law's P parameters, as logarithms if the law says so,
    and the objective's own parameter if it has one. Replicates share x; each may have its own weights, y or hits.
    """

    def __init__(
        self, law: Law, objective: Objective, data: Observations, *, weights: Array | None = None,
        y: Array | None = None, hits: Array | None = None, trials: Array | None = None,
        fixed: Mapping[str, Array | float] | None = None,
    ) -> None:  # fmt: skip
        objective.check(data)
        self.law, self.objective, self.x = law, objective, data.x
        given = {"weights": weights, "y": y, "hits": hits, "trials": trials}
        self.arrays: dict[str, Array] = {}
        sizes = set()
        for name, own in given.items():
            values = getattr(data, name) if own is None else np.asarray(own, dtype=float)
            if values is None:
                continue
            if own is not None:
                if values.ndim != 2 or values.shape[1] != data.n:
                    raise UserError(f"{name} of replicates has shape {values.shape}; expected (replicates, {data.n})")
                sizes.add(values.shape[0])
            self.arrays[name] = values
        if "y" in self.arrays and (self.arrays["y"] > 0).all():
            self.arrays["log_y"] = np.log(self.arrays["y"])
        parameters = law.parameters + ((objective.own,) if objective.own else ())
        self.names = tuple(p.name for p in parameters)
        self.log = np.array([p.log for p in parameters])
        bounds = np.array([[p.low for p in parameters], [p.high for p in parameters]], dtype=float)
        bounds[:, self.log] = np.log(bounds[:, self.log])
        size = float(np.abs(data.response[np.isfinite(data.response)]).max(initial=0.0)) or 1.0
        self.scale = np.array([size if p.unit == "y" and not p.log else 1.0 for p in parameters])
        """The scale of a sizeable change of each parameter."""
        fixed = fixed or {}
        if unknown := set(fixed) - set(self.names):
            raise UserError(f"{law.name} has no parameter {', '.join(sorted(unknown))}; it has {', '.join(self.names)}")
        sizes |= {np.size(value) for value in fixed.values() if np.ndim(value)}
        if len(sizes) > 1:
            raise UserError(f"the arrays have different numbers of replicates: {sorted(sizes)}")
        self.replicates = sizes.pop() if sizes else 1
        self.low, self.high = (np.tile(b, (self.replicates, 1)) for b in bounds)
        for name, value in fixed.items():
            at = self.names.index(name)
            held = np.log(value) if self.log[at] else np.asarray(value, dtype=float)
            self.low[:, at] = self.high[:, at] = held

    def natural(self, z: Array) -> Array:
        """Parameters on the law's own scale, (..., Q)."""
        return np.where(self.log, np.exp(np.where(self.log, z, 0.0)), z)

    def solved(self, theta: Array) -> Array:
        """The inverse: logarithms for log parameters. Values at or below 0 become the bound."""
        with np.errstate(divide="ignore", invalid="ignore"):
            z = np.where(self.log, np.log(np.where(self.log, theta, 1.0)), theta)
        return np.clip(np.nan_to_num(z, nan=0.0, neginf=-1e300, posinf=1e300), self.low[0], self.high[0])

    def evaluate(self, z: Array, replicates: NDArray[np.intp]) -> tuple[Array, Array, Array, Array]:
        """Objective (b,), gradient (b, Q), Hessian (or its positive approximation) and metric (b, Q, Q)."""
        count, size = z.shape
        out = np.empty(count), np.empty((count, size)), np.empty((count, size, size)), np.empty((count, size, size))
        length = max(1, CHUNK // self.x.shape[0])
        with np.errstate(all="ignore"):
            for start in range(0, count, length):
                part = slice(start, start + length)
                self._evaluate(z[part], replicates[part], *(a[part] for a in out))
        return out

    def _evaluate(self, z: Array, replicates: NDArray[np.intp], f: Array, g: Array, h: Array, m: Array) -> None:
        theta, law, size = self.natural(z), self.law, len(self.law.parameters)
        data = {name: a if a.ndim == 1 else a[replicates] for name, a in self.arrays.items()}
        value, columns, second = law.evaluate(theta[:, :size], self.x)
        value = np.broadcast_to(value, (z.shape[0], self.x.shape[0]))
        terms = self.objective.terms(value, data, theta[:, size:] if self.objective.own else None)
        weights = data.get("weights")
        loss, slope, curvature, metric = (
            part if weights is None else part * weights
            for part in (terms.loss, terms.slope, terms.curvature, terms.metric)
        )
        np.sum(loss, axis=1, out=f)
        f[~np.isfinite(f)] = np.inf
        jacobian = np.empty((z.shape[0], size, self.x.shape[0]))
        for i, column in enumerate(columns):
            jacobian[:, i] = column * theta[:, i, None] if self.log[i] else column
        law_part = slice(0, size)
        g[:, law_part] = np.matmul(jacobian, slope[:, :, None])[:, :, 0]
        across = jacobian.transpose(0, 2, 1)
        m.fill(0.0)
        m[:, law_part, law_part] = np.matmul(jacobian * metric[:, None, :], across)
        h.fill(0.0)
        if second is None:
            # Gauss-Newton (Fisher scoring for counts): without the law's curvature only a positive matrix is safe.
            h[:, law_part, law_part] = m[:, law_part, law_part]
        else:
            h[:, law_part, law_part] = np.matmul(jacobian * curvature[:, None, :], across)
            self._add_curvature(h, g, theta, slope, second)
        if terms.own_slope is not None and terms.own_cross is not None and terms.own_curvature is not None:
            w = 1.0 if weights is None else weights
            g[:, size] = (terms.own_slope * w).sum(axis=1)
            h[:, size, size] = (terms.own_curvature * w).sum(axis=1)
            m[:, size, size] = np.abs(h[:, size, size])
            cross = np.matmul(jacobian, (terms.own_cross * w)[:, :, None])[:, :, 0]
            h[:, law_part, size] = h[:, size, law_part] = cross

    def _add_curvature(self, h: Array, g: Array, theta: Array, slope: Array, second: dict) -> None:
        scale = [theta[:, i] if self.log[i] else np.ones(theta.shape[0]) for i in range(len(self.law.parameters))]
        for (i, j), part in second.items():
            term = (part * slope).sum(axis=1) * scale[i] * scale[j]
            h[:, i, j] += term
            if i != j:
                h[:, j, i] += term
        for i in np.flatnonzero(self.log[: len(scale)]):
            h[:, i, i] += g[:, i]  # d2/d(ln p)2 = p2 d2/dp2 + p d/dp

    def newton(self, z: Array, replicates: NDArray[np.intp]) -> tuple[Array, Array, Array, Array]:
        """Like `evaluate`, with the exact Hessian, from central differences of the exact gradient."""
        f, g, _, m = self.evaluate(z, replicates)
        return f, g, self.hessian(z, replicates), m

    def hessian(self, z: Array, replicates: NDArray[np.intp]) -> Array:
        """Second derivatives of the objective on the solved scale, (b, Q, Q)."""
        count, size = z.shape
        step = 1e-5 * np.maximum(1e-2 * self.scale, np.abs(z))
        moves = np.eye(size)[None] * step[:, :, None]
        both = np.concatenate([z[:, None] + moves, z[:, None] - moves], axis=1).reshape(-1, size)
        gradient = self.evaluate(both, np.repeat(replicates, 2 * size))[1].reshape(count, 2, size, size)
        with np.errstate(invalid="ignore"):
            h = (gradient[:, 0] - gradient[:, 1]) / (2 * step[:, :, None])
        return (h + h.transpose(0, 2, 1)) / 2

    def scores(self, z: Array) -> Array:
        """Derivatives of each point's loss with respect to the law's parameters at z (Q,), (n, P)."""
        size = len(self.law.parameters)
        theta = self.natural(z)
        jacobian = self.law.gradient(theta[:size], self.x) * np.where(self.log[:size], theta[:size], 1.0)
        own = theta[None, size:] if self.objective.own else None
        terms = self.objective.terms(self.law.value(theta[None, :size], self.x), self.arrays, own)
        return jacobian * (terms.slope[0] * self.arrays.get("weights", np.ones(1)))[:, None]
