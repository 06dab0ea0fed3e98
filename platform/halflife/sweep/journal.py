"""Where a search's Optuna journal is: a file, or objects in a bucket. Imported only where a search runs.

Whoever writes is inside the journal (`with`), one at a time on whatever machine. On disk Optuna's own file takes what
is written at once. In a bucket the journal is read on the way in and put on the way out, whole and under the next
number, which is created exclusively: no lines of others are lost, as one who was overtaken while inside cannot put his.
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
from halflife.store.files import Where
from halflife.store.remote import Remote

_GRACE_SECONDS = 5
"""After so long a lock on the file is taken from a process that was killed: a write takes milliseconds."""
_NUMBERED = re.compile(r"(\d{6})\.journal")


class Overtaken(UserError):
    """Another driver has taken the search over while this one stood still."""


class Journal(Protocol):
    """A context of which one driver at a time is inside; `str` says where it is."""

    def backend(self) -> BaseJournalBackend:
        """What Optuna reads and writes; to be asked for inside."""
        ...

    def __enter__(self) -> Any: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> Any: ...


def journal(folder: Where, name: str) -> Journal:
    """The journal of the search `name`; `folder` holds those of all searches."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name)
    return InBucket(folder / name) if isinstance(folder, Remote) else OnDisk((folder / f"{name}.journal").absolute())


class OnDisk:
    """A file that optuna-dashboard opens, and may be writing."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._alone = path, FileLock(f"{path}.alone")

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
        self._alone.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._alone.release()


class InBucket(BaseJournalBackend):
    """`<number>.journal` in a folder of a bucket: the highest is the journal, as a file on disk would be.

    Entering raises Overtaken once what was written inside could not be put.
    """

    def __init__(self, folder: Remote) -> None:
        self._folder, self._alone, self._depth = folder, leases.Alone(folder), 0
        self._logs: list[dict[str, Any]] = []
        self._number, self._put, self._overtaken = 0, 0, False
        """Of the object that `_logs` are from, and how many of them are in it."""

    def __str__(self) -> str:
        return str(self._folder)

    def backend(self) -> BaseJournalBackend:
        return self

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return self._logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        assert self._depth, "the journal is written to from inside only"
        self._logs.extend(logs)

    def __enter__(self) -> None:
        if not self._depth:
            self._alone.__enter__()
            try:
                self._get()
            except BaseException:
                self._alone.__exit__(None, None, None)
                raise
        self._depth += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._depth -= 1
        if not self._depth:
            try:
                self._put_new()
            finally:
                self._alone.__exit__(None, None, None)

    def _get(self) -> None:
        if self._overtaken:
            raise Overtaken(f"another driver goes on with the search in {self}: run the same command again to join it")
        while (number := self._newest()) > self._number:
            text = self._object(number).read()
            if text is None:
                continue  # there is a newer one
            self._logs = [json.loads(line) for line in text.splitlines()]
            self._number, self._put = number, len(self._logs)

    def _put_new(self) -> None:
        if len(self._logs) == self._put:
            return
        text = b"".join(json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in self._logs)
        mine = self._number + 1
        self._overtaken = not self._object(mine).create(text)
        if not self._overtaken and self._newest() > mine:  # others were there before, and have gone on
            self._overtaken = True
            files.remove(self._object(mine))
        if self._overtaken:
            self._get()
        files.remove(self._object(self._number))
        self._number, self._put = mine, len(self._logs)

    def _newest(self) -> int:
        return max((int(match[1]) for name in self._folder.names() if (match := _NUMBERED.fullmatch(name))), default=0)

    def _object(self, number: int) -> Remote:
        return self._folder / f"{number:06}.journal"


def _drop_cut_line(path: Path) -> None:
    """Remove a last line that was not written whole (a power cut): what came after it could not be read."""
    if path.exists() and (data := path.read_bytes()) and not data.endswith(b"\n"):
        whole = data.rfind(b"\n") + 1
        with contextlib.suppress(json.JSONDecodeError):
            json.loads(data[whole:])  # whole but for its end of line
            path.write_bytes(data + b"\n")
            return
        path.write_bytes(data[:whole])
