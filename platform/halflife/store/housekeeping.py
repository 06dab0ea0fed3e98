"""What lies in a store (`ls`), and what of it is of no more use (`gc`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from halflife.store import files, leases
from halflife.store.attempt import Resumable, checkpoint_of, newest_checkpoint
from halflife.store.difference import record_of
from halflife.store.files import Where
from halflife.store.remote import Remote
from halflife.store.store import RETRACTED, Store, standing

LONG_SILENT = 3600.0
"""Seconds after which a lease that has not beaten, or a half-written file, belongs to nobody any more."""


ENDED = "lease of a holder that has ended"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One stage of the store."""

    kind: str
    key: str
    status: str
    tokens: int | None
    bytes: int
    age: float
    """Seconds since its folder last changed."""


@dataclass(frozen=True, kw_only=True)
class Rubbish:
    """One thing that `gc` may remove."""

    path: Where
    why: str
    bytes: int


def entries(store: Store) -> Iterator[Entry]:
    """Every stage of the store, in the order of folder names."""
    for folder in store.folders():
        kind, _, key = folder.name.rpartition("-")
        done = standing(folder)
        yield Entry(
            kind=kind,
            key=key,
            status=_status(folder),
            tokens=done.outcome.summary.get("tokens") if done else None,
            bytes=sum(entry["bytes"] for entry in done.files.values()) if done else files.size(folder),
            age=files.silence(folder),
        )


def rubbish(store: Store) -> Iterator[Rubbish]:
    """What no result and no running stage needs.

    Attempts that no DONE names (of an unfinished stage all but the one that can be resumed), leases of holders
    that have ended, files left half written. Completed stages stay, whether or not a study still asks for them,
    and so does everything of a stage that someone computes now.
    """
    for folder in store.folders():
        lease = leases.current(folder)
        if lease is None or not _is_held(folder, lease):
            yield from _rubbish_of(folder)


def collect(store: Store) -> Iterator[Rubbish]:
    """Remove `rubbish`, and say what was removed. The stage's lease is held meanwhile, so that nobody begins."""
    for folder in store.folders():
        if not any(_rubbish_of(folder)):
            continue
        lease = leases.current(folder)
        dead = [_rubbish(leases.path_of(folder, lease), ENDED)] if lease else []
        holding = leases.acquire(folder, _Patient(folder), leases.PULSE)
        if holding:
            yield from dead  # taking the lease has removed it
            with holding:
                for item in list(_rubbish_of(folder)):
                    if item.path != holding.path:
                        files.remove(item.path)
                        yield item


class _Patient(leases.Watch):
    """Asked by `acquire` of the lease that it finds: somebody may have begun while we looked for rubbish."""

    def __init__(self, folder: Where) -> None:
        super().__init__(leases.PULSE)
        self._folder = folder

    def abandoned(self, lease: leases.Lease) -> bool:
        return not _is_held(self._folder, lease)


def _is_held(folder: Where, lease: leases.Lease) -> bool:
    return not lease.gone and files.silence(leases.path_of(folder, lease)) < LONG_SILENT


def _rubbish_of(folder: Where) -> Iterator[Rubbish]:
    for path in files.half_written(folder):
        if files.silence(path) >= LONG_SILENT:
            yield _rubbish(path, "half-written file")
    lease = leases.current(folder)
    if lease:
        yield _rubbish(leases.path_of(folder, lease), ENDED)
    done = standing(folder)
    resumable = None if done else newest_checkpoint(folder, _problem)
    kept = done.outcome.attempt if done else resumable.attempt.name if resumable else None
    why = "not the attempt that completed the stage" if done else "nothing in it to resume from"
    for name in files.names(folder / "attempts"):
        attempt = folder / "attempts" / name
        if name == kept:
            continue
        if not (attempt / RETRACTED).exists():
            yield _rubbish(attempt, why)
            continue
        for path in files.contents(attempt):
            if path.name != RETRACTED:  # the mark stays: it says that the DONE naming this attempt counts no more
                yield _rubbish(path, "of an attempt found corrupt")


def _problem(checkpoint: Resumable) -> str | None:
    """What is wrong with a checkpoint; one in object storage is looked at when it is fetched."""
    if isinstance(checkpoint.folder, Remote):
        return None
    return files.mismatch(checkpoint.folder, checkpoint.files, checksums=True)


def _rubbish(path: Where, why: str) -> Rubbish:
    return Rubbish(path=path, why=why, bytes=files.size(path))


def _status(folder: Where) -> str:
    done = standing(folder)
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
