"""Fits without each group where there are too many groups to fit anew: one Newton step from the fit to all points.

Without a group the gradient at the optimum is minus the group's own, so that a step is its gradient over the Hessian
(Cook and Weisberg 1982, Residuals and Influence in Regression, 5.2).
"""

from __future__ import annotations

import numpy as np

from analysis.fitting.observations import Observations
from analysis.fitting.problem import Problem, in_units
from analysis.fitting.result import Fit, FitBatch
from analysis.stats.arrays import Array

DENSE = 2e7
"""Groups times points above which each group's fit is a step."""
PART = 65_536
"""Points at a time."""


def many(data: Observations) -> bool:
    """Whether groups are too many for a fit without each."""
    return data.group is not None and np.unique(data.group).size * data.n > DENSE


def stepped(fit: Fit) -> FitBatch:
    """The law without each group, in the order of np.unique(group)."""
    data, law = fit.observations, fit.law
    problem = Problem(law, fit.error, data, fixed=fit.fixed)
    own = [] if fit.own is None else [fit.own]
    z = problem.solved(np.concatenate([fit.theta, own])[None])
    free = problem.low[0] < problem.high[0]
    sums = _gradients(fit, problem, z)[:, free]
    hessian = problem.hessian(z, np.zeros(1, dtype=np.intp))[0][np.ix_(free, free)]
    moved = np.repeat(z, sums.shape[0], axis=0)
    moved[:, free] += sums @ np.linalg.pinv(hessian)
    theta = problem.natural(np.clip(moved, problem.low[0], problem.high[0]))
    count, size = theta.shape[0], len(law.parameters)
    return FitBatch(
        law=law, theta=theta[:, :size], own=theta[:, size] if own else None, objective=np.full(count, np.nan),
        gradient_norm=np.full(count, np.nan), starts_at_optimum=np.ones(count),
    )  # fmt: skip


def _gradients(fit: Fit, problem: Problem, z: Array) -> Array:
    """Each group's derivatives of the objective at z (1, Q), (groups, Q)."""
    data, law = fit.observations, fit.law
    assert data.group is not None
    names, place = np.unique(data.group, return_inverse=True)
    given = {name: a for name in ("y", "hits", "trials", "low", "high") if (a := getattr(data, name)) is not None}
    arrays = in_units(fit.error, given, problem.scales.get("y", 1.0))
    x = data.x / np.array([problem.scales.get(name, 1.0) for name in law.inputs])
    theta, size = problem.inner(z), len(law.parameters)
    found = np.zeros((names.size, z.shape[1]))
    for start in range(0, data.n, PART):
        part = slice(start, start + PART)
        value = law.value(theta[:, :size], x[part])
        terms = fit.error.terms(value, {n: a[part] for n, a in arrays.items()}, theta[:, size:] if fit.own else None)
        weights = 1.0 if data.weights is None else data.weights[part]
        columns = law.gradient(theta[0, :size], x[part]) * np.where(law.log, theta[0, :size], 1.0)
        slopes = [column * terms.slope[0] * weights for column in columns.T]
        slopes += [] if terms.own_slope is None else [np.broadcast_to(terms.own_slope, value.shape)[0] * weights]
        for i, slope in enumerate(slopes):
            found[:, i] += np.bincount(place[part], slope, names.size)
    return found
