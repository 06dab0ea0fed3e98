"""Profile likelihood: how far a parameter, or a function of parameters, moves before the others cannot compensate.

All ends of all replicates are searched together: each step solves one batched problem in which a stiff parabola pulls
the profiled quantity to its target. At a minimum of objective + parabola the objective is minimal given the value that
the quantity took there, whether or not it is the target: the points of the profile are exact, and only the search needs
the targets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.fitting.objectives import Huber
from analysis.fitting.problem import Problem
from analysis.fitting.progress import part
from analysis.fitting.solver import minimise
from analysis.laws.base import Law
from analysis.stats.arrays import Array
from analysis.stats.intervals import LEVEL

Rows = NDArray[np.intp]
STIFF = 400.0
"""Weight of the parabola in units of the quantity's own curvature: the quantity stays within a few percent of a
standard error of its target, and the problem stays well conditioned."""
STIFFEST = 5e6
STEPS, EXACT = 20, 1e-3
NOISELESS = 1e-9
"""Rise of the objective below which data are noiseless and ends are taken from the parabola."""
REACH = 64.0
"""Standard errors beyond which an end not yet found is open."""


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A function of z (b, Q), the parameters on the solved scale."""

    value: Callable[[Array], Array]
    """(b,)."""
    derivatives: Callable[[Array, Array], Array] | None = None
    """(b, Q), from z and the value there; by default central differences."""
    unit: float = 1.0
    """What the value is measured in: ends are multiplied by it."""

    def slope(self, z: Array, value: Array) -> Array:
        """(b, Q), 0 where undefined."""
        if self.derivatives is not None:
            found = self.derivatives(z, value)
        else:
            found, step = np.empty(z.shape), 1e-5 * np.maximum(1e-2, np.abs(z))
            for i in range(z.shape[1]):
                up, down = z.copy(), z.copy()
                up[:, i] += step[:, i]
                down[:, i] -= step[:, i]
                with np.errstate(invalid="ignore"):
                    found[:, i] = (self.value(up) - self.value(down)) / (2 * step[:, i])
        return np.where(np.isfinite(found), found, 0.0)


@dataclass(frozen=True, kw_only=True)
class Ends:
    """Ends of the interval of one quantity for R replicates; infinite if the profile never rises enough."""

    low: Array
    high: Array


def threshold(problem: Problem, z: Array, objective: Array, level: float = LEVEL) -> Array:
    """How much the objective (R,) may rise at z (R, Q).

    Likelihoods of counts: half the chi-square quantile. Half summed squares: F(1, n - p), which is exact for linear
    laws at any n (Bates and Watts 1988, 6.1); in likelihood that is n / 2 ln(1 + F / (n - p)), also used when a
    dispersion is fitted with the law (beta-binomial). Huber's loss is not a likelihood: its rise is scaled by the
    ratio of the variance of psi to the mean of its slope (Schrader and Hettmansperger 1980, Biometrika 67, 93).
    """
    free = (problem.low < problem.high).sum(axis=1)
    points = np.broadcast_to(problem.points, z.shape[:1])
    left = np.where(points > free, points - free, np.nan)
    if problem.objective.profiled:
        return objective * stats.f.ppf(level, 1, left) / left
    if isinstance(problem.objective, Huber):
        return 0.5 * stats.f.ppf(level, 1, left) * _huber_scale(problem, problem.objective.delta, z, left)
    if problem.objective.own is not None:
        return points / 2 * np.log1p(stats.f.ppf(level, 1, left) / left)
    return np.full(z.shape[0], 0.5 * stats.chi2.ppf(level, 1))


def _huber_scale(problem: Problem, delta: float, z: Array, left: Array) -> Array:
    """Sum of psi squared / (n - p) over the mean slope of psi: the density of residuals within delta of 0.

    If few residuals lie within delta, the density is taken from a wider window (Silverman's), without the residuals
    nearest 0: a fit that nearly minimises absolute values passes through as many points as it has parameters.
    """
    size = len(problem.law.parameters)
    value = problem.law.value(problem.inner(z)[:, :size], problem.x)
    with np.errstate(all="ignore"):
        residual = np.abs(np.log(value) - problem.arrays["log_y"])
    order = np.argsort(residual, axis=1)
    weights = np.broadcast_to(problem.arrays.get("weights", np.ones(1)), residual.shape)
    residual, weights = (np.take_along_axis(a, order, axis=1) for a in (residual, weights))
    n = residual.shape[1]
    clipped = np.minimum(residual, delta)
    variance = (weights * clipped**2).sum(axis=1) / left
    beyond = np.arange(n) >= (size if n > 2 * size else 0)
    shares = np.cumsum(weights * beyond, axis=1)
    middle = (shares >= shares[:, -1:] / 2).argmax(axis=1)
    median = np.take_along_axis(residual, middle[:, None], axis=1)[:, 0]
    window = np.maximum(delta, 1.06 * median / 0.6745 * shares[:, -1] ** -0.2)
    inside = (weights * beyond * (residual <= window[:, None])).sum(axis=1) / shares[:, -1]
    return variance / np.maximum(inside * delta / window, 1e-12)


def coordinate(problem: Problem, at: int) -> Quantity:
    """The parameter at index `at`, or its logarithm if it is solved so, in the data's own units."""
    unit = problem.matrix[at, at]
    row, offset = problem.matrix[at] / unit, problem.offset[at] / unit
    return Quantity(
        value=lambda z: z @ row + offset, derivatives=lambda z, _: np.broadcast_to(row, z.shape), unit=float(unit)
    )


def log_half_life(law: Law, problem: Problem) -> Quantity:
    """ln half-life; infinite if half is never reached."""
    size = len(law.parameters)

    def value(z: Array) -> Array:
        found = law.half_life(problem.natural(z)[:, :size])
        assert found is not None
        with np.errstate(divide="ignore"):
            return np.log(found)

    def derivatives(z: Array, log: Array) -> Array:
        """By the implicit function theorem: the value at the half-life stays half of that at 0. Needs one bisection
        instead of 2 P."""
        theta, at = problem.natural(z)[:, :size], np.exp(log)
        ends = np.stack([at, np.zeros_like(at)], axis=1)[..., None]
        gradient = np.where(law.log, theta, 1.0)[:, None] * law.gradient(theta, ends)
        step = 1e-5 * at[:, None, None] * np.array([[1.0], [-1.0]])
        with np.errstate(all="ignore"):
            up, down = law.value(theta, at[:, None, None] + step).T
            found = (gradient[:, 1] / 2 - gradient[:, 0]) / ((up - down) / 2e-5)[:, None]
        return found @ problem.matrix[:size]

    return Quantity(value=value, derivatives=derivatives if law.half is None else None)


def profile(problem: Problem, z: Array, quantities: list[Quantity], level: float = LEVEL) -> list[Ends]:
    """Intervals of `quantities` around the optima z (R, Q), one Ends per quantity.

    Both ends are infinite if a quantity is not finite at the optimum, or if no degrees of freedom are left.
    """
    count, many = z.shape[0], len(quantities)
    objective = problem.evaluate(z, np.arange(count))[0]
    allowed = threshold(problem, z, objective, level)
    inverse = _inverse(problem, z)
    centres, errors = np.empty((many, count)), np.empty((many, count))
    for i, quantity in enumerate(quantities):
        centres[i] = quantity.value(z)
        slope = quantity.slope(z, centres[i])
        errors[i] = np.sqrt(np.maximum(np.einsum("bi,bij,bj->b", slope, inverse, slope), 1e-16))
    which, row, side = (a.ravel() for a in np.indices((many, count, 2)))
    search = _Search(
        problem, quantities, which, row, 2.0 * side - 1, z[row], objective[row], allowed[row], centres[which, row],
        errors[which, row],
    )  # fmt: skip
    with part(f"{problem.law.name}, profile of {which.size} ends", counts=True) as done:
        ends = search.run(done).reshape(many, count, 2)
    return [
        Ends(low=end[:, 0] * quantity.unit, high=end[:, 1] * quantity.unit)
        for end, quantity in zip(ends, quantities, strict=True)
    ]


def parabola(problem: Problem, z: Array, quantities: list[Quantity], level: float = LEVEL) -> list[Ends]:
    """The same intervals from the curvature at the optimum alone, which at many points is all there is."""
    objective = problem.evaluate(z, np.arange(z.shape[0]))[0]
    inverse, found = _inverse(problem, z), []
    reach = np.sqrt(2 * threshold(problem, z, objective, level))
    for quantity in quantities:
        centre = quantity.value(z)
        slope = quantity.slope(z, centre)
        half_width = reach * np.sqrt(np.maximum(np.einsum("bi,bij,bj->b", slope, inverse, slope), 0.0))
        found.append(Ends(low=(centre - half_width) * quantity.unit, high=(centre + half_width) * quantity.unit))
    return found


def _inverse(problem: Problem, z: Array) -> Array:
    """Inverse of the Hessian, (R, Q, Q); for Huber's loss, which is flat but for the residuals within delta, of an
    upper bound of it. A parameter that its gradient holds at a bound stays there while the others move."""
    rows = np.arange(z.shape[0])
    _, gradient, _, metric = problem.evaluate(z, rows)
    hessian = metric if isinstance(problem.objective, Huber) else problem.hessian(z, rows)
    held = ((z <= problem.low) & (gradient > 0)) | ((z >= problem.high) & (gradient < 0))
    own = np.eye(z.shape[1], dtype=bool)
    hessian = np.where((held[:, :, None] | held[:, None, :]) & ~own, 0.0, hessian)
    return np.linalg.pinv(hessian + 1e-12 * own * np.abs(hessian).max(axis=(1, 2), keepdims=True))


class _Search:
    """One row per end: the value of its quantity at which the profile has risen by `allowed`."""

    def __init__(
        self, problem: Problem, quantities: list[Quantity], which: Rows, row: Rows, side: Array, z: Array,
        objective: Array, allowed: Array, centre: Array, error: Array,
    ) -> None:  # fmt: skip
        self.problem, self.quantities, self.which, self.row, self.side = problem, quantities, which, row, side
        self.z, self.objective, self.root, self.centre, self.error = z, objective, np.sqrt(allowed), centre, error
        self.stiffness = np.full(z.shape[0], STIFF)

    def run(self, done: Callable[[float], None]) -> Array:
        """Secants on the signed root of the rise, which is nearly linear, inside a bracket."""
        count = self.side.size
        inner, inner_root = np.zeros(count), np.zeros(count)  # distance from the optimum, root of the rise there
        outer, outer_root = np.full(count, np.inf), np.full(count, np.inf)
        z = self.z.copy()
        distance = self.error * self.root * np.sqrt(2.0)
        exact = self.root**2 < NOISELESS  # the rise would drown in rounding
        open_ = np.isfinite(self.centre) & ~exact & np.isfinite(self.root)
        end = np.where(exact, distance, np.inf)
        for _ in range(STEPS):
            at = np.flatnonzero(open_)
            done(1 - at.size / count)
            if not at.size:
                break
            found, reached, rise = self._solve(at, z[at], self.centre[at] + self.side[at] * distance[at])
            root = np.sqrt(np.maximum(rise, 0.0))
            above = (root >= self.root[at]) | ~np.isfinite(root)
            for ok, place, places in ((above, outer, outer_root), (~above, inner, inner_root)):
                place[at[ok]], places[at[ok]] = reached[ok], root[ok]
            z[at[~above]] = found[~above]
            close = np.abs(root / self.root[at] - 1) < EXACT
            end[at[close]] = reached[close]
            # Short of its target: the parabola was too weak, or bounds prevent any further move.
            short = ~above & (reached < 0.5 * distance[at])
            self.stiffness[at[short]] *= 50
            stuck = self.stiffness[at] > STIFFEST
            gone = ~above & (inner[at] > REACH * self.error[at])
            open_[at[close | stuck | gone]] = False
            distance[at] = self._next(at, inner, inner_root, outer, outer_root)
        left = np.flatnonzero(open_ & np.isfinite(outer))
        end[left] = self._between(left, inner, inner_root, outer, outer_root)
        with np.errstate(invalid="ignore"):  # an infinite half-life has no ends: NaN, which counts as open
            return self.centre + self.side * end

    def _between(self, at: Rows, inner: Array, inner_root: Array, outer: Array, outer_root: Array) -> Array:
        share = (self.root[at] - inner_root[at]) / np.maximum(outer_root[at] - inner_root[at], 1e-300)
        share = np.where(np.isfinite(outer_root[at]), share, 0.5)
        return inner[at] + np.clip(share, 0.0, 1.0) * (outer[at] - inner[at])

    def _next(self, at: Rows, inner: Array, inner_root: Array, outer: Array, outer_root: Array) -> Array:
        bracketed = np.isfinite(outer[at])
        straight = inner[at] * self.root[at] / np.maximum(inner_root[at], 1e-12)
        further = np.clip(straight, 1.2 * inner[at], 4 * inner[at])
        width = outer[at] - inner[at]
        between = self._between(at, inner, inner_root, outer, outer_root)
        with np.errstate(invalid="ignore"):
            between = np.clip(between, inner[at] + 0.05 * width, outer[at] - 0.05 * width)
        return np.where(bracketed, between, np.maximum(further, self.error[at] * 0.1))

    def _solve(self, at: Rows, z: Array, target: Array) -> tuple[Array, Array, Array]:
        """z, distance of the quantity from its optimum on the searched side, and rise of the objective."""
        stiff = self.stiffness[at] * self.root[at] ** 2 / np.maximum(self.error[at] * self.root[at], 1e-12) ** 2
        which, row = self.which[at], self.row[at]

        def evaluate(z: Array, rows: Rows) -> tuple[Array, Array, Array, Array]:
            f, g, h, m = self.problem.evaluate(z, row[rows])
            value, slope = np.empty(rows.size), np.empty(z.shape)
            for i, quantity in enumerate(self.quantities):
                own = which[rows] == i
                if own.any():
                    value[own] = quantity.value(z[own])
                    slope[own] = quantity.slope(z[own], value[own])
            off = value - target[rows]
            weight = stiff[rows]
            with np.errstate(invalid="ignore"):
                f = f + 0.5 * weight * off**2
                g = g + (weight * off)[:, None] * slope
            outer = weight[:, None, None] * slope[:, :, None] * slope[:, None, :]
            return np.where(np.isfinite(value), f, np.inf), g, h + outer, m + outer

        low, high = self.problem.low[row], self.problem.high[row]
        found = minimise(evaluate, z, low, high, tolerance=1e-9, iterations=60)
        value = np.empty(at.size)
        for i, quantity in enumerate(self.quantities):
            own = which == i
            value[own] = quantity.value(found.z[own])
        f = self.problem.evaluate(found.z, row)[0]
        return found.z, (value - self.centre[at]) * self.side[at], f - self.objective[at]
