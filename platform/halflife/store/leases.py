"""Leases: which process is computing a stage. They only avoid duplicate work; `DONE` alone decides the result.

A stage's leases are numbered files `lease-<n>.json`; the highest number counts. Only its holder rewrites a lease, to
increment the counter. To take over, a process creates the next number exclusively, so only one succeeds. If there are
two holders at once (because one is slow), both compute the same bits, and nothing else goes wrong.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import socket
import threading
import time
import uuid
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from halflife.store import files
from halflife.store.stage import Progress

_NAME = re.compile(r"lease-(\d{1,9})\.json")


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The content of a lease file. An unreadable one has an empty holder, and expires like any other."""

    number: int
    holder: str = ""
    counter: int = 0
    host: str = ""
    machine: str = ""
    """Boot id and process-id namespace: process ids can be compared if it is the same."""
    pid: int = 0
    born: str = ""
    """Start time of the process, as reported by the system: detects a reused process id."""
    progress: Progress = dataclasses.field(default_factory=Progress)

    @property
    def gone(self) -> bool:
        """Whether the holder has certainly ended: it was a process of this machine."""
        return bool(self.machine) and self.machine == _machine() and _born(self.pid) != self.born


@dataclass(frozen=True, kw_only=True)
class Pulse:
    """Heartbeat interval and timeout, in seconds; the clock is the process's monotonic one."""

    beat: float = 5.0
    patience: float = 30.0
    clock: Callable[[], float] = time.monotonic


PULSE = Pulse()


class Watch:
    """Remembers when, by its own clock, a process last saw the counter of a stage's lease change."""

    def __init__(self, pulse: Pulse) -> None:
        self._pulse = pulse
        self._seen: tuple[int, str, int] | None = None
        self._since = 0.0

    def abandoned(self, lease: Lease) -> bool:
        now, seen = self._pulse.clock(), (lease.number, lease.holder, lease.counter)
        if seen != self._seen:
            self._seen, self._since = seen, now
        return lease.gone or now - self._since >= self._pulse.patience


class Holding:
    """A lease that we hold, from `acquire` until the `with` block ends; a thread increments its counter."""

    def __init__(self, path: files.AnyPath, lease: Lease, pulse: Pulse) -> None:
        self.path, self._lease, self._pulse = path, lease, pulse
        self.progress = lease.progress
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="halflife-lease", daemon=True)

    def __enter__(self) -> Holding:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        files.remove(self.path)

    def _beat(self) -> None:
        while not self._stop.wait(self._pulse.beat):
            self._lease = dataclasses.replace(self._lease, counter=self._lease.counter + 1, progress=self.progress)
            try:
                files.write(self.path, _encode(self._lease))
            except OSError as error:  # others may take over and compute the same; the next attempt may succeed
                warnings.warn(f"cannot renew the lease {self.path}: {error}", stacklevel=1)


def path_of(folder: files.AnyPath, lease: Lease) -> files.AnyPath:
    return folder / f"lease-{lease.number}.json"


def current(folder: files.AnyPath) -> Lease | None:
    """The current lease on the stage in `folder`, or None."""
    numbers = [int(match[1]) for name in files.names(folder) if (match := _NAME.fullmatch(name))]
    return _decode(folder, max(numbers)) if numbers else None


def acquire(folder: files.AnyPath, watch: Watch, pulse: Pulse) -> Holding | None:
    """Take the lease on the stage in `folder` if it is free or abandoned; None if another process holds it."""
    found = current(folder)
    if found and not watch.abandoned(found):
        return None
    lease = Lease(
        number=found.number + 1 if found else 1,
        holder=uuid.uuid4().hex,
        host=socket.gethostname(),
        machine=_machine(),
        pid=os.getpid(),
        born=_born(os.getpid()),
    )
    path = path_of(folder, lease)
    if not files.create(path, _encode(lease)):
        return None
    if found:
        files.remove(path_of(folder, found))
    return Holding(path, lease, pulse)


class Mutex:
    """A context manager that one process at a time can enter, across machines; others wait."""

    def __init__(self, folder: files.AnyPath, pulse: Pulse = PULSE) -> None:
        self._folder, self._pulse = folder, pulse
        self._inside = contextlib.ExitStack()

    def __enter__(self) -> Mutex:
        files.make_folder(self._folder)
        watch, pause = Watch(self._pulse), 0.02
        while (holding := acquire(self._folder, watch, self._pulse)) is None:
            time.sleep(pause)
            pause = min(0.5, 1.5 * pause)
        self._inside.enter_context(holding)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._inside.close()


def _encode(lease: Lease) -> bytes:
    return json.dumps(dataclasses.asdict(lease)).encode()


def _decode(folder: files.AnyPath, number: int) -> Lease:
    data: dict[str, Any] = files.read_json(folder / f"lease-{number}.json") or {}
    try:
        return Lease(**{**data, "number": number, "progress": Progress(**data.get("progress", {}))})
    except TypeError:  # written by another version or program
        return Lease(number=number)


@cache
def _machine() -> str:
    """This boot and process-id namespace; empty if the system does not report it (then only counters are used)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _born(pid: int) -> str:
    """Start time of a process in clock ticks since boot; empty if it does not run."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return ""
    return "" if state in "ZX" else rest[18]  # a zombie has ended; field 22 of proc(5) is the start time
