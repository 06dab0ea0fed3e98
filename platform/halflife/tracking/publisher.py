"""Publishes runs to MLflow in the background: ordered, idempotent, with retries.

Callers pass plain data, and every call returns at once. One thread does the work in the order of the calls, and retries
while the server is down. Runs are identified by tags, so publishing twice changes nothing. What was deleted in MLflow
is published again: a run, a declaration, a parent, below which its children move, or the experiment.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from halflife.tracking import experiments, schema, tables
from halflife.tracking.experiments import Rejected, one_line, transient

Kind = Literal["sweep", "trial", "stage"]
Status = Literal["FINISHED", "FAILED", "KILLED"]

BATCH = 1000
"""Points per call: MLflow's limit."""
_SOON = 2.0
"""Seconds within which we get a free lock."""
_LONGEST_PAUSE = 15.0
_IDENTIFYING = {"sweep": schema.TAG_SWEEP, "trial": schema.TAG_TRIAL, "stage": schema.TAG_STAGE}


class Point(NamedTuple):
    """One value of one metric at one step (tokens since the phase began)."""

    name: str
    step: int
    value: float
    timestamp: int
    """Milliseconds. MLflow deduplicates points with the same timestamp."""


class RunRef(NamedTuple):
    """Identifies a run: its kind, and the value of its identifying tag."""

    kind: Kind
    key: str


@dataclass(frozen=True, kw_only=True)
class Run:
    """The desired state of one MLflow run."""

    ref: RunRef
    name: str
    description: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(kw_only=True)
class _Job:
    ref: RunRef
    what: str
    """A description for error messages."""
    work: Callable[[], None]


class Publisher:
    """Publishes one sweep's runs to one experiment.

    `artifacts` is where a new experiment stores its files; None leaves it to the server. `page` are further tags of
    the experiment, for MLflow's pages (`tracking.page`). `lock` is held while
    this publisher writes, so that two identical sweeps do not both create the runs.
    """

    def __init__(
        self,
        tracking_uri: str,
        *,
        experiment: str,
        description: str,
        sweep: str,
        artifacts: Path | None = None,
        page: Mapping[str, str] | None = None,
        lock: AbstractContextManager[Any] | None = None,
        client: Any = None,
        pause: float = 0.5,
    ) -> None:
        self._uri, self._experiment, self._description, self._sweep = tracking_uri, experiment, description, sweep
        self._page = dict(page or {})
        self._artifacts, self._lock, self._client = artifacts, lock or nullcontext(), client
        self._first_pause = self._pause = pause
        self._experiment_id = ""
        self._ids: dict[RunRef, str] = {}
        self._parameters: dict[RunRef, set[str]] = {}
        """Names of a run's parameters. MLflow allows adding parameters, but not changing them."""
        self._parents: dict[RunRef, str] = {}
        """The run that a run's tag names as its parent."""
        self._sweeps: set[str] = set()
        """Runs of sweeps: those that may be a parent."""
        self._complete: set[RunRef] = set()
        self._damaged: set[RunRef] = set()
        """Runs of which the store rejected something; they are never marked as complete."""
        self._jobs: deque[_Job] = deque()
        self._wake = threading.Condition()
        self._closing = self._abandoned = self._attached = False
        self._advanced = time.monotonic()
        self._trouble: str | None = None
        self._waiting = True
        self.rejected: list[str] = []
        self._thread = threading.Thread(target=self._serve, name="publisher", daemon=True)
        self._thread.start()

    # Requests. Each call returns at once.

    def ensure(self, run: Run) -> None:
        """Create or update `run`. Does nothing if it is published completely."""
        self._put(run.ref, f"run {run.name!r}", lambda: self._ensure(run))

    def log(
        self,
        ref: RunRef,
        what: str,
        *,
        points: Callable[[], Iterable[Point]] = tuple,
        tags: dict[str, str] | None = None,
    ) -> None:
        """Append points, then set tags. `points` is called only when needed, so not for a complete run."""
        source: Iterator[Point] | None = None
        chunk: list[Point] = []

        def work() -> None:
            nonlocal source, chunk
            if ref in self._complete:
                return
            source = iter(points()) if source is None else source
            while chunk := chunk or list(islice(source, BATCH)):  # a retry starts with the chunk that failed
                self._write(ref, metrics=chunk)
                chunk = []
                self._advanced = time.monotonic()
            if tags:
                self._write(ref, tags=tags)

        self._put(ref, what, work)

    def artifact(self, ref: RunRef, name: str, text: str) -> None:
        """Store `text` as the run's artifact `name`, unless the run is complete and has it."""

        def work() -> None:
            run_id = self._id(ref)
            if ref not in self._complete or name not in {file.path for file in self._client.list_artifacts(run_id)}:
                self._client.log_text(run_id, text, name)

        self._put(ref, f"artifact {name}", work)

    def finish(self, ref: RunRef, status: Status, *, complete: bool = True) -> None:
        """End the run. `complete`: every point is written, and the run will not change any more."""

        def work() -> None:
            if ref in self._complete:
                return
            whole = complete and ref not in self._damaged
            if whole:
                self._write(ref, tags={schema.TAG_PUBLISHED: "complete"})
            self._client.set_terminated(self._id(ref), status)
            if whole:
                self._complete.add(ref)

        self._put(ref, f"end of {ref.kind} {ref.key}", work)

    @property
    def troubled(self) -> str | None:
        """Why the queue is stuck, or None."""
        if self._waiting and time.monotonic() - self._advanced > _SOON:
            return "another process is publishing the same sweep"
        return self._trouble

    def drain(self, patience: float = 30.0) -> None:
        """Wait until all requests are written, or until there is no progress for `patience` seconds."""
        self._wait_while(lambda: bool(self._jobs), patience)

    def close(self, patience: float = 30.0) -> list[str]:
        """Stop after all requests are written, or when there is no progress for `patience` seconds.

        Returns descriptions of what could not be published; empty if everything was.
        """
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._wait_while(self._thread.is_alive, patience)
        self._abandoned = True
        left = [job.what for job in list(self._jobs)]
        if left and self._trouble:
            left[0] += f": {self._trouble}"
        return [*self.rejected, *left]

    def _wait_while(self, condition: Callable[[], bool], patience: float) -> None:
        self._advanced = time.monotonic()
        while condition() and time.monotonic() - self._advanced < patience:
            time.sleep(0.02)

    # The thread.

    def _put(self, ref: RunRef, what: str, work: Callable[[], None]) -> None:
        with self._wake:
            self._jobs.append(_Job(ref=ref, what=what, work=work))
            self._wake.notify_all()

    def _serve(self) -> None:
        with self._lock:
            self._waiting = False
            while not self._abandoned:
                with self._wake:
                    while not self._jobs and not self._closing:
                        self._wake.wait()
                    if not self._jobs:
                        return
                self._do(self._jobs[0])

    def _do(self, job: _Job) -> None:
        """Do the first job of the queue, or wait a while if that is not possible now."""
        try:
            if not self._attached:
                self._attach()
            job.work()
        except Exception as error:
            if transient(error):
                self._trouble = one_line(error)
                self._attached = False  # the run may exist although the response was lost: look before creating another
                time.sleep(min(self._pause, self._first_pause) if self._closing else self._pause)
                self._pause = min(_LONGEST_PAUSE, 1.5 * self._pause)
                return
            self.rejected.append(f"{job.what}: {one_line(error)}")
            self._damaged.add(job.ref)
        self._pause = self._first_pause
        self._trouble, self._advanced = None, time.monotonic()
        self._jobs.popleft()

    def _attach(self) -> None:
        """Find or create the experiment, and find this sweep's existing runs."""
        if self._client is None:
            self._client = connect(self._uri)  # imports MLflow
            self._advanced = time.monotonic()
        first = not self._experiment_id
        self._experiment_id = experiments.find(
            self._client, self._uri, self._experiment, description=self._description, artifacts=self._artifacts,
            page=self._page,
        )  # fmt: skip
        if first:  # which may have created the tables of a new database; doing it again is no progress
            self._advanced = time.monotonic()
        kind, found = f"tags.`{schema.TAG_KIND}`", []
        ours = f"{kind} = 'trial' and tags.`{schema.TAG_SWEEP}` = '{self._sweep}'"
        for where in (f"{kind} = 'stage'", f"{kind} = 'sweep'", ours):
            token = None
            while True:
                page = self._client.search_runs([self._experiment_id], where, max_results=BATCH, page_token=token)
                found += page
                token = page.token
                if not token:
                    break
        for run in sorted(found, key=lambda run: (run.info.start_time or 0, run.info.run_id)):
            self._remember(run)  # the newest, as in reports, of several: one was deleted, replaced and restored
        self._attached = True

    def _remember(self, run: Any) -> None:
        tags = run.data.tags
        kind, identifying = tags[schema.TAG_KIND], _IDENTIFYING.get(tags[schema.TAG_KIND])
        if identifying in tags:
            ref = RunRef(kind, tags[identifying])
            self._ids[ref] = run.info.run_id
            self._parameters[ref] = set(run.data.params)
            self._parents[ref] = tags.get(schema.PARENT_RUN, "")
            self._complete.discard(ref)
            if tags.get(schema.TAG_PUBLISHED) == "complete":
                self._complete.add(ref)
            if kind == "sweep":
                self._sweeps.add(run.info.run_id)

    def _ensure(self, run: Run) -> None:
        new = run.parameters.keys() - self._parameters.get(run.ref, set())
        if any(name.startswith(schema.DECLARED_PREFIX) for name in new):
            self._complete.discard(run.ref)  # a complete sweep that asks something else from now on
        if run.ref in self._complete:
            self._adopt(run.ref)
            return
        tags = {**self._tags(run), **run.tags}
        if run.ref in self._ids:
            self._client.update_run(self._ids[run.ref], "RUNNING")
            there = self._parameters.get(run.ref, set())  # from an abandoned sweep, perhaps with other values
            absent = {name: value for name, value in run.parameters.items() if name not in there}
            self._write(run.ref, tags=tags, parameters=absent)
            return
        created = self._client.create_run(self._experiment_id, tags=tags, run_name=run.name)
        self._ids[run.ref] = created.info.run_id
        if run.ref.kind == "sweep":
            self._sweeps.add(created.info.run_id)
        if run.parameters:
            self._write(run.ref, parameters=run.parameters)

    def _adopt(self, ref: RunRef) -> None:
        """Move a complete run below this sweep's run, if its parent was deleted. A shared stage may have another's."""
        if ref.kind == "sweep":
            return
        ours, parent = self._id(RunRef("sweep", self._sweep)), self._parents.get(ref)
        if parent != ours and not (ref.kind == "stage" and parent in self._sweeps):
            self._write(ref, tags={schema.PARENT_RUN: ours})
            self._parents[ref] = ours

    def _tags(self, run: Run) -> dict[str, str]:
        tags = {
            schema.TAG_SCHEMA: str(schema.SCHEMA),
            schema.TAG_KIND: run.ref.kind,
            schema.TAG_STUDY: self._experiment,
            _IDENTIFYING[run.ref.kind]: run.ref.key,
        }
        if run.description:
            tags["mlflow.note.content"] = run.description
        if run.ref.kind == "trial":
            tags[schema.TAG_SWEEP] = self._sweep
        if run.ref.kind != "sweep":
            tags[schema.PARENT_RUN] = self._id(RunRef("sweep", self._sweep))
        return tags

    def _id(self, ref: RunRef) -> str:
        if ref not in self._ids:
            raise Rejected(f"the run of {ref.kind} {ref.key} could not be created")
        return self._ids[ref]

    def _write(
        self,
        ref: RunRef,
        *,
        metrics: Iterable[Point] = (),
        parameters: dict[str, Any] | None = None,
        tags: dict[str, str] | None = None,
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        self._client.log_batch(
            self._id(ref),
            metrics=[Metric(point.name, point.value, point.timestamp, point.step) for point in metrics],
            params=[Param(name, str(value)) for name, value in (parameters or {}).items()],
            tags=[RunTag(name, value) for name, value in (tags or {}).items()],
        )


def connect(tracking_uri: str) -> Any:
    """An MlflowClient that times out within seconds and prints nothing. Errors of a SQLite file: `tables.make`."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # the publisher retries itself
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)  # importing MLflow resets it
    if tracking_uri.startswith("sqlite:"):
        tables.make(tracking_uri)
    return MlflowClient(tracking_uri)
