"""MLflow's SQLite file, read by SQL: runs through the standard library, points by column through Arrow (ADBC)."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlparse

import polars as pl

from analysis.errors import UserError
from analysis.runs.client import ClientStore
from analysis.runs.records import POINTS, Mark, Reading, Run
from halflife.tracking import schema

T = TypeVar("T")
TIMEOUT = 30.0
"""Seconds to wait for a sweep that is writing."""
READ_ONLY = "readonly database"
"""In the error of a reader that would have to write"""
ROWS = 65_536
"""Rows per batch of the reader."""
READ = """
SELECT m.rowid AS point, m.run_uuid AS run, m.key, m.step, m.timestamp, m.value, m.is_nan = 1 AS is_nan
FROM json_each(?) w JOIN metrics m
ON m.run_uuid = json_extract(w.value, '$[0]') AND m.rowid > json_extract(w.value, '$[1]')
"""
# An unchanged run has the same sums over the same rows. MLflow only appends, or deletes whole runs.
SUMS = """
SELECT m.run_uuid, count(*), total(m.value), sum(m.is_nan = 1), sum(abs(m.step) % 1000003), sum(m.timestamp % 1000003)
FROM json_each(?) w JOIN metrics m
ON m.run_uuid = json_extract(w.value, '$[0]') AND m.rowid <= json_extract(w.value, '$[1]') GROUP BY m.run_uuid
"""

EMPTY: Mark = [0, 0, 0.0, 0, 0, 0]
"""The mark of a run without points: last rowid, count, total value, NaNs, sums of steps and of timestamps."""


class SqliteStore:
    def __init__(self, tracking_uri: str) -> None:
        self.path = schema.sqlite_path(tracking_uri).absolute()
        if not self.path.is_file() or not self.path.stat().st_size:  # empty where a study stopped before its first run
            raise UserError(
                f"no tracking store at {self.path}: expected the mlflow.db of a sweep; run the study first, "
                "or pass its location with --results or --tracking-uri"
            )

    def runs(self, tag: str, values: Sequence[str], experiment: str | None = None) -> list[Run]:
        rows = self._query(
            """SELECT r.run_uuid, r.name, r.experiment_id, r.status, r.start_time, r.end_time, r.artifact_uri
               FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid
               WHERE t.key = ? AND t.value IN (SELECT value FROM json_each(?)) AND r.lifecycle_stage = 'active'
               AND (? IS NULL OR r.experiment_id = ?) ORDER BY r.start_time, r.run_uuid""",
            tag, json.dumps(list(values)), experiment, experiment,
        )  # fmt: skip
        ids = json.dumps([row[0] for row in rows])
        tags, params = (
            _grouped(
                self._query(
                    f"SELECT run_uuid, key, value FROM {table} WHERE run_uuid IN (SELECT value FROM json_each(?))", ids
                )
            )
            for table in ("tags", "params")
        )
        return [
            Run(
                id=row[0], name=row[1] or "", experiment=str(row[2]), status=row[3] or "", started=row[4] or 0,
                ended=row[5], artifacts=row[6] or "", tags=tags.get(row[0], {}), params=params.get(row[0], {}),
            )
            for row in rows
        ]  # fmt: skip

    def read(self, runs: Sequence[Run], known: Mapping[str, Mark]) -> Reading:
        """A run's mark: the last rowid and sums over its points up to there, as in EMPTY."""
        wanted = {run.id for run in runs}
        held = {run: mark for run, mark in known.items() if run in wanted}
        now = self._sums({run: mark[0] for run, mark in held.items()})
        kept = {run for run, mark in held.items() if _agree(mark[1:], now.get(run, EMPTY[1:]))}
        before = {run: held[run] if run in kept else EMPTY for run in wanted}
        points = self._points({run: mark[0] for run, mark in before.items()})
        return Reading(points=points.select(list(POINTS)), kept=kept, marks=_marks(points, before))

    def stamp(self) -> Mark | None:
        """Sizes and times of the file and its log, and the counter that SQLite increments on every write."""
        files = [self.path, self.path.with_name(self.path.name + "-wal")]
        stats = [file.stat() for file in files if file.is_file()]
        with self.path.open("rb") as file:
            counter = file.read(28)[24:28].hex()  # sqlite.org/fileformat2.html, 1.3.7
        return [counter, *(number for stat in stats for number in (stat.st_size, stat.st_mtime_ns))]

    def artifact(self, run: Run, name: str) -> str | None:
        parsed = urlparse(run.artifacts)
        if parsed.scheme not in ("", "file"):
            return ClientStore(schema.sqlite_uri(self.path)).artifact(run, name)
        folders = [Path(unquote(parsed.path))]
        # A results folder that was moved or copied still holds its artifacts next to the database.
        folders += self.path.parent.glob(f"artifacts/**/{run.id}/artifacts")
        for folder in folders:
            if (folder / name).is_file():
                return (folder / name).read_text(encoding="utf-8")
        return None

    def _sums(self, last: Mapping[str, int]) -> dict[str, Mark]:
        if not last:
            return {}
        return {run: list(sums) for run, *sums in self._query(SUMS, json.dumps(list(last.items())))}

    def _points(self, last: Mapping[str, int]) -> pl.DataFrame:
        """Points beyond the last known rowid of each run, ordered by rowid: POINTS and point."""
        import adbc_driver_manager
        from adbc_driver_sqlite import dbapi

        def ask() -> pl.DataFrame | pl.Series:
            with dbapi.connect(f"{self.path.as_uri()}?mode=ro") as connection:
                with connection.cursor() as cursor:
                    cursor.execute(f"PRAGMA busy_timeout = {round(1000 * TIMEOUT)}")
                with connection.cursor(adbc_stmt_kwargs={"adbc.sqlite.query.batch_rows": str(ROWS)}) as cursor:
                    cursor.execute(READ, (json.dumps(list(last.items())),))
                    return pl.from_arrow(cursor.fetch_arrow_table())

        rows = self._answer(ask, adbc_driver_manager.Error)
        assert isinstance(rows, pl.DataFrame)
        return rows.with_columns(
            pl.col("run", "key").cast(pl.String).cast(pl.Categorical),  # an empty result has no types
            pl.col("point", "step", "timestamp").cast(pl.Int64),
            value=pl.when(pl.col("is_nan").cast(pl.Int64) == 0).then(pl.col("value").cast(pl.Float64)),
        ).sort("point")

    def _query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        def ask() -> list[tuple[Any, ...]]:
            with closing(self._connection("ro")) as connection:
                return connection.execute(sql, values).fetchall()

        return self._answer(ask, sqlite3.DatabaseError)

    def _connection(self, mode: str) -> sqlite3.Connection:
        return sqlite3.connect(f"{self.path.as_uri()}?mode={mode}", uri=True, timeout=TIMEOUT)

    def _answer(self, ask: Callable[[], T], kind: type[Exception]) -> T:
        """What `ask` returns. A journal that a killed writer left, or that is deleted while it is looked at, may not be
        rolled back by who only reads (sqlite.org/lockingv3.html, "hot journals"): then it is by a connection that may
        write, and asked once more."""
        try:
            try:
                return ask()
            except kind as error:
                if READ_ONLY not in str(error):
                    raise
                with closing(self._connection("rw")) as connection:
                    connection.execute("SELECT count(*) FROM sqlite_master")
                return ask()
        except (kind, sqlite3.DatabaseError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{self.path} cannot be read as an MLflow store ({reason}): pass the mlflow.db of a sweep"
            ) from error


def _marks(points: pl.DataFrame, before: Mapping[str, Mark]) -> dict[str, Mark]:
    """The marks `before`, updated with `points`."""
    marks = dict(before)
    sums = points.group_by("run").agg(
        pl.col("point").max(),
        pl.len(),
        pl.col("value").sum(),
        pl.col("value").null_count().alias("nan"),
        (pl.col("step").abs() % 1000003).sum(),
        (pl.col("timestamp") % 1000003).sum(),
    )
    for run, last, *added in sums.rows():
        marks[run] = [last, *(a + b for a, b in zip(marks[run][1:], added, strict=True))]
    return marks


def _agree(mark: Mark, now: Mark) -> bool:
    """Whether counts are equal, and totals up to rounding: SQLite and polars sum in different orders."""
    count, total, *rest = mark
    return [count, *rest] == [now[0], *now[2:]] and math.isclose(total, now[1], rel_tol=1e-12, abs_tol=1e-12)


def _grouped(rows: Sequence[tuple[str, str, str]]) -> dict[str, dict[str, str]]:
    """(run, key, value) as run -> {key: value}."""
    grouped: dict[str, dict[str, str]] = {}
    for run, key, value in rows:
        grouped.setdefault(run, {})[key] = value
    return grouped
