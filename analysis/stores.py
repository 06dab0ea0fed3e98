"""Where MLflow keeps runs: a SQLite file read by SQL, anything else through MLflow's client.

Both give the same plain records, so that load.py knows nothing of either.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlparse

import polars as pl

from analysis.errors import UserError

POINTS = {"run": pl.String, "key": pl.String, "step": pl.Int64, "value": pl.Float64}
CLIENT_THREADS = 8


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


class Store(Protocol):
    def runs(self, tag: str, values: Sequence[str], experiment: str | None = None) -> list[Run]:
        """Active runs whose tag has one of the values."""
        ...

    def points(self, runs: Sequence[Run]) -> pl.DataFrame:
        """Every logged point: run, key, step, value; of points logged twice the newest; NaN left out."""
        ...

    def artifact(self, run: Run, name: str) -> str | None:
        """Text of an artifact, or None when there is none."""
        ...


def open_store(tracking_uri: str) -> Store:
    """Raises UserError when nothing is there."""
    if tracking_uri.startswith("sqlite:"):
        return SqliteStore(tracking_uri)
    return ClientStore(tracking_uri)


def newest(points: pl.DataFrame) -> pl.DataFrame:
    """Of points with the same run, key and step, the one written last; missing values are absent."""
    last = points.sort("timestamp", maintain_order=True).unique(
        ["run", "key", "step"], keep="last", maintain_order=True
    )
    return last.filter(pl.col("value").is_not_null() & pl.col("value").is_not_nan()).select(list(POINTS))


class SqliteStore:
    def __init__(self, tracking_uri: str) -> None:
        self.path = Path(re.sub(r"^sqlite:/{2,3}", "", tracking_uri, count=1)).absolute()
        if not self.path.is_file():
            raise UserError(
                f"no tracking store at {self.path}: expected the mlflow.db of a sweep; run the study first, "
                "or name its place with --results or --tracking-uri"
            )

    def _query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            connection = sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True, timeout=30)
            try:
                return connection.execute(sql, values).fetchall()
            finally:
                connection.close()
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"{self.path} cannot be read as an MLflow store ({error}): give the mlflow.db of a sweep"
            ) from error

    def runs(self, tag: str, values: Sequence[str], experiment: str | None = None) -> list[Run]:
        rows = self._query(
            """SELECT r.run_uuid, r.name, r.experiment_id, r.status, r.start_time, r.end_time, r.artifact_uri
               FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid
               WHERE t.key = ? AND t.value IN (SELECT value FROM json_each(?)) AND r.lifecycle_stage = 'active'
               AND (? IS NULL OR r.experiment_id = ?) ORDER BY r.start_time, r.run_uuid""",
            tag, _json(values), experiment, experiment,
        )  # fmt: skip
        ids = _json([row[0] for row in rows])
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

    def points(self, runs: Sequence[Run]) -> pl.DataFrame:
        rows = self._query(
            """SELECT run_uuid, key, step, CASE is_nan WHEN 1 THEN NULL ELSE value END, timestamp FROM metrics
               WHERE run_uuid IN (SELECT value FROM json_each(?))""",
            _json([run.id for run in runs]),
        )
        return newest(pl.DataFrame(rows, schema={**POINTS, "timestamp": pl.Int64}, orient="row"))

    def artifact(self, run: Run, name: str) -> str | None:
        parsed = urlparse(run.artifacts)
        if parsed.scheme not in ("", "file"):
            return ClientStore(f"sqlite:///{self.path}").artifact(run, name)
        folders = [Path(unquote(parsed.path))]
        # A results folder that was moved or copied still holds its artifacts beside the database.
        folders += self.path.parent.glob(f"artifacts/**/{run.id}/artifacts")
        for folder in folders:
            if (folder / name).is_file():
                return (folder / name).read_text(encoding="utf-8")
        return None


class ClientStore:
    """A tracking server, or any other store that MLflow knows. Slower: one request a run and metric."""

    def __init__(self, tracking_uri: str) -> None:
        import os

        # A report must not hang for minutes on a server that is not there; the user's own settings win.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        from mlflow import MlflowClient

        self.uri = tracking_uri
        self._client = MlflowClient(tracking_uri=tracking_uri)
        self._found: dict[str, Any] = {}
        try:
            self._experiments = [experiment.experiment_id for experiment in self._client.search_experiments()]
        except Exception as error:  # MLflow raises its own, requests' and SQLAlchemy's errors here
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise UserError(
                f"the tracking store {tracking_uri} does not answer ({reason}): "
                "check the address and that the server runs"
            ) from error

    def runs(self, tag: str, values: Sequence[str], experiment: str | None = None) -> list[Run]:
        wanted, runs = set(values), []
        one = len(values) == 1 and not {"'", '"'} <= set(values[0])
        quote = '"' if one and "'" in values[0] else "'"
        # MLflow's filter language knows no escapes and no OR: what it cannot say is sorted out below.
        condition = f"tags.`{tag}` = {quote}{values[0]}{quote}" if one else f"tags.`{tag}` LIKE '%'"
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [experiment] if experiment else self._experiments, condition, max_results=1000, page_token=token
            )
            for found in page:
                if found.data.tags.get(tag) in wanted:
                    self._found[found.info.run_id] = found
                    runs.append(_plain(found))
            token = page.token
            if not token:
                return sorted(runs, key=lambda run: (run.started, run.id))

    def points(self, runs: Sequence[Run]) -> pl.DataFrame:
        wanted = [(run.id, key) for run in runs for key in self._found[run.id].data.metrics]

        def history(item: tuple[str, str]) -> list[tuple[str, str, int, float, int]]:
            run, key = item
            return [
                (run, key, point.step, point.value, point.timestamp)
                for point in self._client.get_metric_history(run, key)
            ]

        with ThreadPoolExecutor(CLIENT_THREADS) as pool:
            rows = [row for rows in pool.map(history, wanted) for row in rows]
        return newest(pl.DataFrame(rows, schema={**POINTS, "timestamp": pl.Int64}, orient="row"))

    def artifact(self, run: Run, name: str) -> str | None:
        import tempfile

        from mlflow import artifacts

        if name not in {file.path for file in self._client.list_artifacts(run.id)}:
            return None
        with tempfile.TemporaryDirectory() as folder:
            path = artifacts.download_artifacts(
                run_id=run.id, artifact_path=name, dst_path=folder, tracking_uri=self.uri
            )
            return Path(path).read_text(encoding="utf-8")


def _plain(found: Any) -> Run:
    """A run of MLflow's client as a plain record."""
    info, data = found.info, found.data
    return Run(
        id=info.run_id, name=info.run_name or "", experiment=info.experiment_id, status=info.status,
        started=info.start_time or 0, ended=info.end_time, artifacts=info.artifact_uri,
        tags=dict(data.tags), params=dict(data.params),
    )  # fmt: skip


def _json(values: Sequence[str]) -> str:
    return json.dumps(list(values))


def _grouped(rows: Sequence[tuple[str, str, str]]) -> dict[str, dict[str, str]]:
    """(run, key, value) as run -> {key: value}."""
    grouped: dict[str, dict[str, str]] = {}
    for run, key, value in rows:
        grouped.setdefault(run, {})[key] = value
    return grouped
