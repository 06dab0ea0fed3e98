"""Where MLflow keeps runs: a SQLite file read by SQL, a server read over REST, other stores through MLflow's client.

All give the same plain records, so that load.py and cache.py know nothing of any of them.
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
"""What a store says of a run so that it can tell later whether the run is still as it was; plain JSON values."""


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
        """When it was last started or finished: a sweep given again counts as new."""
        return max(self.started, self.ended or 0)


class Reading(NamedTuple):
    """What a store says of some runs to one who knows some of their points already."""

    points: pl.DataFrame
    """Columns POINTS: what is not known yet, in the order of writing; null where NaN was logged."""
    kept: set[str]
    """Runs whose known points still hold; for all others `points` has every point."""
    marks: dict[str, Mark]
    """By run; to be handed in as `known` next time."""


class Store(Protocol):
    def runs(self, tag: str, values: Sequence[str], experiment: str | None = None) -> list[Run]:
        """Active runs whose tag has one of the values."""
        ...

    def read(self, runs: Sequence[Run], known: Mapping[str, Mark]) -> Reading:
        """The points of `runs` that one who has those of `known` lacks."""
        ...

    def stamp(self) -> Mark | None:
        """Equal as long as nothing was written; None where the store cannot tell."""
        ...

    def artifact(self, run: Run, name: str) -> str | None:
        """Text of an artifact, or None when there is none."""
        ...


def newest(points: pl.DataFrame) -> pl.DataFrame:
    """Of points with the same run, key and step the one with the latest timestamp, of those the one written last;
    each series together, steps in order. Columns POINTS."""
    series = [pl.col(name).to_physical() for name in ("run", "key")]
    points = points.sort(*series, "step", "timestamp", maintain_order=True)
    same = pl.all_horizontal(column == column.shift(-1) for column in (*series, pl.col("step")))
    return points.filter(~same.fill_null(False))
