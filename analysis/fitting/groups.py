"""What each group's own fit determines: which parameters, and its half-life or a bound of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.fitting.fit import by_group, each_alone, replicates_by_group
from analysis.fitting.observations import Observations
from analysis.fitting.problem import Problem
from analysis.fitting.profile import Quantity, coordinate, log_half_life, parabola, profile
from analysis.fitting.result import Fit
from analysis.laws.base import Law
from analysis.stats.arrays import Array
from analysis.stats.intervals import LEVEL

WIDE, WIDE_LOG = 0.25, float(np.log(3))
"""Half-widths, of the data's scale and of a logarithm, up to which the curvature at the optimum shows what a group
determines; beyond, and at a bound, its profile likelihood does."""
SINGULAR = 1e-8
HAD = 0.5
"""Share of the groups' median start below which a group never had what decays."""
NEVER = "starts below half of the groups' median, or is 0 throughout"


@dataclass(frozen=True, kw_only=True)
class OwnEnds:
    """95 % intervals in each group alone, (groups, P) or with the half-life last (groups, P + 1), on the solved scale
    (its logarithm for the half-life); ends that only a bound of the parameter sets are that bound."""

    low: Array
    high: Array
    determined: NDArray[np.bool_]
    """False where an end is open, or both are bounds: the group says nothing of the parameter, or only a bound."""
    low_bound: NDArray[np.bool_]
    """Whether the estimate is at the parameter's lower bound."""
    high_bound: NDArray[np.bool_]


def own_ends(fit: Fit, level: float = LEVEL, *, half_life: bool = False) -> OwnEnds:
    """Of the fits in `by_group`; with `half_life`, only its ends are sure. Computed once per fit."""
    name = f"{'ends of half-lives' if half_life else 'own_ends'} {level}"
    if name not in fit.derived:
        fit.derived[name] = _own_ends(fit, level, half_life)
    return fit.derived[name]


def _own_ends(fit: Fit, level: float, only_half_life: bool) -> OwnEnds:
    each, law, (data, parts) = by_group(fit), fit.law, replicates_by_group(fit.observations)
    theta = each.theta if each.own is None else np.column_stack([each.theta, each.own])
    size, half = len(law.parameters), each.half_life

    def problem_of(rows: NDArray[np.intp]) -> tuple[Problem, Array, list[Quantity]]:
        problem = Problem(law, fit.error, data, **{name: a[rows] for name, a in parts.items()}, fixed=fit.fixed)
        quantities = [coordinate(problem, i) for i in range(size)]
        return problem, problem.solved(theta[rows]), quantities + [log_half_life(law, problem)] * (half is not None)

    every = np.arange(theta.shape[0])
    problem, z, quantities = problem_of(every)
    ends = parabola(problem, z, quantities, level)
    low, high = (np.stack([getattr(end, name) for end in ends], axis=1) for name in ("low", "high"))
    near = 1e-6 * np.where(problem.log, 1.0, problem.scale)
    free = problem.low < problem.high
    low_bound, high_bound = free & (z <= problem.low + near), free & (z >= problem.high - near)
    hessian = problem.hessian(z, every)
    scale = np.sqrt(np.abs(np.diagonal(hessian, axis1=1, axis2=2)))
    with np.errstate(all="ignore"):
        scaled = np.nan_to_num(hessian / scale[:, :, None] / scale[:, None, :])
    singular = np.linalg.eigvalsh(np.where(free[:, :, None] & free[:, None, :], scaled, np.eye(z.shape[1])))[:, 0]
    wide = np.append(np.where(law.log, WIDE_LOG, WIDE * problem.scale[:size]), [WIDE_LOG] * (half is not None))
    with np.errstate(invalid="ignore"):  # ends may be open on both sides
        doubtful = (singular < SINGULAR)[:, None] | ~((high - low) / 2 <= wide)
    doubtful[:, :size] |= (low_bound | high_bound)[:, :size]
    doubtful[:, :size] &= not only_half_life
    for i in np.flatnonzero(doubtful.any(axis=0)):  # a profile is some forty fits: of what is in doubt alone
        rows = np.flatnonzero(doubtful[:, i])
        problem, z, quantities = problem_of(rows)
        [end] = profile(problem, z, [quantities[i]], level)
        low[rows, i], high[rows, i] = end.low, end.high
    with np.errstate(divide="ignore"):
        least, most = (np.where(law.log, -np.inf if at < 0.5 else np.inf, end)
                       for at, end in enumerate(law.bounds))  # fmt: skip
    open_low, open_high = ~np.isfinite(low), ~np.isfinite(high)
    low[:, :size] = np.where(open_low[:, :size], least, low[:, :size])
    high[:, :size] = np.where(open_high[:, :size], most, high[:, :size])
    held = np.array([name in fit.fixed for name in law.names] + [False] * (half is not None))
    determined = held | (np.isfinite(low) & np.isfinite(high) & ~(open_low & open_high))
    return OwnEnds(low=low, high=high, determined=determined, low_bound=low_bound[:, :size],
                   high_bound=high_bound[:, :size])  # fmt: skip


def last_seen(data: Observations) -> Array:
    """Largest first input of each group, (groups,), in the order of np.unique(group)."""
    assert data.group is not None
    names, place = np.unique(data.group, return_inverse=True)
    ends = np.full(names.size, -np.inf)
    np.maximum.at(ends, place, data.x[:, 0])
    return ends


@dataclass(frozen=True, kw_only=True)
class Reached:
    """Half-lives of groups, each (groups,) and within bounds: a run that had not lost half by its last point, or that
    stayed as it was, has that as `low` and `high` inf; one that had by its first point after 0 has `low` 0 and that as
    `high`; one that `never_had` what decays has none (NaN): flat at chance, it would seem never to lose it."""

    low: Array
    high: Array

    @property
    def known(self) -> NDArray[np.bool_]:
        return ~np.isnan(self.low)

    @property
    def bounded(self) -> NDArray[np.bool_]:
        return self.known & (self.low != self.high)


def never_had(fit: Fit) -> NDArray[np.bool_]:
    """Groups of a fit that `never_started`, in the order of np.unique(group), where its law fades. No law enters,
    so that laws are compared on the same groups."""
    data = fit.observations
    assert data.group is not None
    if not fit.law.fades:
        return np.zeros(np.unique(data.group).size, dtype=bool)
    return _never_had(data, getattr(fit.error, "chance", 0.0))


def _never_had(data: Observations, chance: float) -> NDArray[np.bool_]:
    assert data.group is not None
    weights = np.ones(data.n) * (1.0 if data.weights is None else data.weights)
    weights *= 1.0 if data.trials is None else data.trials
    return never_started(data.group, data.x[:, 0], data.response, weights, chance)


def never_started(
    group: NDArray[np.generic], clock: Array, response: Array, weights: Array, chance: float = 0.0
) -> NDArray[np.bool_]:
    """Groups that start below HAD of the groups' median, or are 0 throughout, in the order of np.unique(group); all
    arguments are (n,). The start of a group, above chance, is that of the falling curve closest to it (isotonic
    regression): the highest mean of its first points. The one rule for counts and levels, in fits and in `scaling`."""
    names, place = np.unique(group, return_inverse=True)
    starts, zero = np.full(names.size, np.nan), np.zeros(names.size, dtype=bool)
    order = np.lexsort((clock, place))
    for i, own in enumerate(np.split(order, np.cumsum(np.bincount(place))[:-1])):
        own = own[weights[own] > 0]
        if own.size:
            ends = np.append(np.diff(clock[own]) > 0, True)
            means = np.cumsum(weights[own] * response[own]) / np.cumsum(weights[own])
            starts[i], zero[i] = means[ends].max() - chance, not response[own].any()
    return zero | (starts < HAD * max(float(np.nanmedian(starts)), 0.0))


def without_never_had(
    law: Law, data: Observations, chance: float, pooled: bool = False
) -> tuple[Observations, list[str]]:
    """The points without groups that never had what decays, and these groups, where one fit is made to all points:
    those with fits of their own are left out of their mean. Groups of one trial a point are items, which a model may
    well never know. `pooled`: also where each could be fitted alone."""
    items = data.trials is not None and data.trials.max() <= 1
    if data.group is None or not law.fades or items or (each_alone(law, data) and not pooled):
        return data, []
    gone = np.unique(data.group)[_never_had(data, chance)]
    return (data.take(~np.isin(data.group, gone)), [str(each) for each in gone]) if gone.size else (data, [])


def half_lives_by_group(fit: Fit) -> Reached | None:
    """In the order of np.unique(group); None if the law has no half-life."""
    half, data = by_group(fit).half_life, fit.observations
    if half is None or data.group is None:
        return None
    own = data.group == np.unique(data.group)[:, None]
    x, y = data.x[:, 0], data.response
    first = np.where(own & (x > 0), x, np.inf).min(axis=1)
    flat = np.where(own & ~np.isnan(y), y, -np.inf).max(axis=1) == np.where(own & ~np.isnan(y), y, np.inf).min(axis=1)
    late, early, never = flat | ~(half <= last_seen(data)), half < first, never_had(fit)
    low = np.where(late, last_seen(data), np.where(early, 0.0, half))
    high = np.where(late, np.inf, np.where(early, first, half))
    return Reached(low=np.where(never, np.nan, low), high=np.where(never, np.nan, high))
