"""A law, an objective and observations as one function of many parameter vectors, for any number of replicates."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy

import numpy as np
from numpy.typing import NDArray

from analysis.errors import UserError
from analysis.fitting.grouping import grouped
from analysis.fitting.objectives import Objective
from analysis.fitting.observations import Observations
from analysis.fitting.units import rescaling, scalable
from analysis.laws.base import Law, Parameter
from analysis.laws.units import shifts
from analysis.stats.arrays import Array

CHUNK = 16_384
"""Values per temporary array, so that it stays in a core's cache."""
STREAM = 65_536
"""The same for one vector of parameters over many points."""
WALL = 1e8
"""Per trial, the curvature of the parabola outside: a sum exceeds 1 by some 1e-8."""
WIDEST_LOG, WIDEST = 46.0, 1e12
"""Where the law sets no bound: a factor of 1e20 either way, or this many times the data's scale."""
np.empty(31 * 2**20, dtype=np.uint8)
"""Freed at once and never touched, this makes glibc serve the temporaries below from its heap, up to blocks of this
size, and return heap to the system only above twice that; otherwise each would be faulted in anew, at three times the
cost of the arithmetic. No effect on other C libraries."""


class Problem:
    """Objective, gradient, Hessian and metric at z (b, Q): the law's P parameters, as logarithms if the law says so,
    and the objective's own parameter if it has one. Replicates share x; each may have its own weights, y or hits.

    Solved in units of the data's own size (`scales`, by input and "y") where the law allows it, and on grouped points
    where the objective does: z and the objective are in these units, `natural` and `total` go back.
    """

    def __init__(
        self, law: Law, objective: Objective, data: Observations, *, weights: Array | None = None,
        y: Array | None = None, hits: Array | None = None, trials: Array | None = None,
        fixed: Mapping[str, Array | float] | None = None,
    ) -> None:  # fmt: skip
        objective.check(data)
        law = law if data.hits is None else law.of_counts
        self.law, self.objective = law, objective
        sums = [level.split(" + ") for level in law.levels if " + " in level and data.hits is not None]
        self.sums = np.array([[float(name in level) for name in law.names] for level in sums])
        """Sums of parameters that are rates, (sums, P), and how steeply the objective rises where they leave [0, 1]."""
        self.wall = 0.0 if data.trials is None else WALL * max(float(data.trials.sum()), 1.0)
        parameters = law.parameters + ((objective.own,) if objective.own else ())
        self.names = tuple(p.name for p in parameters)
        self.log = np.array([p.log for p in parameters])
        fixed = fixed or {}
        if unknown := set(fixed) - set(self.names):
            raise UserError(f"{law.name} has no parameter {', '.join(sorted(unknown))}; it has {', '.join(self.names)}")
        self.scales = _scales(law, objective, data, fixed)
        given = {"weights": weights, "y": y, "hits": hits, "trials": trials}
        arrays: dict[str, Array] = {}
        sizes = {np.size(value) for value in fixed.values() if np.ndim(value)}
        for name, own in given.items():
            values = getattr(data, name) if own is None else np.asarray(own, dtype=float)
            if values is None:
                continue
            if own is not None:
                if values.ndim != 2 or values.shape[1] != data.n:
                    raise UserError(f"{name} of replicates has shape {values.shape}; expected (replicates, {data.n})")
                sizes.add(values.shape[0])
            arrays[name] = values
        if len(sizes) > 1:
            raise UserError(f"the arrays have different numbers of replicates: {sorted(sizes)}")
        self.replicates = sizes.pop() if sizes else 1
        self.points = np.asarray((arrays["weights"] > 0).sum(axis=-1) if "weights" in arrays else data.n, dtype=float)
        """Number of points that count, () or (R,)."""
        arrays |= {name: end for name in ("low", "high") if (end := getattr(data, name)) is not None}
        found = grouped(objective, data.x, in_units(objective, arrays, self.scales.get("y", 1.0)))
        self.x = found.x / np.array([self.scales.get(name, 1.0) for name in law.inputs])
        self.arrays, self.constant, self.squares = found.arrays, found.constant, found.squares
        matrix, offset = rescaling(law, self.scales)
        size = len(parameters)
        self.matrix, self.offset = np.eye(size), np.zeros(size)
        """z' of the data as they are = matrix z + offset."""
        self.matrix[: len(matrix), : len(matrix)], self.offset[: len(matrix)] = matrix, offset
        if objective.own is not None and objective.own.unit == "y":
            self.offset[-1] = np.log(self.scales.get("y", 1.0))
        self.back = np.linalg.inv(self.matrix)
        self.scale = np.array([self._size() if p.unit == "y" and not p.log else 1.0 for p in parameters])
        """The scale of a sizeable change of each parameter."""
        bounds = np.stack([self._bounds(i, p) for i, p in enumerate(parameters)], axis=1)
        self.low, self.high = (np.tile(b, (self.replicates, 1)) for b in bounds)
        for name, value in fixed.items():
            at = self.names.index(name)
            held = np.log(value) if self.log[at] else np.asarray(value, dtype=float)
            self.low[:, at] = self.high[:, at] = (held - self.offset[at]) / self.matrix[at, at]

    def _size(self) -> float:
        y = self.arrays["y"] if "y" in self.arrays else np.ones(1)
        return float(np.abs(y[np.isfinite(y)]).max(initial=0.0)) or 1.0

    def _bounds(self, i: int, parameter: Parameter) -> Array:
        """Low and high on the solved scale. Those of a parameter with a shift hold at the data's own scale."""
        with np.errstate(divide="ignore"):
            ends = (
                np.log([parameter.low, parameter.high]) if parameter.log else np.array([parameter.low, parameter.high])
            )
        if not parameter.shift:
            ends = (ends - self.offset[i]) / self.matrix[i, i]
        widest = WIDEST_LOG if parameter.log else WIDEST * self.scale[i]
        return np.where(np.isfinite(ends), ends, np.sign(ends) * widest)

    def observations(self) -> Observations:
        """The grouped points in these units, of the first replicate."""
        first = {name: a if a.ndim == 1 else a[0] for name, a in self.arrays.items() if name != "log_y"}
        return Observations(x=self.x, **first)

    def part(self, rows: NDArray[np.intp]) -> Problem:
        """The same problem on some of its points."""
        found = copy(self)
        found.x, found.squares, found.constant = self.x[rows], self.squares[rows], np.zeros(())
        found.arrays = {name: a[..., rows] for name, a in self.arrays.items()}
        return found

    def some(self, count: int, seed: int = 0) -> Problem:
        """The same problem on `count` of its points, drawn at random; itself if it has no more."""
        size = self.x.shape[0]
        return self if size <= count else self.part(np.sort(np.random.default_rng(seed).permutation(size)[:count]))

    def total(self, objective: Array) -> Array:
        """The objective of the data as they are."""
        return self.objective.rescaled(objective, self.scales.get("y", 1.0), self.arrays)

    def inner(self, z: Array) -> Array:
        """Parameters in these units, (..., Q)."""
        return np.where(self.log, np.exp(np.where(self.log, z, 0.0)), z)

    def natural(self, z: Array) -> Array:
        """Parameters of the data as they are, on the law's own scale, (..., Q)."""
        with np.errstate(over="ignore"):
            return self.inner(z @ self.matrix.T + self.offset)

    def solved(self, theta: Array) -> Array:
        """The inverse: logarithms for log parameters. Values at or below 0 become the bound."""
        return np.clip((_solved(theta, self.log) - self.offset) @ self.back.T, self.low[0], self.high[0])

    def started(self, theta: Array) -> Array:
        """z of parameters that are in these units."""
        return np.clip(_solved(theta, self.log), self.low[0], self.high[0])

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
        """Adds up over parts of the points, so that temporaries stay in a core's cache for any number of points."""
        constant = self.constant if self.constant.ndim == 0 else self.constant[replicates]
        f[:], g[:], h[:], m[:] = constant, 0.0, 0.0, 0.0
        theta = self.inner(z)
        length = max(1, STREAM // z.shape[0])
        exact = False
        for start in range(0, self.x.shape[0], length):
            exact = self._add(theta, replicates, slice(start, start + length), f, g, h, m)
        for row in self.sums:
            of = np.concatenate([row, np.zeros(z.shape[1] - row.size)])
            beyond = z @ of - np.clip(z @ of, 0.0, 1.0)
            f += 0.5 * self.wall * beyond**2
            g += self.wall * beyond[:, None] * of
            for matrix in (h, m):
                matrix += self.wall * (beyond != 0)[:, None, None] * np.outer(of, of)
        f[~np.isfinite(f)] = np.inf
        if exact:
            for i in np.flatnonzero(self.log[: len(self.law.parameters)]):
                h[:, i, i] += g[:, i]  # d2/d(ln p)2 = p2 d2/dp2 + p d/dp

    def _add(
        self, theta: Array, replicates: NDArray[np.intp], part: slice, f: Array, g: Array, h: Array, m: Array
    ) -> bool:
        """Whether the Hessian includes the law's second derivatives."""
        law, size, x = self.law, len(self.law.parameters), self.x[part]
        data = {name: a[part] if a.ndim == 1 else a[replicates, part] for name, a in self.arrays.items()}
        value, columns, second = law.evaluate(theta[:, :size], x)
        value = np.broadcast_to(value, (theta.shape[0], x.shape[0]))
        terms = self.objective.terms(value, data, theta[:, size:] if self.objective.own else None)
        weights = data.get("weights")
        loss, slope, curvature, metric = (
            part if weights is None else part * weights
            for part in (terms.loss, terms.slope, terms.curvature, terms.metric)
        )
        if weights is not None:
            loss = np.where(weights > 0, loss, 0.0)
        f += loss.sum(axis=1)
        jacobian = np.empty((theta.shape[0], size, x.shape[0]))
        for i, column in enumerate(columns):
            jacobian[:, i] = column * theta[:, i, None] if self.log[i] else column
        law_part = slice(0, size)
        g[:, law_part] += np.matmul(jacobian, slope[:, :, None])[:, :, 0]
        across = jacobian.transpose(0, 2, 1)
        weighed = np.matmul(jacobian * metric[:, None, :], across)
        m[:, law_part, law_part] += weighed
        if second is None:
            # Gauss-Newton (Fisher scoring for counts): without the law's curvature only a positive matrix is safe.
            h[:, law_part, law_part] += weighed
        else:
            h[:, law_part, law_part] += np.matmul(jacobian * curvature[:, None, :], across)
            self._add_curvature(h, theta, slope, second)
        if terms.own_slope is not None and terms.own_cross is not None and terms.own_curvature is not None:
            w = 1.0 if weights is None else weights
            g[:, size] += (terms.own_slope * w).sum(axis=1)
            own = (terms.own_curvature * w).sum(axis=1)
            h[:, size, size] += own
            m[:, size, size] += np.abs(own)
            cross = np.matmul(jacobian, (terms.own_cross * w)[:, :, None])[:, :, 0]
            h[:, law_part, size] += cross
            h[:, size, law_part] += cross
        return second is not None

    def _add_curvature(self, h: Array, theta: Array, slope: Array, second: dict) -> None:
        scale = [theta[:, i] if self.log[i] else np.ones(theta.shape[0]) for i in range(len(self.law.parameters))]
        for (i, j), part in second.items():
            term = (part * slope).sum(axis=1) * scale[i] * scale[j]
            h[:, i, j] += term
            if i != j:
                h[:, j, i] += term

    def newton(self, z: Array, replicates: NDArray[np.intp]) -> tuple[Array, Array, Array, Array]:
        """Like `evaluate`, with the exact Hessian, from central differences of the exact gradient."""
        f, g, _, m = self.evaluate(z, replicates)
        return f, g, self.hessian(z, replicates), m

    def hessian(self, z: Array, replicates: NDArray[np.intp]) -> Array:
        """Second derivatives of the objective on the solved scale, (b, Q, Q); at a bound from within, as the objective
        may have a kink there."""
        count, size = z.shape
        step = 1e-5 * np.maximum(1e-2 * self.scale, np.abs(z))
        low, high = self.low[replicates], self.high[replicates]
        up, down = np.minimum(step, high - z), np.minimum(step, z - low)
        up, down = (np.where(low < high, np.maximum(part, 0.0), step) for part in (up, down))
        moves = np.eye(size)[None]
        both = [z[:, None] + moves * up[:, :, None], z[:, None] - moves * down[:, :, None]]
        both = np.concatenate(both, axis=1).reshape(-1, size)
        gradient = self.evaluate(both, np.repeat(replicates, 2 * size))[1].reshape(count, 2, size, size)
        with np.errstate(invalid="ignore"):
            h = (gradient[:, 0] - gradient[:, 1]) / (up + down)[:, :, None]
        return (h + h.transpose(0, 2, 1)) / 2

    def scores(self, z: Array) -> Array:
        """Derivatives of each point's loss with respect to the law's parameters at z (Q,), (m, P): for sums of their
        squares, in which a grouped point stands for several."""
        size = len(self.law.parameters)
        theta = self.inner(z)
        jacobian = self.law.gradient(theta[:size], self.x) * np.where(self.log[:size], theta[:size], 1.0)
        own = theta[None, size:] if self.objective.own else None
        terms = self.objective.terms(self.law.value(theta[None, :size], self.x), self.arrays, own)
        return jacobian * (terms.slope[0] * np.sqrt(self.squares))[:, None]


def in_units(objective: Objective, arrays: dict[str, Array], scale: float = 1.0) -> dict[str, Array]:
    """Arrays of observations as objectives take them: responses in units of `scale`, and the logarithm of y."""
    found = {name: a / scale if name in ("y", "low", "high") else a for name, a in arrays.items()}
    if objective.relative:
        found["log_y"] = np.log(found["y"])
    return found


def _scales(law: Law, objective: Objective, data: Observations, fixed: Mapping[str, Array | float]) -> dict[str, float]:
    """The size of each input, and of the response, whose unit the law lets choose: geometric means, and the largest
    response where errors are not relative. An input that moves a held parameter keeps its unit."""
    held = {given for p in law.parameters if p.name in fixed for given, _, _ in shifts(p.shift)}
    held |= {law.inputs[0]} if "x" in held else set()
    free = [name for name in scalable(law) if name not in held]
    found = {}
    for place, name in enumerate(law.inputs):
        column = data.x[:, place]
        if name in free and (column > 0).any():
            found[name] = float(np.exp(np.mean(np.log(column[column > 0]))))
    if set(law.alike) & held or not set(law.alike) <= set(found):
        found = {name: scale for name, scale in found.items() if name not in law.alike}
    elif law.alike:
        found |= dict.fromkeys(law.alike, found[law.alike[0]])
    if "y" in free and data.y is not None and objective.unit == "y" and (size := objective.size(data.y)) > 0:
        found["y"] = size
    return found


def _solved(theta: Array, log: NDArray[np.bool_]) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(log, np.log(np.where(log, theta, 1.0)), theta)
    return np.where(log, np.nan_to_num(z, nan=0.0, neginf=-700.0, posinf=700.0), z)
