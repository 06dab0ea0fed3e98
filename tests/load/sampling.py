"""Time and memory of this process and its descendants."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil

_EVERY = 0.5


@dataclass(kw_only=True)
class Span:
    """Seconds."""

    wall: float = 0.0
    cpu: float = 0.0

    def each(self, count: int, less: float = 0.0) -> dict[str, float]:
        """Milliseconds per item of `count`; `less` seconds of each are subtracted from the wall time."""
        return {"wall_ms": 1000 * (self.wall / count - less), "cpu_ms": 1000 * self.cpu / count}


class Sampler:
    """Samples twice per second, in a thread: CPU seconds of every process; megabytes of the driver and of the largest
    actor, as a function of the number of started stages, which are the files in `here`/runs."""

    def __init__(self, here: Path) -> None:
        self.span = Span()
        self._runs = here / "runs"
        self._cpu: dict[int, float] = {}
        self._seen: list[tuple[int, float, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Sampler:
        self._began, self._own = time.monotonic(), time.process_time()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self.span.wall = time.monotonic() - self._began
        self.span.cpu = time.process_time() - self._own + sum(self._cpu.values())

    def memory(self, count: int) -> dict[str, float]:
        """Megabytes when a quarter of `count` stages had started, and at the last sample with live actors."""
        seen = [entry for entry in self._seen if entry[2]] or self._seen
        first = next((entry for entry in seen if entry[0] >= count / 4), seen[-1])
        last = seen[-1]
        return {
            "first_mb": first[1],
            "last_mb": last[1],
            "growth": last[1] / first[1] - 1,
            "actor_first_mb": first[2],
            "actor_last_mb": last[2],
            "actor_growth": last[2] / first[2] - 1 if first[2] else 0.0,
        }

    def _look(self) -> None:
        driver = psutil.Process()
        while not self._stop.wait(_EVERY):
            actors = 0.0
            for child in driver.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    times = child.cpu_times()
                    self._cpu[child.pid] = times.user + times.system
                    if "StageActor" in child.name():
                        actors = max(actors, _megabytes(child))
            begun = sum(1 for _ in self._runs.iterdir()) if self._runs.exists() else 0
            self._seen.append((begun, _megabytes(driver), actors))


def _megabytes(process: psutil.Process) -> float:
    return process.memory_info().rss / 1e6


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
