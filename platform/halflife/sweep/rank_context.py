"""What each rank of a stage is handed: paths on its own host, and a way to say what it has.

Where results lie in a folder that all hosts see, every rank works in the attempt's own. Where they lie in a bucket,
each works in its host's copy: it fetches what it reads, by checksum, puts what it has written into the attempt's place
in the bucket, and tells the attempt its names and checksums. The attempt notes a checkpoint once it has every rank's.
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


@dataclass(frozen=True, kw_only=True)
class Job:
    """A stage as every rank is handed it. Paths are those of the attempt's host."""

    stage: Stage
    results: Path
    folder: Path
    resume: Path | None
    resumed: dict[str, dict[str, Any]]
    """What the files in `resume` are."""
    device: str
    checkpoint_seconds: float
    execution: Execution
    parents: dict[str, Path]
    bucket: str | None
    """Where results lie, if not in `results`."""

    @staticmethod
    def of(stage: Stage, attempt: Attempt) -> Job:
        return Job(
            stage=stage,
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


def apply_message(attempt: Attempt, verb: str, arguments: tuple[Any, ...]) -> None:
    """Let the attempt know what a rank has told."""
    if verb == "checkpointed":
        step, name = arguments
        attempt.checkpointed(step, attempt.folder / name)
    else:
        getattr(attempt, verb)(*arguments)


def context_of(job: Job, rank: int, post: Any) -> RankContext:
    return (RankInBucket if job.bucket else RankContext)(job, rank, post)


class RankContext:
    """Implements halflife.store.stage.Context on one rank. Ranks other than 0 are silent."""

    rest = 0.0

    def __init__(self, job: Job, rank: int, post: Any) -> None:
        self.results, self.folder, self.resume = job.results, job.folder, job.resume
        self.device, self.checkpoint_seconds, self.execution = job.device, job.checkpoint_seconds, job.execution
        self._parents, self._rank, self._post = job.parents, rank, post

    def parent(self, stage: Stage) -> Path:
        return self._parents[stage.key]

    def record(self, step: int, values: dict[str, float]) -> None:
        self._tell("record", step, values)

    def progress(self, done: int, total: int, rate: float) -> None:
        self._tell("progress", done, total, rate)

    def computing(self, seconds: float) -> None:
        self._tell("computing", seconds)

    def wrote(self, folder: Path, names: Iterable[str]) -> None:
        """Nothing to do: the attempt sees it."""

    def checkpointed(self, step: int, folder: Path) -> None:
        """Waits until it is kept: the checkpoint before it may be removed after."""
        if self._rank == 0:
            ray.get(self._post.tell_and_wait.remote("checkpointed", step, self._name(folder)))

    def end(self) -> None:
        """The stage has ended, as a result: what it has left is the attempt's."""

    def leave(self) -> None:
        """Remove what the attempt does not need, however the stage ended."""

    def _name(self, path: Path) -> str:
        """Below the attempt's folder."""
        return path.relative_to(self.folder).as_posix()

    def _tell(self, verb: str, *arguments: Any) -> None:
        if self._rank == 0:
            self._post.tell.remote(verb, *arguments)


class RankInBucket(RankContext):
    """With results in a bucket. Raises Corrupt when what it is to read is not there whole."""

    def __init__(self, job: Job, rank: int, post: Any) -> None:
        super().__init__(job, rank, post)
        assert job.bucket is not None
        self._store = store = Store(job.bucket)
        attempts = store.folder(job.stage) / "attempts"
        kept = store.home(job.stage) / "attempts" / job.folder.name
        assert isinstance(kept, Remote)
        self._kept = kept
        self.results = store.root
        self.folder = attempts / (job.folder.name if rank == 0 else f"{job.folder.name}-rank-{rank:05}")
        self._sent: set[str] = set()
        self._began = 0.0
        with FileLock(store.root / ".fetching"):  # one rank of a host fetches, the others find it there
            inputs.bring(job.stage, store)
            self._parents = {parent.key: self._verified(parent) for parent in job.stage.parents}
            if job.resume is not None:
                self.resume = store.root / job.resume.relative_to(job.results)
                source = store.place / job.resume.relative_to(job.results).as_posix()
                if problem := store.brought(source, self.resume, job.resumed):
                    raise Corrupt(f"checkpoint {source}: {problem}")
        self.folder.mkdir(parents=True, exist_ok=True)

    def wrote(self, folder: Path, names: Iterable[str]) -> None:
        self._began = time.monotonic()
        self._send([f"{self._name(folder)}/{name}" for name in names])
        if self._rank:
            files.remove(folder)

    def checkpointed(self, step: int, folder: Path) -> None:
        self._send([f"{self._name(folder)}/{name}" for name in files.manifest(folder)])
        super().checkpointed(step, folder)
        self.rest = (time.monotonic() - self._began) * (1 / UPLOADING - 1)

    def end(self) -> None:
        if self._rank == 0:
            self._remove_checkpoints()
            # on the attempt's own host its folder is the attempt's, which writes these itself, and once more after this
            self._send([name for name in files.manifest(self.folder) if name not in (RECORD, METRICS)])

    def leave(self) -> None:
        if self._rank == 0:
            self._remove_checkpoints()  # they are in the bucket, or no use
        else:
            files.remove(self.folder)
        if self.resume is not None:  # read at the start, and fetched for that
            files.remove(self.resume)

    def _verified(self, parent: Stage) -> Path:
        folder = self._store.verified(parent)
        if folder is None:
            raise Corrupt(f"parent {parent.folder_name} is not complete: run the same command again")
        return folder

    def _send(self, names: list[str]) -> None:
        """Put files of this rank's folder into the attempt's, unless they are there, and wait until it knows them."""
        names = [name for name in names if name not in self._sent]
        self._kept.upload(self.folder, names)
        self._sent.update(names)
        ray.get(self._post.tell.remote("received", {name: files.entry(self.folder / name) for name in names}))

    def _remove_checkpoints(self) -> None:
        for folder in self.folder.glob("resume-*"):
            files.remove(folder)
