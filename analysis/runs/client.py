"""A tracking server, read over REST, or any other store that MLflow's client knows (PostgreSQL, a folder).

A server is asked for one metric of many runs at a time, by the endpoint that MLflow's own pages use; where it has
none (404), and for other stores, one run and metric at a time through the client.
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
"""Runs a request: MLflow allows 100; with these the address stays below gunicorn's 4,094 characters."""
MOST = 25_000
"""Points a request: MLflow sends no more, and does not say that it left some out."""
BULK = "/ajax-api/2.0/mlflow/metrics/get-history-bulk"
COLUMNS = ("run_id", "key", "step", "timestamp", "value")


class ClientStore:
    def __init__(self, tracking_uri: str) -> None:
        import os

        # A report must not hang for minutes on a server that is not there; the user's own settings win.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        from mlflow import MlflowClient

        self.uri = tracking_uri
        with self._told():
            self._client = MlflowClient(tracking_uri=tracking_uri)
        self._bulk = tracking_uri.startswith(("http://", "https://"))
        self._latest: dict[str, list[Any]] = {}
        """Latest point of every metric of the runs found so far, by run."""
        with self._told():
            self._experiments = [experiment.experiment_id for experiment in self._client.search_experiments()]

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # MLflow raises its own, requests' and SQLAlchemy's errors
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise UserError(
                f"the tracking store {masked(self.uri)} does not answer ({masked(reason)}): "
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
            with self._told():
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
        """A run's mark: its state and a digest of the latest point of each metric. A run that moved is read whole."""
        marks = {run.id: [run.status, run.ended, _digest(self._latest[run.id])] for run in runs}
        kept = {run for run, mark in marks.items() if known.get(run) == mark}
        wanted: dict[str, list[str]] = {}
        for run in marks:
            for point in self._latest[run] if run not in kept else ():
                wanted.setdefault(point.key, []).append(run)
        asked = [(key, runs[at : at + RUNS]) for key, runs in wanted.items() for at in range(0, len(runs), RUNS)]
        with self._told(), ThreadPoolExecutor(THREADS) as pool:
            frames = list(pool.map(self._history, asked))
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

    def _history(self, asked: tuple[str, list[str]]) -> pl.DataFrame:
        """Every point of one metric of some runs."""
        key, runs = asked
        if self._bulk:
            found = self._ask(key, runs)
            if found is not None and len(found) < MOST:
                return _frame([point[column] for column in COLUMNS] for point in found)
            if found is not None and len(runs) > 1:  # some may be missing
                half = len(runs) // 2
                return pl.concat([self._history((key, runs[:half])), self._history((key, runs[half:]))])
        return _frame(
            (run, key, point.step, point.timestamp, point.value)
            for run in runs
            for point in self._client.get_metric_history(run, key)
        )

    def _ask(self, key: str, runs: Sequence[str]) -> list[dict[str, Any]] | None:
        from mlflow.utils.rest_utils import http_request, verify_rest_response

        answer = http_request(
            self._client._tracking_client.store.get_host_creds(),  # pyright: ignore[reportAttributeAccessIssue]
            BULK, "GET", params={"metric_key": key, "run_id": list(runs), "max_results": MOST},
        )  # fmt: skip
        assert answer is not None  # only where asked not to wait for one
        if answer.status_code == 404:
            self._bulk = False
            return None
        return verify_rest_response(answer, BULK).json()["metrics"]


def _frame(rows: Iterable[Sequence[Any]]) -> pl.DataFrame:
    frame = pl.DataFrame(list(rows), schema=POINTS, orient="row")
    return frame.with_columns(pl.col("value").fill_nan(None))


def _digest(latest: Iterable[Any]) -> str:
    """Of a run's latest points: which metrics, where they stand and what they are."""
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
