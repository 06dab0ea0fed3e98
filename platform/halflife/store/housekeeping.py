"""The contents of a store (`ls`), and what in it is no longer needed (`gc`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from halflife.store import files, leases
from halflife.store.attempt import Resumable, checkpoint_of, newest_checkpoint
from halflife.store.difference import record_of
from halflife.store.files import AnyPath
from halflife.store.remote import Remote
from halflife.store.store import RETRACTED, Store, valid_done

STALE_SECONDS = 3600.0
"""Age at which a lease without a heartbeat, or a partial file, is considered abandoned."""
ENDED = "lease of a process that has ended"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One stage of the store."""

    kind: str
    key: str
    status: str
    tokens: int | None
    bytes: int
    age: float
    """Seconds since its folder was modified."""
    title: str
    """What the study that computed it calls it; empty where that is not recorded"""


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """An item that `gc` may remove."""

    path: AnyPath
    why: str
    bytes: int


def entries(store: Store) -> Iterator[Entry]:
    """Every stage of the store, sorted by folder name."""
    for folder in store.folders():
        kind, _, key = folder.name.rpartition("-")
        done = valid_done(folder)
        yield Entry(
            kind=kind,
            key=key,
            status=_status(folder),
            tokens=done.outcome.summary.get("tokens") if done else None,
            bytes=sum(entry["bytes"] for entry in done.files.values()) if done else files.size(folder),
            age=files.age(folder),
            title=record_of(folder).get("title") or "",
        )


def garbage(store: Store) -> Iterator[Garbage]:
    """What no result and no running stage needs.

    Attempts that no DONE names (of an unfinished stage, all but the one that can be resumed), leases of processes that
    have ended, partial files. Completed stages are kept, whether or not a study still needs them, and so is everything
    of a stage that is being computed.
    """
    for folder in store.folders():
        lease = leases.current(folder)
        if lease is None or not _is_held(folder, lease):
            yield from _garbage_of(folder)


def collect(store: Store) -> Iterator[Garbage]:
    """Remove `garbage`, and yield what was removed. Holds the stage's lease, so that no process starts it meanwhile."""
    for folder in store.folders():
        if not any(_garbage_of(folder)):
            continue
        lease = leases.current(folder)
        dead = [_garbage(leases.path_of(folder, lease), ENDED)] if lease else []
        holding = leases.acquire(folder, _StaleOnly(folder), leases.PULSE)
        if holding:
            yield from dead  # removed by `acquire`
            with holding:
                for item in list(_garbage_of(folder)):
                    if item.path != holding.path:
                        files.remove(item.path)
                        yield item


class _StaleOnly(leases.Watch):
    """Lets `acquire` take over only stale leases, as a process may have started while we looked for garbage."""

    def __init__(self, folder: AnyPath) -> None:
        super().__init__(leases.PULSE)
        self._folder = folder

    def abandoned(self, lease: leases.Lease) -> bool:
        return not _is_held(self._folder, lease)


def _is_held(folder: AnyPath, lease: leases.Lease) -> bool:
    return not lease.gone and files.age(leases.path_of(folder, lease)) < STALE_SECONDS


def _garbage_of(folder: AnyPath) -> Iterator[Garbage]:
    for path in files.partial_files(folder):
        if files.age(path) >= STALE_SECONDS:
            yield _garbage(path, "partial file")
    lease = leases.current(folder)
    if lease:
        yield _garbage(leases.path_of(folder, lease), ENDED)
    done = valid_done(folder)
    resumable = None if done else newest_checkpoint(folder, _problem)
    kept = done.outcome.attempt if done else resumable.attempt.name if resumable else None
    why = "superseded attempt" if done else "no checkpoint to resume from"
    for name in files.names(folder / "attempts"):
        attempt = folder / "attempts" / name
        if name == kept:
            continue
        if not (attempt / RETRACTED).exists():
            yield _garbage(attempt, why)
            continue
        for path in files.contents(attempt):
            if path.name != RETRACTED:  # stays: it invalidates the DONE that names this attempt
                yield _garbage(path, "corrupt attempt")


def _problem(checkpoint: Resumable) -> str | None:
    """What is wrong with a checkpoint, or None; those in object storage are verified when they are downloaded."""
    if isinstance(checkpoint.folder, Remote):
        return None
    return files.mismatch(checkpoint.folder, checkpoint.files, checksums=True)


def _garbage(path: AnyPath, why: str) -> Garbage:
    return Garbage(path=path, why=why, bytes=files.size(path))


def _status(folder: AnyPath) -> str:
    done = valid_done(folder)
    if done:
        return done.outcome.status
    lease = leases.current(folder)
    if lease and not lease.gone:
        share = f", {lease.progress.done / lease.progress.total:.0%}" if lease.progress.total else ""
        return f"running on {lease.host or 'an unknown host'}{share}"
    attempts = folder / "attempts"
    steps = [found.step for name in files.names(attempts) if (found := checkpoint_of(attempts / name))]
    if steps:
        return f"resumable at {max(steps):,} tokens"
    error = record_of(folder).get("error")
    return f"failed: {error}" if error else "unfinished"
