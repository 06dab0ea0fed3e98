"""Stages that compute almost nothing, and log each step that they compute."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from halflife.errors import Diverged
from halflife.fields import recorded
from halflife.store.stage import Context, Cost, Outcome, Stage

LOG = "computed.log"


@dataclass(frozen=True, kw_only=True)
class Walk(Stage):
    """A chain of hashes, one per step, from the final states of its starts; the result is in `final/state.json`."""

    kind: ClassVar[str] = "walk"

    name: str
    starts: tuple[Stage, ...] = ()
    steps: int = 4
    every: int = 1
    """Steps between checkpoints."""
    diverges: bool = False
    needs: str = ""
    """Unavailable unless the starts' summaries have this."""
    flops: float = recorded(1.0)
    pause: float = recorded(0.0)
    """Seconds per step."""
    breaks_at: int | None = recorded(None)
    """Raise before this step, unless resumed."""

    @property
    def cost(self) -> Cost:
        return Cost(tokens=self.steps, flops=self.flops, memory_bytes=1, disk_bytes=1)

    def unavailable(self, outcomes: Mapping[str, Outcome]) -> str | None:
        reason = super().unavailable(outcomes)
        if not reason and self.needs and any(self.needs not in outcome.summary for outcome in outcomes.values()):
            return f"the start never reached {self.needs}"
        return reason

    def run(self, context: Context) -> dict[str, Any]:
        state = "".join((context.parent(start) / "final" / "state.json").read_text() for start in self.starts)
        first = 0
        if context.resume:
            saved = json.loads((context.resume / "state.json").read_text())
            first, state = saved["step"], saved["state"]
        older: Path | None = None
        for step in range(first, self.steps):
            if step == self.breaks_at and not context.resume:
                raise RuntimeError(f"broke at step {step}")
            if self.diverges and step == self.steps - 1:
                raise Diverged(f"the loss is nan at step {step}")
            with open(context.results / LOG, "a") as log:
                log.write(f"{self.name} {step}\n")
            state = hashlib.sha256(f"{state}{step}".encode()).hexdigest()
            time.sleep(self.pause)
            context.record(step, {"walk/value": int(state[:8], 16) / 2**32})
            context.progress(step + 1, self.steps, 1.0)
            if (step + 1) % self.every == 0:
                folder = context.folder / f"resume-{step + 1}"
                _save(folder, {"step": step + 1, "state": state})
                context.checkpointed(step, folder)
                if older:
                    shutil.rmtree(older)
                older = folder
        _save(context.folder / "final", {"state": state})
        return {"tokens": self.steps, "last": float(int(state[:4], 16))}


def _save(folder: Path, state: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(json.dumps(state))


def computed(results: Path) -> list[str]:
    """`<name> <step>` of every step that any process computed, in order."""
    log = results / LOG
    return log.read_text().splitlines() if log.exists() else []


def final_state(folder: Path) -> str:
    return (folder / "final" / "state.json").read_text()
