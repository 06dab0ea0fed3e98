"""A fit in words: what was fitted to what, its parameters and what follows from them with intervals, its warnings."""

from __future__ import annotations

import contextlib
import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.fitting.derived import derived_intervals
from analysis.fitting.fit import alone, by_group
from analysis.fitting.groups import never_had
from analysis.fitting.half_lives import GroupHalfLife, bound_reason, half_excess, never_reached, of_groups
from analysis.fitting.intervals import HalfLife, Intervals, intervals
from analysis.fitting.result import POOLED, Fit, Warned, in_order
from analysis.fitting.scatter import advice
from analysis.stats.format import plural
from analysis.stats.intervals import Interval

if TYPE_CHECKING:
    from analysis.fitting.extrapolation import HeldOut

Row = tuple[str, str, str, str, str]
GROUPS = 12
"""Groups whose half-lives are printed."""
UNBOUNDED = "?: the data do not bound it on that side"


def summary(
    fit: Fit, found: Intervals, derived: dict[str, Interval], resampled: Intervals | None = None, left_out: int = 0
) -> list[str]:
    """Lines: the law, the data, a table of estimates with 95 % intervals, how they were found."""
    law = fit.law
    ends = {name: "held" if name in fit.fixed else bracket(each) for name, each in found.parameters.items()}
    by = {name: "" if name in fit.fixed else how for name, how in found.by.items()}
    rows = [
        (p.name, _number(found.parameters[p.name].estimate), ends[p.name], by[p.name], p.meaning)
        for p in law.parameters
    ]
    for name, each in law.derived.items():
        if name in derived:
            held = derived[name].count == 0
            shown, how = ("held", "") if held else (bracket(derived[name]), found.derived_by)
            rows.append((name, _number(derived[name].estimate), shown, how, each.meaning))
    others = {name: bracket(each) for name, each in resampled.parameters.items()} if resampled else {}
    if found.half_life is not None:
        half = found.half_life
        rows.append((law.half_name, _number(half.estimate), bracket(half), by["half-life"], _reach(half, fit)))
        if resampled and resampled.half_life:
            others[law.half_name] = bracket(resampled.half_life)
        if (excess := half_excess(fit)) is not None:
            meaning = f"x at which half of the excess over the floor {law.floor} is lost"
            rows.append(
                (f"half-way to {law.floor}", _number(excess.estimate), bracket(excess), found.derived_by, meaning)
            )
    lines = [f"{law.name}: {law.formula}", data(fit, left_out), *_table(rows, others if resampled else None)]
    lines += _of_groups(fit)
    value = ("summed huber", fit.objective) if fit.log_likelihood is None else ("log-likelihood", fit.log_likelihood)
    shown = f"{value[0]}{' of one fit to all points' * alone(fit)} {value[1]:.8g}"
    lines.append(f"{shown}; {fit.starts_at_optimum:.0%} of {fit.starts} starts reached it")
    lines.append(f"estimates: {estimator(fit)}")
    lines.append(f"95 % intervals: {found.method}{f'; {resampled.method}' if resampled else ''}")
    cells = [cell for row in rows for cell in row[1:3]] + list(others.values())
    if any("?" in cell for cell in cells) and not found.method.startswith("none"):
        lines.append(UNBOUNDED)
    if fit.error.own is not None and fit.own is not None:
        lines.append(f"{fit.error.own.name} {_own(fit)}: {fit.error.own.meaning}")
    return lines


def estimator(fit: Fit) -> str:
    """What the estimates are: the same design has others by other routes."""
    group, law = fit.observations.group, fit.law
    if group is None or np.unique(group).size < 2:
        return "one fit to all points"
    count = plural(np.unique(group).size, "group")
    if not alone(fit):
        return f"one fit to all points of {count}, none of which is fitted alone"
    logs = ", ".join(p.name for p in law.parameters if p.log and p.name not in fit.fixed)
    if gone := int(never_had(fit).sum()):
        count = f"{np.unique(group).size - gone} of {count}"
    means = f"means over {count}, each fitted alone{f' (geometric for {logs})' if logs else ''}"
    if not law.times:
        return means
    other = "" if fit.error.relative else ", of ln y as --error lognormal is; this one weighs large times most"
    return f"{means}; `scaling` also takes one slope per seed{other}"


def _own(fit: Fit) -> str:
    """The error's own parameter; over groups that have curves of their own, its range."""
    if alone(fit) and (own := by_group(fit).own) is not None:
        return f"{_number(own.min())} to {_number(own.max())} in single groups"
    return _number(fit.own)


class Told(Fit):
    """A fit that prints as some ten lines: the law, the data, estimates with 95 % intervals, warnings.

    `parameters` and `half_life` are the numbers printed: means over groups where each has a fit of its own. `pooled` is
    the one fit to all points, whose `theta` and `predict` are also those here.
    """

    @classmethod
    def of(cls, fit: Fit, *warnings: str) -> Told:
        """The same fit with further warnings."""
        told = cls(**{**_fields(fit), "warnings": tuple(in_order([*fit.warnings, *warnings]))})
        told.derived.update(fit.derived)
        return told

    @property
    def pooled(self) -> Fit:
        plain = Fit(**_fields(self))
        object.__setattr__(plain, "derived", self.derived)
        return plain

    @property
    def parameters(self) -> dict[str, float]:
        """As printed; NaN where the groups have no mean."""
        if not alone(self):
            return super().parameters
        return {name: each.estimate for name, each in intervals(self.pooled).parameters.items()}

    @property
    def half_life(self) -> float | None:
        """As printed: inf if no group ever reaches half, NaN if the groups only bound it, None if the law has none."""
        found = intervals(self.pooled).half_life if alone(self) else None
        if found is None:
            return super().half_life
        if found.estimate is not None:
            return found.estimate
        return math.inf if np.isinf(np.asarray(by_group(self).half_life)).all() else math.nan

    def __str__(self) -> str:
        if "intervals" not in self.derived:
            self.derived["intervals"] = intervals(self.pooled), derived_intervals(self.pooled)
        found, follows = self.derived["intervals"]
        return "\n".join([*summary(self.pooled, found, follows), *notes(self.pooled, found, {}, False)])


def _fields(fit: Fit) -> dict[str, Any]:
    return {each.name: getattr(fit, each.name) for each in fields(fit) if each.init}


def allocation(compute: float, parts: dict[str, Interval], bootstrapped: bool = False) -> str:
    """The best split of a budget, in one line."""
    shown = ", ".join(f"{name} = {_number(each.estimate)} {bracket(each)}" for name, each in parts.items())
    none = "not given (no finite value, or units in doubt: see the warnings)"
    return f"optimum at C = {compute:g} FLOPs: {shown or none}{' (bootstrap)' * bootstrapped}"


def notes(fit: Fit, found: Intervals, predicted: dict[str, HeldOut], resampled: bool) -> list[str]:
    """Lines: predictions of held-out parts, what the bootstrap is of, the warnings."""
    lines = [f"held out: {part} ({each.where}, {each.points} of {plural(fit.observations.n, 'point')}) is predicted "
             f"from the rest with a root mean square error of {_number(each.error)} in {fit.error.compared}"
             for part, each in predicted.items()]  # fmt: skip
    if resampled and alone(fit):
        shown = ", ".join(f"{name} = {_number(value)}" for name, value in fit.parameters.items())
        lines.append(f"the bootstrap is of {POOLED} ({shown}), not of the mean over groups")
    trust = None if any("--group" in warning for warning in fit.warnings) else advice(fit, resampled)
    return [*lines, *(f"warning: {line}" for line in [*warnings(fit, found), *([trust] if trust else [])])]


def warnings(fit: Fit, found: Intervals) -> list[str]:
    """One line each: about the data, the model (in groups, then in the fit to all points), and the intervals."""
    every = in_order([*fit.warnings, *(Warned(note, "model") for note in found.notes)])
    pooled = f"in {POOLED}, " if alone(fit) else ""
    return [f"{pooled}{line}" if isinstance(line, Warned) and line.about == POOLED else str(line) for line in every]


def data(fit: Fit, left_out: int = 0) -> str:
    """The number of points, groups and bounds, the errors that were assumed, and the columns by their names here."""
    points = fit.observations
    groups = "" if points.group is None else f" in {plural(len(set(points.group.tolist())), 'group')}"
    weighted = "" if points.weights is None else ", weighted"
    dropped = f"; {plural(left_out, 'row')} without a response left out" if left_out else ""
    bounded = "" if points.censored is None else f" ({int(points.censored.sum())} of them are bounds)"
    names = ", ".join(f"{name} = {column}" for name, column in fit.columns.items() if name != column)
    where = f"; {names}" if names else ""
    return f"{plural(points.n, 'point')}{groups}{bounded}, {fit.error.name} errors{weighted}{dropped}{where}"


def _of_groups(fit: Fit) -> list[str]:
    """Lines: the half-life of each group, and why there is no mean over them."""
    found = of_groups(fit)
    if not found:
        return []
    with contextlib.suppress(ValueError):  # names that are numbers: 2 before 10
        found = sorted(found, key=lambda each: float(each.group))
    shown = [("", fit.law.half_name, "95 % interval", ""), *(_of_group(each) for each in found[:GROUPS])]
    widths = [max(len(row[i]) for row in shown) for i in range(3)]
    lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]).rstrip()
             for row in shown]  # fmt: skip
    more = [f"  and {len(found) - GROUPS} more groups: --json FILE has all"] if len(found) > GROUPS else []
    why = bound_reason(fit)
    return ["each group alone:", *(f"  {line}" for line in lines), *more, *([why] if why else [])]


def _of_group(each: GroupHalfLife) -> tuple[str, str, str, str]:
    if each.estimate is not None:
        ends = f"[{_number(each.low)}, {_number(each.high)}]"
        return each.group, _number(each.estimate), ends, ""
    bounds = [("at least", each.at_least), ("at most", each.at_most)]
    shown = " ".join(f"{words} {_number(value)}" for words, value in bounds if value is not None)
    return each.group, shown or "none", "", each.why


def half_life(half: HalfLife | None, fit: Fit | None = None) -> str:
    """A half-life in one cell; without an estimate why, and what it is at least."""
    if half is None:
        return "none in this law"
    if half.estimate is None:
        never = never_reached(fit) if fit else ""
        least = "" if half.bound is None else f"at least {_number(half.bound)}"
        return ", ".join(filter(None, [never or _beyond(half), f"by the data {least}" if never and least else least]))
    return f"{_number(half.estimate)} {bracket(half)}{' (beyond the data)' if half.censored else ''}"


def _beyond(half: HalfLife) -> str:
    return "beyond the data" if half.censored else "not bounded by the data"


def _reach(half: HalfLife, fit: Fit) -> str:
    unit = f"in units of {fit.law.inputs[0]}"
    if fit.law.decays:
        chance = getattr(fit.error, "chance", 0.0)
        above = f" above chance {chance:g}" if chance else ""
        unit = f"x at which half of the start{above} is left (start: the value at x = 0)"
    if half.estimate is not None and not half.censored:
        return unit
    if half.estimate is None:
        return f"{unit}: {half_life(half, fit)}"
    who = "" if fit.observations.group is None else "in some groups "
    return f"{unit}: {who}beyond the data, which end at {_number(float(fit.observations.x[:, 0].max()))}"


def _table(rows: list[Row], others: dict[str, str] | None) -> list[str]:
    """Aligned columns; `others` by name: a further interval."""
    cells = [["", "estimate", "95 % interval", "by", *(["bootstrap"] if others is not None else []), ""]]
    for name, estimate, ends, by, meaning in rows:
        cells.append([name, estimate, ends, by, *([others.get(name, "")] if others is not None else []), meaning])
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]) - 1)]
    return ["  " + "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
            for row in cells]  # fmt: skip


def bracket(found: Interval | HalfLife) -> str:
    return f"[{_number(found.low)}, {_number(found.high)}]"


def _number(value: float | None) -> str:
    return "?" if value is None or not math.isfinite(value) else f"{value:.4g}"
