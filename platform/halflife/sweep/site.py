"""Where a sweep runs and where its results land: everything that never changes what a result is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from halflife.errors import UserError
from halflife.store.execution import Execution
from halflife.store.remote import address_of, copy_of
from halflife.store.stage import Stage
from halflife.store.store import Store
from halflife.sweep import executions, resources, session
from halflife.sweep import placement as fit
from halflife.sweep.placement import Choice, DeviceBudget, ExecutionChoices, Placement
from halflife.sweep.resources import Machine, ResourceRequest
from halflife.tracking.reach import require_reachable


def _results() -> Path:
    return Path(os.environ.get("HALFLIFE_RESULTS") or "results")


@dataclass(frozen=True, kw_only=True)
class ExecutionSite:
    """Where to run. None of this changes a result."""

    device: str = "auto"
    """cpu, cuda, or auto: cuda where there is one."""
    engine: str = "auto"
    """What trains: torch, deepspeed, or auto: deepspeed where a stage does not fit one device."""
    workers: int | None = None
    """Processes that train a stage together, each on a core or GPU of its own (deepspeed); 1 by default."""
    zero: int | None = None
    """What they share out (deepspeed): 0 nothing, 1 the optimizer's state, 2 the gradients too, 3 the weights too; by
    default 1."""
    compile: Choice = "auto"
    """Layers through torch.compile: on, off, or auto: on a GPU, from 10 million parameters."""
    activation_checkpointing: Choice = "auto"
    """Computing activations a second time instead of keeping them: on, off, or auto: where a stage fits no other
    way on its device."""
    max_concurrent: int | None = None
    """Stages that run at once, at most; by default one a core, or as many as fit the GPUs."""
    results: Path = field(default_factory=_results)
    """Folder for everything that runs make, or a bucket such as s3://bucket/path (also HALFLIFE_RESULTS)."""
    tracking_uri: str | None = None
    """MLflow store; by default mlflow.db in the results folder."""
    cluster: Path | None = None
    """Run on the cluster of this file, which `ray up` has started, from here: cluster.yaml."""
    dry_run: bool = False
    """Print the plan with an estimate of time, memory and disk, and run nothing (a corpus that is missing is built)."""

    def __post_init__(self) -> None:
        if address := address_of(self.results):  # from here on, this machine's copy stands for the bucket
            object.__setattr__(self, "results", copy_of(address))

    @property
    def machine(self) -> Machine:
        """What there is to run on: this machine, or the cluster that the process joins."""
        return session.cluster(self.device != "cpu") if session.joins() else resources.machine()

    @property
    def actual_device(self) -> Literal["cpu", "cuda"]:
        """The device that stages run on. Raises UserError when it is unknown or absent."""
        if self.device not in ("auto", "cpu", "cuda"):
            raise UserError(f"unknown device {self.device!r}: expected auto, cpu or cuda")
        if self.device == "cuda" and not self.machine.gpus.count:
            raise UserError(
                "device 'cuda' was asked for, but torch finds no usable GPU here: "
                "install a driver and a CUDA build of torch, or use --device cpu"
            )
        return "cuda" if self.device != "cpu" and self.machine.gpus.count else "cpu"

    @property
    def actual_tracking_uri(self) -> str:
        return self.tracking_uri or f"sqlite:///{self.results.absolute() / 'mlflow.db'}"

    @property
    def artifacts(self) -> Path | None:
        """Where a new experiment keeps its artifacts; None leaves it to the tracking server."""
        return None if self.actual_tracking_uri.startswith("http") else self.results.absolute() / "artifacts"

    @property
    def devices(self) -> int:
        """Cores or GPUs: what a worker has one of."""
        return self.machine.gpus.count if self.actual_device == "cuda" else self.machine.cores

    def execution(self, stage: Stage) -> Execution:
        """How a stage is carried out here."""
        return self.placement(stage).execution

    def placement(self, stage: Stage) -> Placement:
        """How a stage is carried out here, and what it then holds."""
        return fit.fitting(stage, self.asked, self.room)

    @property
    def asked(self) -> ExecutionChoices:
        return ExecutionChoices(
            engine=self.engine,
            workers=self.workers,
            zero=self.zero,
            compile=self.compile,
            activation_checkpointing=self.activation_checkpointing,
        )

    @property
    def room(self) -> DeviceBudget:
        """What one stage may use here."""
        most = self.max_concurrent or self.machine.cores
        if self.actual_device == "cuda":
            return DeviceBudget(
                device="cuda", devices=self.devices, slots=most, memory_bytes=self.machine.gpus.memory_bytes
            )
        workers = self.workers or 1
        processes = max(1, min(most, self.devices // workers)) * workers
        return DeviceBudget(device="cpu", devices=self.devices, slots=processes, memory_bytes=self.machine.memory_bytes)

    def shares(self, stages: Iterable[Stage]) -> dict[str, ResourceRequest]:
        """What each stage occupies while it runs, by key."""
        return {stage.key: self._share(stage) for stage in stages}

    def _share(self, stage: Stage) -> ResourceRequest:
        cuda, placement = self.actual_device == "cuda", self.placement(stage)
        workers = placement.execution.workers
        if workers > 1:
            return ResourceRequest(cpus=workers, gpus=workers if cuda else 0.0, workers=workers)
        if not cuda:
            return ResourceRequest()
        memory, most = self.machine.gpus.memory_bytes, self.max_concurrent or self.machine.cores
        return resources.gpu_share(placement.memory.total, memory, most)

    def slots(self, shares: Iterable[ResourceRequest]) -> int:
        """Stages that may run at once."""
        shares = list(shares)
        most = self.max_concurrent or self.machine.cores
        workers = max((share.workers for share in shares), default=1)
        if workers > 1:  # so many that none waits for a core or GPU that another's workers have
            return max(1, min(most, self.devices // workers))
        smallest = min((share.gpus for share in shares), default=0.0)
        return min(most, max(1, int(self.machine.gpus.count / smallest))) if smallest else most

    def store(self) -> Store:
        """The store at this place. Raises UserError when the results folder is of an incompatible version."""
        return Store(self.results)

    def check(self) -> None:
        """Everything that can be refused before a plan is made. Raises UserError."""
        _ = self.actual_device
        executions.check(self.engine, self.workers, self.zero, self.devices)
        if self.max_concurrent is not None and self.max_concurrent < 1:
            raise UserError(f"max-concurrent is {self.max_concurrent}: expected at least 1")
        self.store()
        if not self.dry_run:
            require_reachable(self.actual_tracking_uri)

    def check_stages(self, stages: Iterable[Stage]) -> None:
        """Raises UserError when a stage cannot be carried out here."""
        for stage in stages:
            executions.check_stage(stage, self.execution(stage))

    def check_fits(self, stages: Iterable[Stage]) -> None:
        """Raises UserError when a stage does not fit the devices here."""
        fit.check_fits(stages, self.asked, self.room)

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
