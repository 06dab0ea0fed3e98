"""Intervals of a fit: over seeds if each seed can be fitted alone, otherwise from the profile likelihood.

The average of curves over seeds follows another law: exponentials of different rates average to a power law. With
groups, the law is therefore fitted to each, all groups solved together, with Student's t over groups. Points within a
group share its noise and never count as independent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.errors import UserError
from analysis.fitting.deletion import many, stepped
from analysis.fitting.fit import alone, by_group, fit_many
from analysis.fitting.groups import NEVER, Reached, half_lives_by_group, never_had, own_ends
from analysis.fitting.problem import Problem
from analysis.fitting.profile import Quantity, coordinate, log_half_life, parabola, profile
from analysis.fitting.result import Fit, FitBatch
from analysis.stats.arrays import Array
from analysis.stats.imputation import CENSORED, few_censored, mean_over_seeds
from analysis.stats.intervals import LEVEL, Interval, t_interval

CLUSTERS = 10
"""Minimum for a bootstrap: plain percentiles over 5 seeds covered 84 % instead of 95 %."""
MANY, SMALL = 16_384, 0.02
"""Points above which, with all standard errors (in the data's own units) below SMALL, a profile is not searched."""
DRAWS = 100
"""Bootstrap replicates below which the outer percentiles are not estimated."""


@dataclass(frozen=True, kw_only=True)
class HalfLife:
    """An end is None if the data do not bound it; `censored` if half lies beyond the data or is never reached."""

    estimate: float | None
    low: float | None
    high: float | None
    censored: bool
    bound: float | None = None
    """Without an estimate, what it is at least: the end of the data, or the mean over groups of the ends of theirs."""


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """Intervals of every parameter by name, and of the half-life if the law has one."""

    parameters: dict[str, Interval]
    half_life: HalfLife | None
    method: str
    by: Mapping[str, str]
    """The method in a word or two, by parameter and "half-life"."""
    notes: tuple[str, ...] = ()
    """What single groups do not identify, or have at a bound."""
    derived_by: str = "profile"
    """The method of numbers that follow from the parameters."""


def intervals(fit: Fit, level: float = LEVEL) -> Intervals:
    """95 % intervals of a fit's parameters and half-life, by the method that the data allow.

    Groups that can each be fitted alone: t over groups. Groups that cannot (each at one size, say): delete-one-group
    jackknife with t. No groups: profile likelihood. Ends are None if the data do not bound them. Computed once per fit.
    """
    name = f"intervals {level}"
    if name not in fit.derived:
        groups = 0 if fit.observations.group is None else np.unique(fit.observations.group).size
        method = _profiled if groups < 2 else _over_groups if alone(fit) else _jackknife
        fit.derived[name] = method(fit, level)
    return fit.derived[name]


def half_life_of(fit: Fit, level: float = LEVEL) -> HalfLife | None:
    """That of `intervals`, without the time that the parameters' take."""
    if f"intervals {level}" in fit.derived or not alone(fit):
        return intervals(fit, level).half_life
    if (reached := half_lives_by_group(fit)) is None:
        return None
    sure = own_ends(fit, level, half_life=True).determined[:, -1] | reached.bounded
    names = np.unique(np.asarray(fit.observations.group))
    return _mean_half_life(reached, _identified(names, reached.known, sure)[0], level)


def _solved(fit: Fit, theta: Array) -> Array:
    return np.where(fit.law.log, np.log(np.where(fit.law.log, theta, 1.0)), theta)


def _within_bounds(fit: Fit, i: int, found: Interval) -> Interval:
    """An interval on the solved scale of parameter i, clipped to its bounds and on the natural scale.

    The truth lies within the bounds by assumption, so no coverage is lost.
    """
    low, high = (float(end[i]) for end in fit.law.bounds)
    if np.isnan(found.estimate):
        return found
    if fit.law.log[i]:
        found = found.exp()
    return replace(found, low=_clipped(found.low, low, high), high=_clipped(found.high, low, high))


def _clipped(end: float | None, low: float, high: float) -> float | None:
    return None if end is None else min(max(end, low), high)


def _over_groups(fit: Fit, level: float) -> Intervals:
    """Means over groups, of parameters on the solved scale: of a rate itself, as a logit has none at 0 or 1.

    A group that never had the skill is left out, as it says nothing of how it is lost; one that does not identify a
    parameter, of that one's mean; where more than a third do not, there is none. A time scale is bounded where the
    half-life is: the other parameters equal, it is in proportion to it.
    """
    each, reached, own = by_group(fit), half_lives_by_group(fit), own_ends(fit)
    half, solved, found = each.half_life, _solved(fit, each.theta), {}
    names, count = np.unique(np.asarray(fit.observations.group)), each.theta.shape[0]
    known = ~never_had(fit)
    by, notes = {}, []
    for i, parameter in enumerate(fit.law.parameters):
        used = known if known.any() else np.ones(count, dtype=bool)
        low = high = solved[:, i]
        if reached is not None and half is not None and parameter.log and parameter.unit == "x":
            with np.errstate(divide="ignore", invalid="ignore"):
                ends = (np.log(end) - np.log(half) for end in (reached.low, reached.high))
                low, high = (np.where(np.isfinite(np.log(half)), solved[:, i] + end, solved[:, i]) for end in ends)
        rows, note = _identified(names, used, own.determined[:, i] | (low != high))
        notes += [f"{parameter.name} {note}"] * bool(note)
        interval = _mean(low[rows], high[rows], level)
        wider = interval
        for at, sign in ((own.low_bound[:, i] & rows, 1.0), (own.high_bound[:, i] & rows, -1.0)):
            if at.any():
                bound = float(solved[at, i][0])
                where = f"its bound {_shown(bound, parameter.log):g} in {at.sum()} of {count} groups"
                notes.append(f"{parameter.name} is at {where}")
                wider = _beyond_bound(wider, bound, sign, (own.high if sign > 0 else own.low)[rows, i])
        found[parameter.name] = _within_bounds(fit, i, wider)
        by[parameter.name] = _how(rows, low != high, wider is not interval and wider != interval)
    never = count - int(known.sum())
    others = f" ({never} left out, which never had the skill: it {NEVER})" if never else ""
    shown = None
    if reached is not None:
        rows, note = _identified(names, known, own.determined[:, -1] | reached.bounded)
        notes += [f"the {fit.law.half_name} {note}"] * bool(note)
        shown, by["half-life"] = _mean_half_life(reached, rows, level), _how(rows, reached.bounded, False)
    return Intervals(
        parameters=found, half_life=shown, by=by, notes=tuple(notes),
        method=f"one fit per group, Student-t over {count} groups{others}", derived_by=f"t, {count} groups",
    )  # fmt: skip


def _identified(names: NDArray[Any], used: NDArray[np.bool_], sure: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], str]:
    """Which of the groups used enter a mean, none if it would leave out more than a third; and that, in words."""
    unsure = used & ~sure
    if not unsure.any():
        return used, ""
    count, enough = int(unsure.sum()), bool(unsure.sum() <= CENSORED * used.sum())
    which = ", ".join(str(name) for name in names[unsure][:3]) + ", ..." * (count > 3)
    left = "left out of the mean" if enough else "too many for a mean over the others"
    return used & sure & enough, f"is not identified in {count} of {names.size} groups ({which}): {left}"


def _how(rows: NDArray[np.bool_], bounded: NDArray[np.bool_], profiled: bool) -> str:
    """The method of a mean over groups, in a few words."""
    if not rows.any():
        return "none"
    groups = f"{rows.sum()} of {rows.size} groups" if not rows.all() else f"{rows.size} groups"
    bounds = int((rows & bounded).sum())
    return (
        f"t{' and profiles' * profiled}, {groups}{f', {bounds} of them bounds, imputed beyond them' if bounds else ''}"
    )


def _beyond_bound(found: Interval, bound: float, sign: float, ends: Array) -> Interval:
    """An interval that reaches at least as far from a bound as the groups' profiles together: estimates at a bound do
    not show their error. Parabolas add up: a distance d of each gives (sum of d^-2)^-1/2."""
    away = np.maximum(sign * (ends - bound), 1e-300)
    end = bound + sign * float((away**-2.0).sum() ** -0.5)
    if found.low is None or found.high is None:
        return found
    return replace(found, high=max(found.high, end)) if sign > 0 else replace(found, low=min(found.low, end))


def _mean(low: Array, high: Array, level: float) -> Interval:
    """Over groups, of values between bounds; without an estimate (NaN) without groups, or if too many are bounded."""
    bounded = low != high
    if not low.size or (bounded.any() and (low.size < 2 or not few_censored(bounded[:, None]))):
        return Interval(estimate=float("nan"), low=None, high=None, count=low.size)
    found = mean_over_seeds(low, high, level) if bounded.any() else t_interval(low, level)
    assert found is not None
    return found


def _mean_half_life(reached: Reached, own: NDArray[np.bool_], level: float) -> HalfLife:
    with np.errstate(divide="ignore"):
        low, high = np.log(reached.low[own]), np.log(reached.high[own])
    late = np.isinf(high)
    if not own.any():
        return HalfLife(estimate=None, low=None, high=None, censored=False)
    mean = _mean(low, high, level)
    if np.isnan(mean.estimate):
        bound = None if np.isinf(low).any() else _shown(float(low.mean()), True)
        return HalfLife(estimate=None, low=None, high=None, censored=bool(late.any()), bound=bound)
    estimate, low_end, high_end = (
        None if end is None else _shown(end, True) for end in (mean.estimate, mean.low, mean.high)
    )
    return HalfLife(estimate=estimate, low=low_end, high=high_end, censored=bool(late.any()))


def jackknife_half_width(whole: Array, parts: Array, level: float = LEVEL) -> Array:
    """Half-width of the interval around `whole` (...) from the estimates without each group, (..., groups)."""
    count = parts.shape[-1]
    pseudo = count * whole[..., None] - (count - 1) * parts
    return stats.t.ppf(0.5 + level / 2, count - 1) * pseudo.std(axis=-1, ddof=1) / np.sqrt(count)


def without_groups(fit: Fit) -> FitBatch:
    """The law fitted without each group, in the order of np.unique(group). Computed once per fit."""
    if "without_groups" not in fit.derived and many(fit.observations):
        fit.derived["without_groups"] = stepped(fit)
    if "without_groups" not in fit.derived:
        data = fit.observations
        assert data.group is not None
        weights = (data.group != np.unique(data.group)[:, None]).astype(float)
        weights = weights * (1.0 if data.weights is None else data.weights)
        fit.derived["without_groups"] = fit_many(fit.law, data, weights=weights, around=fit, fixed=fit.fixed)
    return fit.derived["without_groups"]


def _jackknife(fit: Fit, level: float) -> Intervals:
    """Delete-one-group pseudo-values and Student's t over them (Tukey 1958; for a mean it is the t interval itself)."""
    data = fit.observations
    without = without_groups(fit)
    count = without.theta.shape[0]

    def interval(whole: float, parts: Array) -> Interval:
        half_width = float(jackknife_half_width(np.array(whole), parts, level))
        return Interval(estimate=whole, low=whole - half_width, high=whole + half_width, count=count)

    whole, parts = _solved(fit, fit.theta), _solved(fit, without.theta)
    found = {}
    for i, name in enumerate(fit.law.names):
        found[name] = _within_bounds(fit, i, interval(float(whole[i]), parts[:, i]))
    half, halves, shown = fit.half_life, without.half_life, None
    if half is not None and halves is not None:
        last = data.x[:, 0].max()
        if np.isfinite(half) and np.isfinite(halves).all():
            ends = interval(float(np.log(half)), np.log(halves))
            low, high = (None if end is None else _shown(end, True) for end in (ends.low, ends.high))
            shown = HalfLife(estimate=half, low=low, high=high, censored=half > last)
        else:
            shown = HalfLife(estimate=None, low=None, high=None, censored=True, bound=float(last))
    short = f"jackknife, {count} groups"
    return Intervals(
        parameters=found, half_life=shown, method=f"delete-one-group jackknife, t over {count} groups",
        by=dict.fromkeys((*fit.law.names, "half-life"), short), derived_by=short,
    )  # fmt: skip


def _profiled(fit: Fit, level: float) -> Intervals:
    problem = Problem(fit.law, fit.error, fit.observations, fixed=fit.fixed)
    own = [] if fit.own is None else [fit.own]
    z = problem.solved(np.concatenate([fit.theta, own])[None])
    method, short = "profile likelihood", "profile"
    if problem.x.shape[0] > MANY and curved(problem, fit):
        method = f"from the curvature of the likelihood, a parabola at {fit.observations.n:,} points"
        short, ends_of = "curvature", parabola
    else:
        ends_of = profile
    size = len(fit.law.parameters)
    quantities: list[Quantity] = [coordinate(problem, i) for i in range(size)]
    half = fit.half_life
    reached = half is not None and np.isfinite(half) and half > 0
    if reached:
        quantities.append(log_half_life(fit.law, problem))
    ends = ends_of(problem, z, quantities, level)
    found = {}
    unknown = fit.observations.hits is None and problem.points <= size - len(fit.fixed) + (fit.own is not None)
    for i, (name, log) in enumerate(zip(fit.law.names, fit.law.log, strict=True)):
        low, high = _shown(ends[i].low[0], log), _shown(ends[i].high[0], log)
        if low is None and not unknown and not log and fit.law.parameters[i].low == 0:
            low = 0.0
        found[name] = _around(float(fit.theta[i]), low, high)
    if unknown:
        method, short = "none, as no degrees of freedom are left", "none"
    shown = None
    if half is not None:
        last = float(fit.observations.x[:, 0].max())
        shown = HalfLife(estimate=None, low=None, high=None, censored=True, bound=last)
        if reached:
            around = _around(half, _shown(ends[-1].low[0], True), _shown(ends[-1].high[0], True))
            shown = HalfLife(estimate=half, low=around.low, high=around.high, censored=half > last)
    by = dict.fromkeys((*fit.law.names, "half-life"), short)
    return Intervals(parameters=found, half_life=shown, method=method, by=by)


def curved(problem: Problem, fit: Fit) -> bool:
    """Whether the standard errors are so small that the likelihood is a parabola as far as its interval reaches."""
    if fit.covariance is None:
        return False
    errors = np.sqrt(np.diagonal(problem.back[: fit.theta.size, : fit.theta.size] @ fit.covariance
                                 @ problem.back[: fit.theta.size, : fit.theta.size].T))  # fmt: skip
    free = np.array([name not in fit.fixed for name in fit.law.names])
    return bool((errors[free] > 0).all() and (errors < SMALL).all())


def _around(estimate: float, low: float | None, high: float | None) -> Interval:
    """Ends that went through a logarithm must not cross the estimate by rounding."""
    low, high = None if low is None else min(low, estimate), None if high is None else max(high, estimate)
    return Interval(estimate=estimate, low=low, high=high, count=1)


def _shown(value: float, log: bool) -> float | None:
    if not np.isfinite(value):
        return None
    with np.errstate(over="ignore"):
        found = float(np.exp(value)) if log else float(value)
    return found if np.isfinite(found) else None


def expanded(clusters: int, level: float = LEVEL) -> tuple[float, float]:
    """Quantiles at which percentiles of a bootstrapped mean have the width of its t interval."""
    out = stats.norm.cdf(np.sqrt(clusters / (clusters - 1)) * stats.t.ppf(0.5 - level / 2, clusters - 1))
    return float(out), float(1 - out)


def cluster_bootstrap(fit: Fit, replicates: int, level: float = LEVEL, seed: int = 0) -> Intervals:
    """Bootstrap intervals around the fit to all points: groups, or rows without groups, drawn with replacement.

    Uses expanded percentiles, which give a mean the width of its t interval (Hesterberg 2015, The American Statistician
    69, 371). An end of the half-life is None where draws never reach half. Raises UserError below 10 groups or rows, or
    100 replicates.
    """
    group = fit.observations.group
    names, place = np.unique(np.arange(fit.observations.n) if group is None else group, return_inverse=True)
    unit = "rows" if group is None else "groups"
    if names.size < CLUSTERS:
        instead = "" if group is None else "; the Student-t intervals over groups are valid for few"
        raise UserError(
            f"cannot bootstrap {names.size} {unit}: expected at least {CLUSTERS}, since percentiles over fewer cover "
            f"less often than they claim{instead}"
        )
    if replicates < DRAWS:
        raise UserError(f"{replicates} bootstrap replicates: expected at least {DRAWS} for 95 % percentiles")
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(names.size, np.full(names.size, 1 / names.size), size=replicates).astype(float)
    weights = counts[:, place] * (1.0 if fit.observations.weights is None else fit.observations.weights)
    drawn = fit_many(fit.law, fit.observations, weights=weights, around=fit, fixed=fit.fixed)
    fit.derived["bootstrap"] = drawn
    shares = expanded(names.size, level)
    low, high = np.quantile(drawn.theta, shares, axis=0)
    half, halves, shown = fit.law.half_life(fit.theta), drawn.half_life, None  # of all points, as the draws are
    if half is not None and halves is not None:
        # Order statistics instead of interpolation: some half-lives are infinite.
        ends = (_finite(end) for end in np.quantile(halves, shares, method="nearest"))
        censored = half > fit.observations.x[:, 0].max()
        shown = HalfLife(estimate=_finite(float(half)), low=next(ends), high=next(ends), censored=bool(censored))
    return Intervals(
        parameters={
            name: Interval(estimate=float(fit.theta[i]), low=float(low[i]), high=float(high[i]), count=names.size)
            for i, name in enumerate(fit.law.names)
        },
        half_life=shown, by=dict.fromkeys((*fit.law.names, "half-life"), f"bootstrap, {names.size} {unit}"),
        method=f"bootstrap over {names.size} {unit}, {replicates} replicates",
    )  # fmt: skip


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
