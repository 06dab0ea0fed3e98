"""Sweeps as processes that tests start, watch and interrupt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class Driver:
    """One driver process, in its own process group."""

    def __init__(
        self,
        results: Path,
        *flags: str,
        program: str = "program",
        package: str = "tests.sweep",
        environment: dict[str, str] | None = None,
    ) -> None:
        paths = os.pathsep.join([str(ROOT / "platform"), str(ROOT)])
        self.results = results
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"{package}.{program}", str(results), *flags],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": paths, "COLUMNS": "200", **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def report(self, timeout: float = 300.0) -> dict[str, Any]:
        """Wait for the end. Fails, with the output, if it contains no report."""
        self.output, _ = self.process.communicate(timeout=timeout)
        lines = [line for line in self.output.splitlines() if line.startswith("REPORT ")]
        assert lines, self.output
        return json.loads(lines[-1].removeprefix("REPORT "))

    def assert_stops_cleanly(self, stop: Callable[[int], None]) -> None:
        """Call `stop` with its process id: it ends soon, says how to resume, and leaves no process behind."""
        began = time.monotonic()
        stop(self.process.pid)
        assert self.report(timeout=30)["interrupted"]
        assert self.process.returncode == 130
        assert time.monotonic() - began < 20
        assert "Traceback" not in self.output
        assert "run the same command again to resume" in self.output
        wait_for(lambda: not processes_of(self.process.pid), timeout=10)


def runs(results: Path) -> dict[str, list[int]]:
    """By stage folder: the processes that have started it."""
    folder = results / "runs"
    return (
        {path.name: [int(pid) for pid in path.read_text().split()] for path in folder.iterdir()}
        if folder.exists()
        else {}
    )


def wait_for(condition: Callable[[], Any], timeout: float = 180.0) -> Any:
    """The condition's first true value."""
    end = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return value


def processes_of(session: int) -> list[str]:
    """Command lines of the live processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, sid = path.read_text().rpartition(")")[2].split()[:4]
            if int(sid) == session and state not in "ZX":
                found.append((path.parent / "cmdline").read_text().replace("\0", " "))
        except (OSError, ValueError):
            continue
    return found
