"""What a table lacks, in words: blank responses, seeds that lack a value of an input, times that look like bounds,
clocks that do not begin at the drop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.errors import UserError
from analysis.fitting.observations import Observations
from analysis.fitting.table import ROW, Roles
from analysis.laws.base import Law
from analysis.stats.arrays import Array
from analysis.stats.format import plural

SHOWN = 3
"""Groups that a warning names."""
NEAR, HALF = 0.2, 0.5
"""A clock whose first step after its start is below NEAR of the start, or whose start is above HALF of its span, seems
to count from before the drop."""


def late_start(clock: Array, run: NDArray[np.generic]) -> float | None:
    """Median first value of a clock (n,) over the runs (n,), where most runs start far from 0 for how closely they are
    measured: raw training steps, of which a half-life from 0 says nothing."""
    names, place = np.unique(run, return_inverse=True)
    firsts, late = [], []
    for own in np.split(np.lexsort((clock, place)), np.cumsum(np.bincount(place))[:-1]):
        at = np.unique(clock[own])
        firsts.append(at[0])
        late.append(at.size > 1 and at[0] > 0 and (at[1] - at[0] < NEAR * at[0] or at[0] > HALF * np.ptp(at)))
    return float(np.median(firsts)) if sum(late) > names.size / 2 else None


def since(column: str, first: float) -> str:
    """What to do about a late start, in words."""
    return (
        f"{column} begins at {first:g}, but the law counts from 0: if what decays was trained until then, pass "
        f"--origin {first:g} (or subtract each run's own); --origin 0 if {column} is the time since then"
    )


def from_origin(points: Observations, law: Law, column: str, origin: float | None) -> tuple[Observations, list[str]]:
    """The points with the law's clock from `origin`; a note if it seems to begin elsewhere and no origin is given.
    Raises UserError on an origin of a law without a clock, and on one after the first point."""
    clock, counts = points.x[:, 0], law.inputs[0] == "x" and law.least is not None
    if origin is None:
        one = np.zeros(points.n) if points.group is None else points.group
        first = late_start(clock, one) if counts else None
        return points, [] if first is None else [since(column, first)]
    if not counts or not clock.min() >= origin:
        why = f"{column} begins at {clock.min():g}" if counts else f"{law.name} has no clock that counts from 0"
        raise UserError(f"--origin is {origin:g}, but {why}: expected the time at which what decays was last trained")
    return replace(points, x=np.column_stack([clock - origin, points.x[:, 1:]])), []


def blanks(frame: pl.DataFrame, roles: Roles) -> list[str]:
    """Of responses that are blank, and groups that are left out with them."""
    response = [each for each in (roles.y, roles.hits, roles.trials, roles.low, roles.high) if each is not None]
    blank = frame.select(pl.all_horizontal(pl.col(response).is_null())).to_series()
    if not blank.any():
        return []
    found = []
    if roles.y is not None:
        found.append(
            f"{roles.y} is blank in {plural(int(blank.sum()), 'row')}, left out as if by chance: if it was not "
            "reached there, write its last value and name a column that is true in such rows with --censored"
        )
    if roles.group is not None:
        gone = frame.filter(blank)[roles.group].unique().sort()
        gone = gone.filter(~gone.is_in(frame.filter(~blank)[roles.group].unique().to_list()))
        if gone.len():
            found.append(f"{roles.group} {named(gone)} left out: {', '.join(response)} blank in all its rows")
    return found


def mostly_bounds(frame: pl.DataFrame, roles: Roles, bounds: NDArray[np.bool_] | None) -> list[str]:
    """Of a column of bounds that is true in most rows."""
    if roles.censored is None or bounds is None or not bounds.mean() > 0.5:
        return []
    return [
        f"{roles.censored} is true in {int(bounds.sum())} of {frame.height} rows: is it true where a time was not "
        "reached, or inverted?"
    ]


def complete(frame: pl.DataFrame, law: Law, roles: Roles) -> tuple[pl.DataFrame, list[str]]:
    """A table of times without the groups that lack a value of the inputs that others have, as `scaling` and `trend`
    have it: what is missing may be what was not reached. The table as it is unless two groups are complete."""
    if not law.times or roles.group is None or {roles.group, *roles.x} - {*frame.columns}:
        return frame, []
    cells = frame.select(roles.group, *roles.x).unique()
    every, counts = cells.select(roles.x).n_unique(), cells.group_by(roles.group).len()
    lacking = counts.filter(pl.col("len") < every)[roles.group].sort()
    if lacking.is_empty() or counts.height - lacking.len() < 2:
        return frame, []
    note = (
        f"{roles.group} {named(lacking)} left out, as `scaling` and `trend` do: not all of {every} values of "
        f"{', '.join(roles.x)} are there; if a time was not reached, write the last time seen and name --censored"
    )
    rows = frame.with_row_index(ROW, offset=1)  # errors name rows of the table as it was
    return rows.filter(~pl.col(roles.group).is_in(lacking.to_list())), [note]


def tied(frame: pl.DataFrame, law: Law, roles: Roles) -> list[str]:
    """Of times that are the largest, of all or at one value of the inputs, more than once and more often than others
    repeat: the length of a run, not the time that was asked for."""
    if not law.times or roles.y is None or roles.censored is not None or roles.low is not None:
        return []
    times = frame.drop_nulls(roles.y).select(*roles.x, time=pl.col(roles.y))
    repeated = pl.len().over("time") > 1
    rows = times.with_columns(
        whole=repeated & (pl.col("time") == pl.col("time").max()),
        cell=(pl.len().over(*roles.x, "time") > 1) & (pl.col("time") == pl.col("time").max().over(roles.x)),
        other=repeated,
    )  # fmt: skip
    late = rows["whole"] | rows["cell"]
    if late.sum() <= (rows["other"] & ~late).sum():
        return []
    values = np.unique(times.filter(late)["time"].to_numpy())
    shown = ", ".join(f"{value:g}" for value in values[:SHOWN]) + ", ..." * (values.size > SHOWN)
    return [
        f"{int(late.sum())} of {rows.height} times are the largest ones, {shown}, more than once: if their runs ended "
        "there, they are lower bounds, so name a column that is true in such rows with --censored"
    ]


def named(groups: Sequence[object] | pl.Series) -> str:
    """ "3 is" or "3, 4, 5, ... are"."""
    names = ", ".join(str(each) for each in groups[:SHOWN])
    return f"{names}{', ...' * (len(groups) > SHOWN)} {'is' if len(groups) == 1 else 'are'}"
