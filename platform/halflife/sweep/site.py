"""Where a sweep runs and where its results are stored. None of this changes a result."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from halflife.errors import UserError
from halflife.store.remote import address_of, copy_of
from halflife.store.store import Store
from halflife.sweep import machine as machines
from halflife.sweep import session
from halflife.sweep.machine import Machine
from halflife.sweep.placement import Choice, DeviceBudget, ExecutionChoices, Placements, check_choices
from halflife.tracking.reach import require_reachable
from halflife.tracking.schema import sqlite_uri


def _results() -> Path:
    return Path(os.environ.get("HALFLIFE_RESULTS") or "results")


@dataclass(frozen=True, kw_only=True)
class ExecutionSite:
    """Where to run. None of this changes a result."""

    device: str = "auto"
    """cpu, cuda, or auto: cuda if there is a GPU."""
    engine: str = "auto"
    """What trains: torch, deepspeed, or auto: deepspeed only for stages that do not fit on one device."""
    workers: int | None = None
    """Processes that train a stage together, each on its own core or GPU (deepspeed); 1 by default."""
    zero: int | None = None
    """ZeRO stage (deepspeed): what the workers shard: 0 nothing, 1 the optimizer state, 2 also the gradients, 3 also
    the weights; 1 by default."""
    compile: Choice = "auto"
    """torch.compile of the layers: on, off, or auto: on a GPU, from 10 million parameters."""
    activation_checkpointing: Choice = "auto"
    """Recompute activations instead of storing them: on, off, or auto: only if a stage does not fit otherwise."""
    max_concurrent: int | None = None
    """Upper limit on the stages that run at once; by default one per core, or as many as fit on the GPUs."""
    results: Path = field(default_factory=_results)
    """Folder for everything that runs create, or a bucket such as s3://bucket/path (also HALFLIFE_RESULTS)."""
    tracking_uri: str | None = None
    """MLflow store; by default mlflow.db in the results folder."""
    cluster: Path | None = None
    """Run on the cluster described by this file (cluster.yaml), which `ray up` has started."""
    go_on: bool = False
    """Compute what builds on a trunk that did not learn what it should; otherwise the sweep stops there."""
    dry_run: bool = False
    """Print the plan with estimates of time, memory and disk, and run nothing (a missing corpus is still built)."""

    def __post_init__(self) -> None:
        if address := address_of(self.results):  # from here on, this machine's copy stands for the bucket
            object.__setattr__(self, "results", copy_of(address))

    @property
    def machine(self) -> Machine:
        """What there is to run on: this machine, or the cluster that the process joins."""
        return session.cluster(self.device != "cpu") if session.joins() else machines.this_machine()

    @property
    def actual_device(self) -> Literal["cpu", "cuda"]:
        """The device that stages run on. Raises UserError when it is unknown or missing."""
        if self.device not in ("auto", "cpu", "cuda"):
            raise UserError(f"unknown device {self.device!r}: expected auto, cpu or cuda")
        if self.device == "cuda" and not self.machine.gpus.count:
            raise UserError(
                "device 'cuda', but torch finds no usable GPU: install a driver and a CUDA build of torch, or use "
                "--device cpu"
            )
        return "cuda" if self.device != "cpu" and self.machine.gpus.count else "cpu"

    @property
    def actual_tracking_uri(self) -> str:
        return self.tracking_uri or sqlite_uri(self.results.absolute() / "mlflow.db")

    @property
    def artifacts(self) -> Path | None:
        """Where a new experiment stores its artifacts; None leaves it to the tracking server."""
        return None if self.actual_tracking_uri.startswith("http") else self.results.absolute() / "artifacts"

    @property
    def choices(self) -> ExecutionChoices:
        return ExecutionChoices(
            engine=self.engine,
            workers=self.workers,
            zero=self.zero,
            compile=self.compile,
            activation_checkpointing=self.activation_checkpointing,
        )

    @property
    def budget(self) -> DeviceBudget:
        """What stages may use here. Raises UserError when the device is unknown or missing."""
        machine, device = self.machine, self.actual_device
        return DeviceBudget(
            device=device,
            devices=machine.gpus.count if device == "cuda" else machine.cores,
            max_concurrent=self.max_concurrent or machine.cores,
            memory_bytes=machine.gpus.memory_bytes if device == "cuda" else machine.memory_bytes,
            workers=self.workers or 1,
        )

    def placements(self) -> Placements:
        """How stages are carried out here: make it once per sweep and pass it on, as it computes each stage once."""
        return Placements(self.choices, self.budget)

    def store(self) -> Store:
        """Raises UserError when the results folder is of an incompatible version."""
        return Store(self.results)

    def check(self) -> None:
        """Raises UserError for everything that can be refused before there is a plan."""
        if self.max_concurrent is not None and self.max_concurrent < 1:
            raise UserError(f"max-concurrent is {self.max_concurrent}: expected at least 1")
        check_choices(self.choices, self.budget.devices)
        self.store()
        if not self.dry_run:
            if not address_of(self.results):
                for name in ("stages", "artifacts", "reports"):
                    _require_writable(self.results.absolute() / name)
                _require_writable(self.results.absolute() / "mlflow.db", folder=False)
            require_reachable(self.actual_tracking_uri)

    def check_disk(self, needed_bytes: float) -> None:
        """Raises UserError when the results folder's disk has less than `needed_bytes` free."""
        folder = self.results.absolute()
        while not folder.exists():
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        if free < needed_bytes:
            raise UserError(
                f"the missing stages need about {needed_bytes / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB free: "
                "free some space, or choose another folder with --results"
            )


def _require_writable(path: Path, *, folder: bool = True) -> None:
    """Raises UserError when this folder or file cannot be written, or made. Writes nothing."""
    there = path
    while not there.exists():
        there = there.parent
    is_folder = there.is_dir()
    if is_folder != (folder or there != path) or not os.access(there, os.W_OK | (os.X_OK if is_folder else 0)):
        raise UserError(f"{path} cannot be written, as {there} cannot: choose another folder with --results")
