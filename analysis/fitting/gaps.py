"""What a table lacks, in words: blank responses, seeds that lack a value of an input, times that look like bounds."""

from __future__ import annotations

import numpy as np
import polars as pl

from analysis.fitting.table import ROW, Roles
from analysis.laws.base import Law
from analysis.stats.format import plural

SHOWN = 3
"""Groups that a warning names."""


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
            found.append(f"{roles.group} {_named(gone)} left out: {', '.join(response)} blank in all its rows")
    return found


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
        f"{roles.group} {_named(lacking)} left out, as `scaling` and `trend` do: not all of {every} values of "
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


def _named(groups: pl.Series) -> str:
    """ "3 is" or "3, 4, 5, ... are"."""
    names = ", ".join(str(each) for each in groups.head(SHOWN))
    return f"{names}{', ...' * (groups.len() > SHOWN)} {'is' if groups.len() == 1 else 'are'}"
