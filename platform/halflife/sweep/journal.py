"""A search's Optuna journal: a file, or objects in a bucket. Imported only if a search runs.

Writers enter the journal (`with`), one at a time across machines. On disk, Optuna's journal file is written at once. In
a bucket, the journal is read on entry and written on exit, whole and as an object with the next number, which is
created exclusively. So no entries are lost: a driver that was overtaken while inside cannot write.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from filelock import FileLock
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend, JournalFileSymlinkLock

from halflife.errors import UserError
from halflife.store import files, leases
from halflife.store.files import AnyPath
from halflife.store.remote import Remote

_GRACE_SECONDS = 5
"""Age after which the lock of a killed process is broken. A write takes milliseconds."""
_NUMBERED = re.compile(r"(\d{6})\.journal")


class Overtaken(UserError):
    """Another driver has taken over the search while this one was stalled."""


class Journal(Protocol):
    """A context manager that one driver at a time can enter. `str` gives its address."""

    def backend(self) -> BaseJournalBackend:
        """The storage for Optuna; call it inside the context."""
        ...

    def __enter__(self) -> Any: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> Any: ...


def journal(folder: AnyPath, name: str) -> Journal:
    """The journal of the search `name`; `folder` contains those of all searches."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name)
    return InBucket(folder / name) if isinstance(folder, Remote) else OnDisk((folder / f"{name}.journal").absolute())


class OnDisk:
    """A file, which optuna-dashboard can open and may write to."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._lock = path, FileLock(f"{path}.alone")

    def __str__(self) -> str:
        return str(self._path)

    def backend(self) -> BaseJournalBackend:
        lock = JournalFileSymlinkLock(str(self._path), grace_period=_GRACE_SECONDS)
        lock.acquire()
        try:
            _drop_cut_line(self._path)
        finally:
            lock.release()
        return JournalFileBackend(str(self._path), lock_obj=lock)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._lock.release()


class InBucket(BaseJournalBackend):
    """Objects `<number>.journal` in a folder of a bucket: the one with the highest number is the journal.

    Entering raises Overtaken after an earlier write failed because another driver had taken over.
    """

    def __init__(self, folder: Remote) -> None:
        self._folder, self._lock, self._depth = folder, leases.Mutex(folder), 0
        self._logs: list[dict[str, Any]] = []
        self._number, self._stored, self._overtaken = 0, 0, False
        """The number of the object that `_logs` were read from, and how many of them are in it."""

    def __str__(self) -> str:
        return str(self._folder)

    def backend(self) -> BaseJournalBackend:
        return self

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return self._logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        assert self._depth, "the journal can only be written inside its context"
        self._logs.extend(logs)

    def __enter__(self) -> None:
        if not self._depth:
            self._lock.__enter__()
            try:
                self._read()
            except BaseException:
                self._lock.__exit__(None, None, None)
                raise
        self._depth += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._depth -= 1
        if not self._depth:
            try:
                self._write_new()
            finally:
                self._lock.__exit__(None, None, None)

    def _read(self) -> None:
        if self._overtaken:
            raise Overtaken(
                f"another driver has taken over the search in {self}: run the same command again to join it"
            )
        while (number := self._newest()) > self._number:
            text = self._object(number).read()
            if text is None:
                continue  # superseded by a newer one
            self._logs = [json.loads(line) for line in text.splitlines()]
            self._number, self._stored = number, len(self._logs)

    def _write_new(self) -> None:
        if len(self._logs) == self._stored:
            return
        text = b"".join(json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in self._logs)
        mine = self._number + 1
        self._overtaken = not self._object(mine).create(text)
        if (
            not self._overtaken and self._newest() > mine
        ):  # another driver wrote this number earlier, and has removed it since
            self._overtaken = True
            files.remove(self._object(mine))
        if self._overtaken:
            self._read()
        files.remove(self._object(self._number))
        self._number, self._stored = mine, len(self._logs)

    def _newest(self) -> int:
        return max((int(match[1]) for name in self._folder.names() if (match := _NUMBERED.fullmatch(name))), default=0)

    def _object(self, number: int) -> Remote:
        return self._folder / f"{number:06}.journal"


def _drop_cut_line(path: Path) -> None:
    """Remove an incomplete last line (after a power cut), as lines appended to it would be unreadable."""
    if path.exists() and (data := path.read_bytes()) and not data.endswith(b"\n"):
        whole = data.rfind(b"\n") + 1
        with contextlib.suppress(json.JSONDecodeError):
            json.loads(data[whole:])  # complete except for the newline
            path.write_bytes(data + b"\n")
            return
        path.write_bytes(data[:whole])
