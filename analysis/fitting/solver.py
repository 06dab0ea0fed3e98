"""Many small minimisations at once: a damped, bounded Newton method, vectorised over problems.

The damping uses not Marquardt's diagonal but a second matrix M, a majorizer-like curvature that every objective
provides (reweighted least squares for Huber's loss, Fisher information for counts). Far from an optimum of a summed
Huber loss no residual lies in the quadratic zone: the Hessian vanishes there, its diagonal included, but M does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.fitting.progress import solved
from analysis.stats.arrays import Array

Evaluate = Callable[[Array, NDArray[np.intp]], tuple[Array, Array, Array, Array]]
"""(z (b, Q), which problems (b,)) -> objective (b,), gradient (b, Q), Hessian or its approximation and M (b, Q, Q)."""
RIDGE = 1e-3
"""Share of M's diagonal added to the damping: it bounds steps along directions where M vanishes."""
GIVE_UP, TRUSTED, PATIENCE = 1e10, 1e-2, 8


@dataclass(frozen=True, kw_only=True)
class Minima:
    """One row per problem."""

    z: Array
    objective: Array
    gradient_norm: Array
    """Largest projected derivative."""
    converged: NDArray[np.bool_]
    evaluations: int


@np.errstate(all="ignore")  # a start outside the law's domain has no derivatives and stays where it is
def minimise(
    evaluate: Evaluate, z: Array, low: Array, high: Array, *, tolerance: float = 1e-11, iterations: int = 200,
    damping: float = 1.0,
) -> Minima:  # fmt: skip
    """Minimises from z (B, Q) within low and high (B, Q). Converged problems leave the batch.

    A problem has converged when the step's predicted decrease is below `tolerance` times its objective. `damping` is
    the initial damping: use less near the optimum.
    """
    count = z.shape[0]
    z = np.clip(z, low, high)
    best, objective, norm = z.copy(), np.empty(count), np.empty(count)
    converged = np.zeros(count, dtype=bool)
    rows = np.arange(count)
    now = _State(z, low, high, *evaluate(z, rows))
    now.damping *= damping
    now.damping[~np.isfinite(now.f)] = 2 * GIVE_UP
    evaluations = count
    for _ in range(iterations):
        step, decrease, indefinite = now.step()
        settled = decrease <= tolerance * (np.abs(now.f) + 1e-13)
        now.still = np.where(settled, now.still + 1, 0)
        good = settled & ~indefinite & (now.damping <= TRUSTED)
        done = good | (now.still >= PATIENCE) | (now.damping > GIVE_UP)
        if done.any():
            solved(1 - (rows.size - done.sum()) / count)
            at = rows[done]
            best[at], objective[at], norm[at] = now.z[done], now.f[done], now.projected_norm()[done]
            converged[at] = (good | (now.still >= PATIENCE))[done]
            rows, step = rows[~done], step[~done]
            now.keep(~done)
        if not rows.size:
            break
        trial = np.clip(now.z + step, now.low, now.high)
        now.move(trial, *evaluate(trial, rows))
        evaluations += rows.size
    best[rows], objective[rows], norm[rows] = now.z, now.f, now.projected_norm()
    return Minima(z=best, objective=objective, gradient_norm=norm, converged=converged, evaluations=evaluations)


class _State:
    """The problems not yet converged, one row each."""

    def __init__(self, z: Array, low: Array, high: Array, f: Array, g: Array, h: Array, m: Array) -> None:
        self.z, self.low, self.high, self.f, self.g, self.h, self.m = z, low, high, f, g, h, m
        self.damping = np.ones(f.size)
        self.still = np.zeros(f.size, dtype=int)

    def free(self) -> NDArray[np.bool_]:
        """Parameters not held at a bound by a gradient that points outward."""
        return ~(((self.z <= self.low) & (self.g > 0)) | ((self.z >= self.high) & (self.g < 0)))

    def projected_norm(self) -> Array:
        return np.abs(self.g * self.free()).max(axis=1, initial=0.0)

    def step(self) -> tuple[Array, Array, NDArray[np.bool_]]:
        """The step (b, Q), its first-order decrease (b,), and whether the damped Hessian was indefinite (b,)."""
        free = self.free()
        both = free[:, :, None] & free[:, None, :]
        diagonal = np.einsum("bqq->bq", self.m)
        diagonal = np.maximum(diagonal, 1e-12 * diagonal.max(axis=1, keepdims=True)) + 1e-300
        matrix = np.where(both, self.h + self.damping[:, None, None] * self.m, 0.0)
        every = np.arange(self.z.shape[1])
        matrix[:, every, every] += self.damping[:, None] * RIDGE * diagonal + ~free * diagonal
        gradient = self.g * free
        step, indefinite = solve_positive(matrix, -gradient)
        step = np.clip(self.z + step, self.low, self.high) - self.z
        self._predicted = -(gradient * step).sum(axis=1) - 0.5 * np.einsum("bi,bij,bj->b", step, self.h, step)
        return step, -(gradient * step).sum(axis=1), indefinite

    def keep(self, which: NDArray[np.bool_]) -> None:
        for name, value in list(vars(self).items()):
            setattr(self, name, value[which])

    def move(self, z: Array, f: Array, g: Array, h: Array, m: Array) -> None:
        """Accepts the trial where it is lower; adapts the damping to how well the decrease was predicted."""
        gained = self.f - f
        lower = np.isfinite(f) & (gained > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(self._predicted > 0, gained / self._predicted, 1.0)
        for name, value in (("z", z), ("f", f), ("g", g), ("h", h), ("m", m)):
            which = lower.reshape(-1, *(1,) * (value.ndim - 1))
            setattr(self, name, np.where(which, value, getattr(self, name)))
        down = np.where(ratio > 0.75, 0.2, np.where(ratio < 0.25, 3.0, 0.7)) * self.damping
        self.damping = np.maximum(np.where(lower, down, 8 * np.maximum(self.damping, 1e-6)), 1e-12)


def solve_positive(matrix: Array, right: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Solves (B, Q, Q) x = (B, Q) by LDL' over all B at once; a pivot that is not positive is replaced by its size.

    Returns x and whether a pivot was replaced: x is then a descent direction, not a solution (Gill and Murray 1974).
    """
    size = matrix.shape[-1]
    a = np.ascontiguousarray(matrix.transpose(1, 2, 0))
    x = np.ascontiguousarray(right.T)
    scale = np.abs(np.einsum("qqb->qb", a)) + 1e-300
    indefinite = np.zeros(matrix.shape[0], dtype=bool)
    with np.errstate(all="ignore"):
        for j in range(size):
            small = ~(a[j, j] > 1e-14 * scale[j])
            indefinite |= small
            a[j, j] = np.where(small, np.maximum(np.abs(a[j, j]), scale[j]), a[j, j])
            for i in range(j + 1, size):
                factor = a[i, j] / a[j, j]
                for k in range(j + 1, i + 1):
                    a[i, k] -= factor * a[k, j]
                x[i] -= factor * x[j]
                a[j, i] = factor
        for j in range(size - 1, -1, -1):
            x[j] /= a[j, j]
            for i in range(j + 1, size):
                x[j] -= a[j, i] * x[i]
    return np.nan_to_num(x.T, nan=0.0, posinf=0.0, neginf=0.0), indefinite
