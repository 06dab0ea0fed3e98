"""Intervals of what follows from a fit's parameters, by the method that its own intervals have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from analysis.errors import UserError
from analysis.fitting.fit import by_group, fits_alone
from analysis.fitting.intervals import expanded, jackknife_half_width, without_groups
from analysis.fitting.problem import Problem
from analysis.fitting.profile import Quantity, profile
from analysis.fitting.result import Fit
from analysis.laws.allocation import FLOPS
from analysis.laws.base import Derived, Law
from analysis.stats.arrays import Array
from analysis.stats.intervals import LEVEL, Interval, t_interval


def derived_intervals(fit: Fit, level: float = LEVEL) -> dict[str, Interval]:
    """What the law declares as derived, by name."""
    return of_functions(fit, fit.law.derived, level)


def allocation(law: Law, compute: float) -> dict[str, Derived]:
    """Parameters N, tokens D and loss of the best split of `compute` FLOPs, by name, as functions of the parameters.

    Raises UserError if the law has no such optimum.
    """
    if law.optimum is None:
        raise UserError(f"{law.name} has no compute-optimal allocation: expected a law of N and D, such as chinchilla")
    if not compute > 0:
        raise UserError(f"compute is {compute:g} FLOPs; expected above 0")
    best = law.optimum

    def loss(*theta: Array) -> Array:
        x = np.stack(np.broadcast_arrays(*best(compute / FLOPS, *theta)), axis=-1)
        return law.value(np.stack(np.broadcast_arrays(*theta), axis=-1), x[..., None, :])[..., 0]

    return {
        "N": Derived(function=lambda *theta: best(compute / FLOPS, *theta)[0], meaning="parameters", log=True),
        "D": Derived(function=lambda *theta: best(compute / FLOPS, *theta)[1], meaning="tokens", log=True),
        "loss": Derived(function=loss, meaning="loss there", log=True),
    }


def of_functions(fit: Fit, functions: Mapping[str, Derived], level: float = LEVEL) -> dict[str, Interval]:
    """Intervals of functions of the parameters: over groups where each can be fitted alone, else by the jackknife over
    groups, else from the profile likelihood. Those without a finite value at the optimum are left out; those of held
    parameters alone are sure, of a count of 0."""
    found: dict[str, Interval] = {}
    group = fit.observations.group
    several = group is not None and np.unique(group).size > 1
    alone = several and fits_alone(fit)
    quantities: dict[str, Quantity] = {}
    problem = Problem(fit.law, fit.error, fit.observations, fixed=fit.fixed)
    size = len(fit.law.parameters)
    for name, each in functions.items():
        value = _scaled(each)
        whole = float(value(fit.theta))
        if not np.isfinite(whole):
            continue
        if _held(fit, value):
            interval = Interval(estimate=whole, low=whole, high=whole, count=0)
        elif alone:
            interval = t_interval(value(by_group(fit).theta), level)
        elif several:
            parts = value(without_groups(fit).theta)
            half = float(jackknife_half_width(np.array(whole), parts, level))
            interval = Interval(estimate=whole, low=whole - half, high=whole + half, count=parts.size)
        else:
            slopes = None if each.derivatives is None else partial(_slopes, each, problem)
            quantities[name] = Quantity(
                value=lambda z, value=value: value(problem.natural(z)[:, :size]), derivatives=slopes
            )
            interval = Interval(estimate=whole, low=None, high=None, count=1)
        found[name] = interval or Interval(estimate=whole, low=None, high=None, count=1)
    if quantities:
        own = [] if fit.own is None else [fit.own]
        z = problem.solved(np.concatenate([fit.theta, own])[None])
        ends = profile(problem, z, list(quantities.values()), level)
        for name, end in zip(quantities, ends, strict=True):
            low, high = (float(each[0]) if np.isfinite(each[0]) else None for each in (end.low, end.high))
            found[name] = replace(found[name], low=low, high=high)
    return {name: found[name].exp() if each.log else found[name] for name, each in functions.items() if name in found}


def _held(fit: Fit, value: Callable[[Array], Array]) -> bool:
    """Whether it depends on held parameters alone."""
    free = [i for i, name in enumerate(fit.law.names) if name not in fit.fixed]
    moved = fit.theta + 1e-3 * np.eye(fit.theta.size)[free] * np.where(fit.theta == 0, 1.0, np.abs(fit.theta))
    return bool(fit.fixed) and bool((value(moved) == value(fit.theta)).all())


def _slopes(derived: Derived, problem: Problem, z: Array, scaled: Array) -> Array:
    """Its derivatives on the solved scale, (b, Q)."""
    assert derived.derivatives is not None
    size = len(problem.law.parameters)
    theta, value = problem.natural(z)[:, :size], np.exp(scaled) if derived.log else scaled
    found = derived.derivatives(theta, value) * np.where(problem.law.log, theta, 1.0)
    return (found / value[:, None] if derived.log else found) @ problem.matrix[:size]


def bootstrapped(fit: Fit, functions: Mapping[str, Derived]) -> dict[str, Interval]:
    """Intervals of functions of the parameters from the draws of the last `cluster_bootstrap` of this fit."""
    if not functions:
        return {}
    drawn, found = fit.derived["bootstrap"], {}
    group = fit.observations.group
    clusters = fit.observations.n if group is None else np.unique(group).size
    for name, each in functions.items():
        whole, values = float(_scaled(each)(fit.theta)), _scaled(each)(drawn.theta)
        if np.isfinite(whole) and np.isfinite(values).all():
            low, high = np.quantile(values, expanded(clusters))
            interval = Interval(estimate=whole, low=float(low), high=float(high), count=clusters)
            found[name] = interval.exp() if each.log else interval
    return found


def _scaled(derived: Derived) -> Callable[[Array], Array]:
    """The function of theta (..., P), or its logarithm, (...)."""

    def value(theta: Array) -> Array:
        with np.errstate(all="ignore"):
            found = np.asarray(derived.function(*np.moveaxis(np.asarray(theta, dtype=float), -1, 0)), dtype=float)
            return np.log(found) if derived.log else found

    return value
