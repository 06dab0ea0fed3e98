"""One attempt at a stage: the Context of the running stage, and its resumable checkpoints."""

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
from halflife.store.files import AnyPath, Manifest
from halflife.store.identity import fields_of
from halflife.store.stage import Progress, Stage
from halflife.store.store import METRICS, RECORD, RETRACTED, Corrupt, Store, read_points, write_points

RESUME = "resume.json"
"""File of an attempt that names its newest complete checkpoint, with its step and checksums."""
UPLOADING = 0.1
"""Upper limit on the fraction of time spent uploading checkpoints: large ones are uploaded less often."""


@dataclass(frozen=True, kw_only=True)
class Resumable:
    """A complete checkpoint within a stage; its folder also contains the points up to its step."""

    attempt: AnyPath
    folder: AnyPath
    step: int
    files: Manifest


def checkpoint_of(attempt: AnyPath) -> Resumable | None:
    """The checkpoint that an attempt has left, or None; its checksums are not verified here."""
    entry = files.read_json(attempt / RESUME) or {}
    if not {"folder", "step", "files"} <= entry.keys() or (attempt / RETRACTED).exists():
        return None
    if not all(files.is_inside(name) for name in (entry["folder"], *entry["files"])):
        return None
    folder = attempt / entry["folder"]
    return Resumable(attempt=attempt, folder=folder, step=entry["step"], files=entry["files"])


def newest_checkpoint(stage_folder: AnyPath, problem_of: Callable[[Resumable], str | None]) -> Resumable | None:
    """The valid checkpoint with the highest step among all attempts at a stage; warns about damaged ones."""
    attempts = stage_folder / "attempts"
    found = [entry for name in files.names(attempts) if (entry := checkpoint_of(attempts / name))]
    for entry in sorted(found, key=lambda entry: (entry.step, entry.attempt.name), reverse=True):
        problem = problem_of(entry)
        if not problem:
            return entry
        warnings.warn(f"checkpoint {entry.folder} is skipped: {problem}", stacklevel=2)
    return None


class Attempt:
    """Implements halflife.store.stage.Context for one attempt, in a folder of its own."""

    min_checkpoint_seconds = 0.0

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
        self.stored = store.home(stage) / "attempts" / self.id
        """The same folder in the store, which may be in a bucket."""
        self.bucket = store.address if store.in_bucket else None
        self.sent: Manifest = {}
        """Manifest of the files below `folder` that workers have uploaded from other hosts."""
        self._store, self._on_progress = store, on_progress
        self._progress = Progress()
        self._parents = {parent.key for parent in stage.parents}
        self._checkpoint: Path | None = None
        self._stored_checkpoint: Path | None = None
        self._step, self._next_upload = 0, 0.0
        """Monotonic time from which the next checkpoint may be uploaded."""
        resumable = newest_checkpoint(
            store.home(stage), lambda found: files.fetch(found.folder, store.local(found.folder), found.files)
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
            raise KeyError(f"{stage.folder_name} is not a parent of this stage")
        folder = self._store.verified(stage)
        if folder is None:
            raise Corrupt(f"parent {stage.folder_name} is not complete: run the same command again")
        return folder

    def record(self, step: int, values: dict[str, float]) -> None:
        self._rows.extend((int(step), name, float(value)) for name, value in values.items())

    def wrote(self, folder: Path, names: Iterable[str]) -> None:
        """Nothing to do: `checkpointed` handles all files."""

    def received(self, manifest: Manifest) -> None:
        """A worker has uploaded files of this attempt; `manifest` is relative to `folder`."""
        self.sent |= manifest

    def checkpointed(self, step: int, folder: Path) -> None:
        folder.mkdir(exist_ok=True)  # workers may have created it on other hosts
        write_points(folder, self._rows)
        self._checkpoint, self._step = folder, step
        if self.bucket is None or self._received_of(folder):
            self._store_checkpoint()
        elif time.monotonic() >= self._next_upload:
            began = time.monotonic()
            self._store_checkpoint()
            self._next_upload = time.monotonic() + (time.monotonic() - began) * (1 / UPLOADING - 1)

    def _store_checkpoint(self) -> None:
        """Make the newest checkpoint the one that later attempts resume."""
        folder = self._checkpoint
        if folder is None or folder == self._stored_checkpoint or not (folder / METRICS).exists():
            return
        received = self._received_of(folder)
        own = {name: entry for name, entry in files.manifest(folder).items() if name not in received}
        self._store.upload(folder, own)
        name = folder.relative_to(self.folder).as_posix()
        entry = {"step": self._step, "folder": name, "files": received | own}
        files.write(self.stored / RESUME, json.dumps(entry).encode())
        if self.bucket and self._stored_checkpoint:  # on disk the stage itself removes the previous one
            files.remove(self.stored / self._stored_checkpoint.name)
        self._stored_checkpoint = folder
        if received:  # the other files were never here
            files.remove(folder / METRICS)
        self.sent = {found: entry for found, entry in self.sent.items() if not found.startswith(f"{name}/")}

    def _received_of(self, folder: Path) -> Manifest:
        """Manifest of the files that workers have uploaded of a checkpoint, relative to its folder."""
        prefix = f"{folder.relative_to(self.folder).as_posix()}/"
        return {name.removeprefix(prefix): entry for name, entry in self.sent.items() if name.startswith(prefix)}

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
        """Write the points and the record, and remove the checkpoint."""
        write_points(self.folder, self._rows)
        files.remove(self.folder / RESUME)  # one in object storage is kept until the stage is complete
        if self._checkpoint:
            files.remove(self._checkpoint)
        self._write_record(ended=datetime.now(UTC).isoformat())

    def fail(self, error: BaseException) -> None:
        """Record why the attempt ended; its checkpoint is kept for the next attempt."""
        self._store_checkpoint()
        self._write_record(ended=datetime.now(UTC).isoformat(), error=masked(f"{type(error).__name__}: {error}"))

    def _write_record(self, **more: Any) -> None:
        self._record.update(more)
        files.write(self.folder / RECORD, json.dumps(self._record, indent=1, sort_keys=True).encode())
        self._store.upload(self.folder, [RECORD])
