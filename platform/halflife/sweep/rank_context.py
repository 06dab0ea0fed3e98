"""The Context of one rank when several processes train a stage: paths on its own host, and messages to the attempt.

If the results are in a folder that all hosts share, every rank works in the attempt's folder. If they are in a bucket,
each rank works in its host's copy: it downloads its inputs and verifies their checksums, uploads what it writes into
the attempt's folder in the bucket, and sends the attempt the names and checksums.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from filelock import FileLock

from halflife.store import files, inputs
from halflife.store.attempt import UPLOADING, Attempt
from halflife.store.execution import Execution
from halflife.store.remote import Remote
from halflife.store.stage import Stage
from halflife.store.store import METRICS, RECORD, Corrupt, Store
from halflife.sweep.packing import Packed


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every rank gets. Paths are on the attempt's host."""

    packed: Packed
    results: Path
    folder: Path
    resume: Path | None
    resumed: dict[str, dict[str, Any]]
    """Manifest of `resume`."""
    device: str
    checkpoint_seconds: float
    execution: Execution
    parents: dict[str, Path]
    bucket: str | None
    """Address of the bucket with the results, if there is one."""

    @staticmethod
    def of(stage: Stage, attempt: Attempt) -> Job:
        return Job(
            packed=Packed.of(stage),
            results=attempt.results,
            folder=attempt.folder,
            resume=attempt.resume,
            resumed=attempt.resumed,
            device=attempt.device,
            checkpoint_seconds=attempt.checkpoint_seconds,
            execution=attempt.execution,
            parents={parent.key: attempt.parent(parent) for parent in stage.parents},
            bucket=attempt.bucket,
        )


def context_of(job: Job, stage: Stage, rank: int, mailbox: Any) -> RankContext:
    """`stage` is the job's, unpacked; `mailbox` is a worker_group.Mailbox actor."""
    return RankInBucket(job, stage, rank, mailbox) if job.bucket else RankContext(job, rank, mailbox)


class RankContext:
    """Implements halflife.store.stage.Context on one rank. Only rank 0 sends what it records."""

    min_checkpoint_seconds = 0.0

    def __init__(self, job: Job, rank: int, mailbox: Any) -> None:
        self.results, self.folder, self.resume = job.results, job.folder, job.resume
        self.device, self.checkpoint_seconds, self.execution = job.device, job.checkpoint_seconds, job.execution
        self._job, self._parents, self._rank, self._mailbox = job, job.parents, rank, mailbox

    def parent(self, stage: Stage) -> Path:
        return self._parents[stage.key]

    def record(self, step: int, values: dict[str, float]) -> None:
        self._send("record", step, values)

    def progress(self, done: int, total: int, rate: float) -> None:
        self._send("progress", done, total, rate)

    def computing(self, seconds: float) -> None:
        self._send("computing", seconds)

    def wrote(self, folder: Path, names: Iterable[str]) -> None:
        """Nothing to do: the attempt sees the same folder."""

    def checkpointed(self, step: int, folder: Path) -> None:
        """Returns once the attempt has kept it, as the caller may then remove the previous checkpoint."""
        if self._rank == 0:
            there = self._job.folder / self._name(folder)
            ray.get(self._mailbox.send_and_wait.remote("checkpointed", step, there))

    def complete(self) -> None:
        """The stage has a result: hand its files to the attempt."""

    def close(self) -> None:
        """Remove what the attempt does not need, however the stage ended."""

    def _name(self, path: Path) -> str:
        """The path relative to this rank's folder."""
        return path.relative_to(self.folder).as_posix()

    def _send(self, verb: str, *arguments: Any) -> None:
        if self._rank == 0:
            self._mailbox.send.remote(verb, *arguments)


class RankInBucket(RankContext):
    """With results in a bucket. Raises Corrupt when an input is missing or damaged."""

    def __init__(self, job: Job, stage: Stage, rank: int, mailbox: Any) -> None:
        super().__init__(job, rank, mailbox)
        assert job.bucket is not None
        self._store = store = Store(job.bucket)
        attempts = store.folder(stage) / "attempts"
        stored = store.home(stage) / "attempts" / job.folder.name
        assert isinstance(stored, Remote)
        self._stored = stored
        self.results = store.root
        self.folder = attempts / (job.folder.name if rank == 0 else f"{job.folder.name}-rank-{rank:05}")
        self._sent: set[str] = set()
        self._began = 0.0
        with FileLock(store.root / ".fetching"):  # one rank per host downloads, the others find the files
            inputs.fetch(stage, store)
            self._parents = {parent.key: self._verified(parent) for parent in stage.parents}
            if job.resume is not None:
                self.resume = store.root / job.resume.relative_to(job.results)
                source = store.location / job.resume.relative_to(job.results).as_posix()
                if problem := files.fetch(source, self.resume, job.resumed):
                    raise Corrupt(f"checkpoint {source}: {problem}")
        self.folder.mkdir(parents=True, exist_ok=True)

    def wrote(self, folder: Path, names: Iterable[str]) -> None:
        self._began = time.monotonic()
        self._upload([f"{self._name(folder)}/{name}" for name in names])
        if self._rank:
            files.remove(folder)

    def checkpointed(self, step: int, folder: Path) -> None:
        self._upload([f"{self._name(folder)}/{name}" for name in files.manifest(folder)])
        super().checkpointed(step, folder)
        self.min_checkpoint_seconds = (time.monotonic() - self._began) * (1 / UPLOADING - 1)

    def complete(self) -> None:
        if self._rank == 0:
            self._remove_checkpoints()
            # on the attempt's own host this is the attempt's folder, in which it writes these two itself, after this
            self._upload([name for name in files.manifest(self.folder) if name not in (RECORD, METRICS)])

    def close(self) -> None:
        if self._rank == 0:
            self._remove_checkpoints()  # they are in the bucket, or incomplete
        else:
            files.remove(self.folder)
        if self.resume is not None:  # downloaded only to be read at the start
            files.remove(self.resume)

    def _verified(self, parent: Stage) -> Path:
        folder = self._store.verified(parent)
        if folder is None:
            raise Corrupt(f"parent {parent.folder_name} is not complete: run the same command again")
        return folder

    def _upload(self, names: list[str]) -> None:
        """Upload files of this rank's folder into the attempt's, unless they are there, and send their checksums."""
        names = [name for name in names if name not in self._sent]
        self._stored.upload(self.folder, names)
        self._sent.update(names)
        ray.get(self._mailbox.send.remote("received", {name: files.entry(self.folder / name) for name in names}))

    def _remove_checkpoints(self) -> None:
        for folder in self.folder.glob("resume-*"):
            files.remove(folder)
