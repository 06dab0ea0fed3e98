"""Half-lives in words: that of each group, why a mean over groups is only a bound, and which are never reached."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.fitting.derived import of_functions
from analysis.fitting.fit import alone, by_group
from analysis.fitting.groups import NEVER, Reached, half_lives_by_group, last_seen, own_ends
from analysis.fitting.intervals import intervals
from analysis.fitting.result import Fit
from analysis.laws.base import Derived, Law
from analysis.stats.arrays import Array
from analysis.stats.imputation import CENSORED
from analysis.stats.intervals import Interval, t_interval

EXCESS = "half_way_to_floor"


@dataclass(frozen=True, kw_only=True)
class GroupHalfLife:
    """The half-life of one group by its own fit, or what bounds it; an end of its 95 % interval is None if open."""

    group: str
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    at_least: float | None = None
    """The end of a group's data, by which it has not lost half."""
    at_most: float | None = None
    """Its first point after 0, by which it has."""
    why: str = ""
    """Why there is no estimate."""


def of_groups(fit: Fit) -> list[GroupHalfLife]:
    """In the order of np.unique(group); empty unless there are several groups with fits of their own and the law has a
    half-life. Computed with the intervals of the fit."""
    reached = _alone(fit)
    if reached is None:
        return []
    names, left, never = np.unique(np.asarray(fit.observations.group)), _left(fit), _never(fit, reached)
    ends, found = own_ends(fit), []
    for i, name in enumerate(names):
        low, high = float(reached.low[i]), float(reached.high[i])
        if np.isnan(low):
            found.append(GroupHalfLife(group=str(name), why=f"it never had the skill: it {NEVER}"))
        elif low == high:
            own = (float(np.exp(end[i, -1])) for end in (ends.low, ends.high))
            own_low, own_high = (end if 0 < end < np.inf else None for end in own)
            found.append(GroupHalfLife(group=str(name), estimate=low, low=own_low, high=own_high))
        elif low == 0:
            found.append(GroupHalfLife(group=str(name), at_most=high, why="half is lost by its first x above 0"))
        else:
            why = f"{left[i]:.2g} of its start is left at its last x"
            why += f", and its floor {fit.law.floor} is above half" if never[i] else ""
            found.append(GroupHalfLife(group=str(name), at_least=low, why=why))
    return found


def bound_reason(fit: Fit) -> str:
    """Why the half-life over groups has a bound and no estimate; "" where it has one."""
    reached, half = _alone(fit), intervals(fit).half_life
    if reached is None or half is None or half.estimate is not None or not reached.bounded.any():
        return ""
    late, known = int((reached.bounded & np.isinf(reached.high)).sum()), int(reached.known.sum())
    early = int(reached.bounded.sum()) - late
    parts = [f"{late} do not reach half within their data"] * bool(late)
    parts += [f"{early} have reached it by their first x above 0"] * bool(early)
    found = intervals(fit).parameters
    means = [fit.law.half_name, *(p.name for p in fit.law.parameters
                                  if p.log and p.unit == "x" and np.isnan(found[p.name].estimate))]  # fmt: skip
    many = "more than a third, so" if (late + early) / known > CENSORED else "too few are left:"
    text = f"of {known} groups, {' and '.join(parts)}: {many} no mean of {' and '.join(means)}"
    ends = "" if half.bound is None else (
        f"; {half.bound:.4g} is the geometric mean with the last x of each of these as its half-life"
    )  # fmt: skip
    return text + ends


def never_reached(fit: Fit) -> str:
    """That half is never reached, and why; "" where the law reaches it in every group."""
    law, reached = fit.law, _alone(fit)
    if reached is not None:
        count = int(_never(fit, reached).sum())
        part = f"in {count} of {reached.known.sum()} groups, whose floors {law.floor} are above half of their starts"
        return f"never reached under this law {part}" if count else ""
    half = law.half_life(fit.theta)
    if half is None or np.isfinite(half):
        return ""
    if law.floor is None or not law.decays:
        return "never reached under this law"
    floor, start = fit.parameters[law.floor], float(fit.predict(np.zeros((1, 1)))[0])
    return (
        f"never reached under this law: its floor {law.floor} = {floor:.4g} is above half of its start, {start / 2:.4g}"
    )


def half_excess(fit: Fit) -> Interval | None:
    """Where half of the excess over the floor is lost; None unless a floor keeps the law from half of its start.

    Over groups of their own fits, those that identify the floor and the time scale; NaN if too few do. Computed once
    per fit.
    """
    if EXCESS not in fit.derived:
        fit.derived[EXCESS] = _half_excess(fit)
    return fit.derived[EXCESS]


def _half_excess(fit: Fit) -> Interval | None:
    law = fit.law
    if law.floor is None or not law.decays or not never_reached(fit):
        return None
    reached = _alone(fit)
    if reached is None:
        whole = Derived(function=lambda *theta: law.half_excess(np.stack(np.broadcast_arrays(*theta), -1)),
                        derivatives=lambda theta, at: _excess_slopes(law, theta, at), meaning="", log=True)  # fmt: skip
        return of_functions(fit, {EXCESS: whole}).get(EXCESS)
    found = law.half_excess(by_group(fit).theta)
    assert found is not None
    needed = [i for i, p in enumerate(law.parameters) if p.name == law.floor or (p.log and p.unit == "x")]
    sure = reached.known & own_ends(fit).determined[:, needed].all(axis=1) & np.isfinite(found)
    interval = (
        t_interval(np.log(found[sure])) if (reached.known & ~sure).sum() <= CENSORED * reached.known.sum() else None
    )
    return interval.exp() if interval else Interval(estimate=float("nan"), low=None, high=None, count=0)


def as_json(fit: Fit) -> dict[str, Any]:
    """By name: the half-lives of groups, why there is none over them, and the way to the floor; unknown is null."""
    excess = half_excess(fit)
    return {
        "half_life_by_group": [asdict(each) for each in of_groups(fit)],
        "half_life_why": "; ".join(filter(None, (never_reached(fit), bound_reason(fit)))) or None,
        EXCESS: excess and {"estimate": excess.estimate if np.isfinite(excess.estimate) else None,
                            "low": excess.low, "high": excess.high},
    }  # fmt: skip


def _excess_slopes(law: Law, theta: Array, at: Array) -> Array:
    """Derivatives of the time `at` (b,) in theta (b, P), by the implicit function theorem: the value there stays half
    of the sum of start and floor. Needs no search per parameter."""
    ends = np.stack([at, np.zeros_like(at)], axis=1)[..., None]
    gradient = law.gradient(theta, ends)
    target = (gradient[:, 1] + (np.array(law.names) == law.floor)) / 2
    up, down = law.value(theta, at[:, None, None] * (1 + 1e-5 * np.array([[1.0], [-1.0]]))).T
    with np.errstate(all="ignore"):
        return (target - gradient[:, 0]) * (2e-5 * at / (up - down))[:, None]


def _alone(fit: Fit) -> Reached | None:
    return half_lives_by_group(fit) if alone(fit) else None


def _left(fit: Fit) -> Array:
    """Share of the start of each group that is left at its last x, (groups,)."""
    theta, last = by_group(fit).theta, last_seen(fit.observations)
    with np.errstate(all="ignore"):
        found = fit.law.value(theta, np.stack([last, np.zeros_like(last)], axis=1)[..., None])
        return found[:, 0] / found[:, 1]


def _never(fit: Fit, reached: Reached) -> NDArray[np.bool_]:
    """Groups whose floor is above half of their start, (groups,)."""
    half = by_group(fit).half_life
    assert half is not None
    return np.isinf(half) & reached.known & reached.bounded & (fit.law.floor is not None and fit.law.decays)
