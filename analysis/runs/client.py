"""A tracking server, read over REST, or any other store that MLflow's client supports (PostgreSQL, a folder).

A server is queried for one metric of many runs at a time, through the endpoint of MLflow's own pages. Servers without
it (404) and other stores are queried for one run and metric at a time, through the client.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from analysis.errors import UserError
from analysis.runs.records import POINTS, Mark, Reading, Run
from halflife.secrets import masked

THREADS = 8
RUNS = 80
"""Runs per request: MLflow allows 100; with 80 the address stays below gunicorn's 4,094 characters."""
MAX_POINTS = 25_000
"""Points per response: MLflow sends no more and does not say when it leaves some out."""
BULK = "/ajax-api/2.0/mlflow/metrics/get-history-bulk"
COLUMNS = ("run_id", "key", "step", "timestamp", "value")


class ClientStore:
    def __init__(self, tracking_uri: str) -> None:
        import os

        # A report must not hang for minutes on an unreachable server; the user's own settings take precedence.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        from mlflow import MlflowClient

        self.uri = tracking_uri
        with self._reported():
            self._client = MlflowClient(tracking_uri=tracking_uri)
        self._bulk = tracking_uri.startswith(("http://", "https://"))
        self._latest: dict[str, list[Any]] = {}
        """Latest point of every metric of the runs found so far, by run id."""
        with self._reported():
            self._experiments = [experiment.experiment_id for experiment in self._client.search_experiments()]

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # MLflow raises its own, requests' and SQLAlchemy's errors
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise UserError(
                f"the tracking store {masked(self.uri)} does not respond ({masked(reason)}): "
                "check the address and that the server is running"
            ) from error

    def runs(self, tag: str, values: Sequence[str], experiment: str | None = None) -> list[Run]:
        wanted, runs = set(values), []
        one = len(values) == 1 and not {"'", '"'} <= set(values[0])
        quote = '"' if one and "'" in values[0] else "'"
        # MLflow's filter language has no escapes and no OR: the rest is filtered below.
        condition = f"tags.`{tag}` = {quote}{values[0]}{quote}" if one else f"tags.`{tag}` LIKE '%'"
        token: str | None = None
        while True:
            with self._reported():
                page = self._client.search_runs(
                    [experiment] if experiment else self._experiments, condition, max_results=1000, page_token=token
                )
            for found in page:
                if found.data.tags.get(tag) in wanted:
                    self._latest[found.info.run_id] = found.data._metric_objs
                    runs.append(_plain(found))
            token = page.token
            if not token:
                return sorted(runs, key=lambda run: (run.started, run.id))

    def read(self, runs: Sequence[Run], known: Mapping[str, Mark]) -> Reading:
        """A run's mark: its state and a digest of the latest point of each metric. A run that changed is read whole."""
        marks = {run.id: [run.status, run.ended, _digest(self._latest[run.id])] for run in runs}
        kept = {run for run, mark in marks.items() if known.get(run) == mark}
        wanted: dict[str, list[str]] = {}
        for run in marks:
            for point in self._latest[run] if run not in kept else ():
                wanted.setdefault(point.key, []).append(run)
        requests = [(key, runs[at : at + RUNS]) for key, runs in wanted.items() for at in range(0, len(runs), RUNS)]
        with self._reported(), ThreadPoolExecutor(THREADS) as pool:
            frames = list(pool.map(self._history, requests))
        points = pl.concat(frames) if frames else pl.DataFrame(schema=POINTS)
        return Reading(points=points, kept=kept, marks=marks)

    def stamp(self) -> Mark | None:
        return None

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

    def _history(self, request: tuple[str, list[str]]) -> pl.DataFrame:
        """Every point of one metric (its key) of some runs."""
        key, runs = request
        if self._bulk:
            found = self._fetch(key, runs)
            if found is not None and len(found) < MAX_POINTS:
                return _frame([point[column] for column in COLUMNS] for point in found)
            if found is not None and len(runs) > 1:  # points may be missing
                half = len(runs) // 2
                return pl.concat([self._history((key, runs[:half])), self._history((key, runs[half:]))])
        return _frame(
            (run, key, point.step, point.timestamp, point.value)
            for run in runs
            for point in self._client.get_metric_history(run, key)
        )

    def _fetch(self, key: str, runs: Sequence[str]) -> list[dict[str, Any]] | None:
        from mlflow.utils.rest_utils import http_request, verify_rest_response

        response = http_request(
            self._client._tracking_client.store.get_host_creds(),  # pyright: ignore[reportAttributeAccessIssue]
            BULK, "GET", params={"metric_key": key, "run_id": list(runs), "max_results": MAX_POINTS},
        )  # fmt: skip
        assert response is not None  # it is only None for requests that do not wait
        if response.status_code == 404:
            self._bulk = False
            return None
        return verify_rest_response(response, BULK).json()["metrics"]


def _frame(rows: Iterable[Sequence[Any]]) -> pl.DataFrame:
    frame = pl.DataFrame(list(rows), schema=POINTS, orient="row")
    return frame.with_columns(pl.col("value").fill_nan(None))


def _digest(latest: Iterable[Any]) -> str:
    """Of a run's latest points: their metrics, steps, timestamps and values."""
    state = sorted((point.key, point.step, point.timestamp, repr(point.value)) for point in latest)
    return hashlib.blake2b(json.dumps(state).encode(), digest_size=16).hexdigest()


def _plain(found: Any) -> Run:
    """A run of MLflow's client as a plain record."""
    info, data = found.info, found.data
    return Run(
        id=info.run_id, name=info.run_name or "", experiment=info.experiment_id, status=info.status,
        started=info.start_time or 0, ended=info.end_time, artifacts=info.artifact_uri,
        tags=dict(data.tags), params=dict(data.params),
    )  # fmt: skip
