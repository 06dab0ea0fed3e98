"""The records that every kind of MLflow store returns: a SQLite file read by SQL, a server over REST, others through
MLflow's client. load.py and cache.py depend on these records alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import polars as pl

POINTS = {
    "run": pl.Categorical, "key": pl.Categorical, "step": pl.Int64, "timestamp": pl.Int64, "value": pl.Float64,
}  # fmt: skip
Mark = list[Any]
"""What a store needs to tell later whether a run has changed; plain JSON values."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One MLflow run; times in milliseconds since 1970, `ended` None while it runs."""

    id: str
    name: str
    experiment: str
    status: str
    started: int
    ended: int | None
    artifacts: str
    tags: dict[str, str]
    params: dict[str, str]

    @property
    def touched(self) -> int:
        """When it last started or ended: a sweep that is run again counts as new."""
        return max(self.started, self.ended or 0)


class Reading(NamedTuple):
    """The points of some runs beyond those already known."""

    points: pl.DataFrame
    """Columns POINTS: the new points in the order of writing; null where NaN was logged."""
    kept: set[str]
    """Runs whose known points are still valid; for all others `points` holds every point."""
    marks: dict[str, Mark]
    """By run; pass as `known` next time."""


class Store(Protocol):
    def runs(self, tag: str, values: Sequence[str], experiment: str | None = None) -> list[Run]:
        """Active runs whose tag has one of the values."""
        ...

    def read(self, runs: Sequence[Run], known: Mapping[str, Mark]) -> Reading:
        """The points of `runs` that are not covered by the marks `known`."""
        ...

    def stamp(self) -> Mark | None:
        """Unchanged as long as nothing was written; None if the store cannot tell."""
        ...

    def artifact(self, run: Run, name: str) -> str | None:
        """Text of an artifact, or None if there is none."""
        ...


def newest(points: pl.DataFrame) -> pl.DataFrame:
    """Of points with the same run, key and step the one with the latest timestamp, and among these the one written
    last. Series are contiguous, with steps in order. Columns POINTS."""
    series = [pl.col(name).to_physical() for name in ("run", "key")]
    points = points.sort(*series, "step", "timestamp", maintain_order=True)
    same = pl.all_horizontal(column == column.shift(-1) for column in (*series, pl.col("step")))
    return points.filter(~same.fill_null(False))
