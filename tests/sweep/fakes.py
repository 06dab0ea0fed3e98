"""Stages that cost nothing: they sleep, count their runs, and record points."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import Any, ClassVar

from halflife.errors import Diverged
from halflife.store.stage import Context, Cost, Stage


@dataclass(frozen=True, kw_only=True)
class Fake(Stage):
    """Sleeps, records `points` points, and notes each run in `<results>/runs/<folder name>`, one line each."""

    kind: ClassVar[str] = "fake"

    name: str
    parents_: tuple[Fake, ...] = ()
    seconds: float = 0.05
    points: int = 5
    deed: str = ""
    """"" | raise | raise-once | memory-once | diverge | kill-once | meet: wait until two processes run stages"""

    @property
    def cost(self) -> Cost:
        return Cost(tokens=self.points, flops=1e6 * self.seconds, memory_bytes=1e6, disk_bytes=1e4)

    @property
    def label(self) -> str:
        return self.name

    def run(self, context: Context) -> dict[str, Any]:
        ledger = context.results / "runs" / self.folder_name
        ledger.parent.mkdir(exist_ok=True)
        with open(ledger, "a") as file:
            file.write(f"{os.getpid()}\n")
        first = len(ledger.read_text().splitlines()) == 1
        for parent in self.parents:
            context.parent(parent)
        began = time.monotonic()
        for step in range(self.points):
            time.sleep(self.seconds / self.points)
            context.record(step, {"skill/hits": float(step), "skill/trials": 10.0})
            context.progress(step + 1, self.points, 100.0)
        end = time.monotonic() + 120.0
        while (
            self.deed == "meet" and len({pid for of in ledger.parent.iterdir() for pid in of.read_text().split()}) < 2
        ):
            assert time.monotonic() < end, "no second process has begun a stage"
            time.sleep(0.05)
        if self.deed == "diverge":
            raise Diverged("loss is nan at step 3")
        if self.deed == "raise" or (self.deed == "raise-once" and first):
            raise RuntimeError("as asked")
        if self.deed == "memory-once" and first:
            bytearray(2**62)
        if self.deed == "kill-once" and first:
            os.kill(os.getpid(), signal.SIGKILL)
        seconds = time.monotonic() - began
        context.computing(seconds)
        return {
            "tokens": self.points,
            "seconds_training": seconds,
            "seconds_evaluating": 0.0,
            "tokens_per_second": 100.0,
        }
