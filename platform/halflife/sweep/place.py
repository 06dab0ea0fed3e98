"""Where a sweep runs and where its results land: everything that never changes what a result is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from halflife.errors import UserError
from halflife.stages.base import Stage
from halflife.stages.store import Store
from halflife.sweep import resources
from halflife.sweep.resources import Share
from halflife.tracking.reach import require_reachable


def _results() -> Path:
    return Path(os.environ.get("HALFLIFE_RESULTS") or "results")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where to run. None of this changes a result."""

    device: str = "auto"
    """cpu, cuda, or auto: cuda where there is one."""
    engine: str = "torch"
    """What carries out a training step: torch."""
    workers: int = 1
    """Processes a stage is trained by."""
    max_concurrent: int | None = None
    """Stages that run at once, at most; by default one a core, or as many as fit the GPUs."""
    results: Path = field(default_factory=_results)
    """Folder for everything that runs make (also HALFLIFE_RESULTS)."""
    tracking_uri: str | None = None
    """MLflow store; by default mlflow.db in the results folder."""
    dry_run: bool = False
    """Print the plan with an estimate of time, memory and disk, and run nothing (a corpus that is missing is built)."""

    @property
    def actual_device(self) -> Literal["cpu", "cuda"]:
        """The device that stages run on. Raises UserError when it is unknown or absent."""
        if self.device not in ("auto", "cpu", "cuda"):
            raise UserError(f"unknown device {self.device!r}: expected auto, cpu or cuda")
        if self.device == "cuda" and not resources.gpus().count:
            raise UserError(
                "device 'cuda' was asked for, but torch finds no usable GPU here: "
                "install a driver and a CUDA build of torch, or use --device cpu"
            )
        return "cuda" if self.device != "cpu" and resources.gpus().count else "cpu"

    @property
    def actual_tracking_uri(self) -> str:
        return self.tracking_uri or f"sqlite:///{self.results.absolute() / 'mlflow.db'}"

    @property
    def artifacts(self) -> Path | None:
        """Where a new experiment keeps its artifacts; None leaves it to the tracking server."""
        return None if self.actual_tracking_uri.startswith("http") else self.results.absolute() / "artifacts"

    def shares(self, stages: Iterable[Stage]) -> dict[str, Share]:
        """What each stage occupies while it runs, by key."""
        if self.actual_device == "cpu":
            return {stage.key: Share() for stage in stages}
        memory, most = resources.gpus().memory_bytes, self.max_concurrent or resources.cores()
        return {stage.key: resources.gpu_share(stage.cost.memory_bytes, memory, most) for stage in stages}

    def slots(self, shares: Iterable[Share]) -> int:
        """Stages that may run at once."""
        most = self.max_concurrent or resources.cores()
        smallest = min((share.gpus for share in shares), default=0.0)
        return min(most, max(1, int(resources.gpus().count / smallest))) if smallest else most

    def store(self) -> Store:
        """The store at this place. Raises UserError when the results folder is of an incompatible version."""
        return Store(self.results)

    def check(self) -> None:
        """Everything that can be refused before a plan is made. Raises UserError."""
        _ = self.actual_device
        if self.engine != "torch":
            raise UserError(f"unknown engine {self.engine!r}: expected torch")
        if self.workers != 1:
            raise UserError(f"{self.workers} workers were asked for: the torch engine trains a stage with 1")
        if self.max_concurrent is not None and self.max_concurrent < 1:
            raise UserError(f"max-concurrent is {self.max_concurrent}: expected at least 1")
        self.store()
        if not self.dry_run:
            require_reachable(self.actual_tracking_uri)

    def check_disk(self, needed_bytes: float) -> None:
        """Raises UserError when the results folder's disk has less than `needed_bytes` free."""
        folder = self.results.absolute()
        while not folder.exists():
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        if free < needed_bytes:
            raise UserError(
                f"the stages still missing need about {needed_bytes / 1e9:.1f} GB, "
                f"{folder} has {free / 1e9:.1f} GB free: make room, or name another folder with --results"
            )
