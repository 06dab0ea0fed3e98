"""One attempt at a stage: the Context that a running stage is handed, and its resumable checkpoints."""

from __future__ import annotations

import json
import time
import uuid
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from halflife.secrets import masked
from halflife.store import files
from halflife.store.execution import Execution
from halflife.store.files import Where
from halflife.store.identity import fields_of
from halflife.store.remote import Remote
from halflife.store.stage import Progress, Stage
from halflife.store.store import METRICS, RECORD, RETRACTED, Corrupt, Store, read_points, write_points

RESUME = "resume.json"
"""In an attempt: which of its folders is the newest complete checkpoint, at which step, with checksums."""
UPLOADING = 0.1
"""Of a stage's time, at most, goes into putting checkpoints into object storage: large ones are kept less often."""


@dataclass(frozen=True, kw_only=True)
class Resumable:
    """A complete mid-stage checkpoint; its folder holds the points up to its step as well."""

    attempt: Where
    folder: Where
    step: int
    files: dict[str, dict[str, Any]]


def checkpoint_of(attempt: Where) -> Resumable | None:
    """The checkpoint that an attempt has left, or None; its checksums are yet to be looked at."""
    entry = files.read_json(attempt / RESUME) or {}
    if not {"folder", "step", "files"} <= entry.keys() or (attempt / RETRACTED).exists():
        return None
    if not all(files.stays_below(name) for name in (entry["folder"], *entry["files"])):
        return None
    folder = attempt / entry["folder"]
    return Resumable(attempt=attempt, folder=folder, step=entry["step"], files=entry["files"])


def newest_checkpoint(stage_folder: Where, problem_of: Callable[[Resumable], str | None]) -> Resumable | None:
    """Among all attempts at a stage, the checkpoint that got furthest and is whole; damaged ones with a warning."""
    attempts = stage_folder / "attempts"
    found = [entry for name in files.names(attempts) if (entry := checkpoint_of(attempts / name))]
    for entry in sorted(found, key=lambda entry: (entry.step, entry.attempt.name), reverse=True):
        problem = problem_of(entry)
        if not problem:
            return entry
        warnings.warn(f"checkpoint {entry.folder} is passed over: {problem}", stacklevel=2)
    return None


class Attempt:
    """Implements halflife.store.stage.Context for one attempt, in a folder of its own."""

    rest = 0.0

    def __init__(
        self,
        stage: Stage,
        store: Store,
        *,
        device: str,
        execution: Execution,
        checkpoint_seconds: float,
        provenance: dict[str, Any],
        on_progress: Callable[[Progress], None],
    ) -> None:
        self.results, self.device, self.checkpoint_seconds = store.root, device, checkpoint_seconds
        self.execution = execution
        self.id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
        self.folder = store.folder(stage) / "attempts" / self.id
        self.kept = store.home(stage) / "attempts" / self.id
        """The same folder where the store is."""
        self.bucket = store.address if isinstance(self.kept, Remote) else None
        self.sent: dict[str, dict[str, Any]] = {}
        """By name below `folder`: what workers of this attempt have put where the store is, from their own hosts."""
        self._store, self._on_progress = store, on_progress
        self._progress = Progress()
        self._parents = {parent.key for parent in stage.parents}
        self._checkpoint: Path | None = None
        self._noted: Path | None = None
        self._step, self._rested = 0, 0.0
        """When the next checkpoint may be uploaded, by the monotonic clock."""
        resumable = newest_checkpoint(
            store.home(stage), lambda found: store.brought(found.folder, store.local(found.folder), found.files)
        )
        self.resume = store.local(resumable.folder) if resumable else None
        self.resumed = resumable.files if resumable else {}
        self._rows: list[tuple[int, str, float]] = read_points(self.resume).rows() if self.resume else []
        self.folder.mkdir(parents=True)
        self._record: dict[str, Any] = {
            "stage": stage.folder_name,
            "description": stage.description,
            "fields": fields_of(stage, every=True),
            "parents": {parent.key: parent.folder_name for parent in stage.parents},
            "device": device,
            "execution": asdict(execution),
            "precision": getattr(stage, "precision", None),
            "resumed": {"attempt": resumable.attempt.name, "step": resumable.step} if resumable else None,
            "started": datetime.now(UTC).isoformat(),
            **provenance,
        }
        self._write_record()

    def parent(self, stage: Stage) -> Path:
        if stage.key not in self._parents:
            raise KeyError(f"{stage.folder_name} is no parent of this stage")
        folder = self._store.verified(stage)
        if folder is None:
            raise Corrupt(f"parent {stage.folder_name} is not complete: run the same command again")
        return folder

    def record(self, step: int, values: dict[str, float]) -> None:
        self._rows.extend((int(step), name, float(value)) for name, value in values.items())

    def wrote(self, folder: Path, names: Iterable[str]) -> None:
        """Nothing to do: all of them come with `checkpointed`."""

    def received(self, manifest: dict[str, dict[str, Any]]) -> None:
        """A worker has put files of this attempt where the store is: names below `folder`, sizes and checksums."""
        self.sent |= manifest

    def checkpointed(self, step: int, folder: Path) -> None:
        folder.mkdir(exist_ok=True)  # workers may have made it on their hosts
        write_points(folder, self._rows)
        self._checkpoint, self._step = folder, step
        if not isinstance(self.kept, Remote) or self._received_of(folder):
            self._keep_checkpoint()
        elif time.monotonic() >= self._rested:
            began = time.monotonic()
            self._keep_checkpoint()
            self._rested = time.monotonic() + (time.monotonic() - began) * (1 / UPLOADING - 1)

    def _keep_checkpoint(self) -> None:
        """Note the newest checkpoint as one to be resumed, where the store is."""
        folder = self._checkpoint
        if folder is None or folder == self._noted or not (folder / METRICS).exists():
            return
        there = self._received_of(folder)
        here = {name: entry for name, entry in files.manifest(folder).items() if name not in there}
        self._store.send(folder, here)
        name = folder.relative_to(self.folder).as_posix()
        entry = {"step": self._step, "folder": name, "files": there | here}
        files.write(self.kept / RESUME, json.dumps(entry).encode())
        if isinstance(self.kept, Remote) and self._noted:  # on disk the stage itself removes the one before
            files.remove(self.kept / self._noted.name)
        self._noted = folder
        if there:  # the rest of it was never here
            files.remove(folder / METRICS)
        self.sent = {found: entry for found, entry in self.sent.items() if not found.startswith(f"{name}/")}

    def _received_of(self, folder: Path) -> dict[str, dict[str, Any]]:
        """What workers have put of a checkpoint, by name below its folder."""
        within = f"{folder.relative_to(self.folder).as_posix()}/"
        return {name.removeprefix(within): entry for name, entry in self.sent.items() if name.startswith(within)}

    def progress(self, done: int, total: int, rate: float) -> None:
        self._progress = replace(self._progress, done=int(done), total=int(total), rate=float(rate))
        self._on_progress(self._progress)

    def computing(self, seconds: float) -> None:
        self._progress = replace(self._progress, computing=self._progress.computing + seconds)
        self._on_progress(self._progress)

    @property
    def seconds_computing(self) -> float:
        return self._progress.computing

    def finish(self) -> None:
        """Leave what is to be kept: the points and the record, without the checkpoint."""
        write_points(self.folder, self._rows)
        files.remove(self.folder / RESUME)  # one in object storage stays until the stage is complete
        if self._checkpoint:
            files.remove(self._checkpoint)
        self._write_record(ended=datetime.now(UTC).isoformat())

    def fail(self, error: BaseException) -> None:
        """Say in the record why the attempt ended; its checkpoint stays for the next."""
        self._keep_checkpoint()
        self._write_record(ended=datetime.now(UTC).isoformat(), error=masked(f"{type(error).__name__}: {error}"))

    def _write_record(self, **more: Any) -> None:
        self._record.update(more)
        files.write(self.folder / RECORD, json.dumps(self._record, indent=1, sort_keys=True).encode())
        self._store.send(self.folder, [RECORD])
