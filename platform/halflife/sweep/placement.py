"""How a stage is carried out: its engine, processes and microbatches, the memory they hold, the resources they occupy.

Whatever cannot be carried out is refused here, before any compute.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from halflife.errors import UserError
from halflife.store.execution import CPU_ACTIVATION_BYTES, ENGINES, Execution, Memory
from halflife.store.stage import EngineStage, Stage
from halflife.training.memory import GPU_ACTIVATION_SHARE

DEFAULT_ZERO = 1
"""ZeRO stage under DeepSpeed: saves the most memory for the least communication."""
COMPILED_FROM = 10_000_000
"""Parameters from which compiling, half a minute per shape, is assumed to pay off on a GPU."""
MICRO_TOKENS = 1024
"""Microbatches shrink to this many tokens before activations are recomputed: in smaller ones, reading and casting the
weights costs a GPU as much as recomputing."""
MOST_WORKERS = 1024
GPU_OVERHEAD_BYTES = 700e6
"""What a process holds on a GPU before its first tensor: context, kernels, library workspaces."""
GPU_HEADROOM = 1.15
"""Fragmentation. The estimate of activations is an upper bound already."""
CPU_OVERHEAD_BYTES = 400e6
"""What a training process holds before its first tensor: Python, torch, Ray's worker."""
CPU_HEADROOM = 1.1
_GPU_FRACTIONS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
Choice = Literal["auto", "on", "off"]


@dataclass(frozen=True, kw_only=True)
class ExecutionChoices:
    """How the user wants stages carried out; "auto" and None are decided per stage."""

    engine: str = "auto"
    workers: int | None = None
    zero: int | None = None
    compile: Choice = "auto"
    activation_checkpointing: Choice = "auto"


@dataclass(frozen=True, kw_only=True)
class DeviceBudget:
    """What stages may use."""

    device: Literal["cpu", "cuda"]
    devices: int
    """Cores or GPUs in total."""
    max_concurrent: int
    """Upper limit on the stages that run at once."""
    memory_bytes: float
    """Of each GPU; on a CPU, what is free for all stages together."""
    workers: int = 1
    """Processes per stage, as requested."""

    @property
    def processes(self) -> int:
        """On a CPU: processes that share the memory when as many stages run as may."""
        return max(1, min(self.max_concurrent, self.devices // self.workers)) * self.workers

    @property
    def usable_bytes(self) -> float:
        """For the tensors of one process: a GPU's whole memory, or an equal part of the machine's."""
        if self.device == "cuda":
            return (self.memory_bytes - GPU_OVERHEAD_BYTES) / GPU_HEADROOM
        return (self.memory_bytes / self.processes - CPU_OVERHEAD_BYTES) / CPU_HEADROOM

    @property
    def activation_budget(self) -> float:
        """Bytes that engines cut microbatches to."""
        return GPU_ACTIVATION_SHARE * self.memory_bytes if self.device == "cuda" else CPU_ACTIVATION_BYTES

    def __str__(self) -> str:
        whole, usable = f"{self.memory_bytes / 1e9:.3g} GB", f"{self.usable_bytes / 1e9:.3g}"
        if self.device == "cuda":
            gpus = f"{self.devices} GPU{'s' * (self.devices > 1)}"
            return f"this machine has {gpus} of {whole}, {usable} of it for tensors"
        share = f"each of {self.processes} concurrent processes" if self.processes > 1 else "one process"
        return f"this machine has {whole} free, {usable} of it for the tensors of {share}"


@dataclass(frozen=True, kw_only=True)
class ResourceRequest:
    """What one stage occupies while it runs."""

    cpus: float = 1.0
    gpus: float = 0.0
    workers: int = 1
    """Processes that share these. Ray Train starts them if there are several, in addition to the actor."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How a stage is carried out, what it then holds on each device, and what it occupies."""

    execution: Execution
    memory: Memory
    fits: bool
    request: ResourceRequest


class Placements:
    """The placement of every stage of a sweep, computed once per stage."""

    def __init__(self, choices: ExecutionChoices, budget: DeviceBudget) -> None:
        self.choices, self.budget = choices, budget
        self._found: dict[str, Placement] = {}

    def __getitem__(self, stage: Stage) -> Placement:
        if stage.key not in self._found:
            self._found[stage.key] = place(stage, self.choices, self.budget)
        return self._found[stage.key]

    def check(self, stages: Iterable[Stage]) -> None:
        """Raises UserError when the chosen engine cannot train a stage."""
        for stage in stages:
            stage.check_execution(self[stage].execution)

    def check_memory(self, stages: Iterable[Stage]) -> None:
        """Raises UserError when a stage cannot fit: how much it needs for what, and what would make it fit."""
        for stage in stages:
            if not self[stage].fits:
                raise UserError(_refusal(stage, self[stage], self.choices, self.budget))

    def requests(self, stages: Iterable[Stage]) -> list[ResourceRequest]:
        return [self[stage].request for stage in stages]

    def slots(self, stages: Iterable[Stage]) -> int:
        """How many of these stages may run at once."""
        return slots(self.requests(stages), self.budget)


def check_choices(choices: ExecutionChoices, devices: int) -> None:
    """Raises UserError for choices that no stage could be trained with on `devices` cores or GPUs."""
    engine, workers, zero = choices.engine, choices.workers, choices.zero
    if engine not in ("auto", *ENGINES):
        raise UserError(f"unknown engine {engine!r}: expected auto, {' or '.join(ENGINES)}")
    if engine == "auto" and (workers is not None or zero is not None):
        given = f"{workers} workers" if workers is not None else f"ZeRO stage {zero}"
        raise UserError(f"{given} without an engine: add --engine deepspeed")
    execution = _requested(choices)
    if execution.engine == "deepspeed" and importlib.util.find_spec("deepspeed") is None:
        raise UserError("engine 'deepspeed' is not installed: pip install 'halflife[train]'")
    if execution.workers > devices:
        raise UserError(
            f"{execution.workers} workers on a machine with {devices} device{'s' * (devices != 1)}: "
            f"expected at most {devices}"
        )


def place(stage: Stage, choices: ExecutionChoices, budget: DeviceBudget) -> Placement:
    """The cheapest way to carry out a stage that fits the budget. In order of cost: as it is; in smaller microbatches;
    with activations recomputed; if the engine is "auto", on several GPUs by DeepSpeed. If nothing fits, the way that
    needs the least memory."""
    least = None
    for execution in _ways(stage, choices, budget):
        found = _placed(stage, execution, budget)
        if found.fits:
            return found
        if least is None or found.memory.total < least.memory.total:
            least = found
    assert least is not None
    return least


def slots(requests: Iterable[ResourceRequest], budget: DeviceBudget) -> int:
    """How many stages with these requests may run at once."""
    requests = list(requests)
    workers = max((request.workers for request in requests), default=1)
    if workers > 1:  # few enough that no stage waits for devices that another stage's workers hold
        return max(1, min(budget.max_concurrent, budget.devices // workers))
    smallest = min((request.gpus for request in requests), default=0.0)
    return min(budget.max_concurrent, max(1, int(budget.devices / smallest))) if smallest else budget.max_concurrent


def gpu_fraction(needed_bytes: float, memory_bytes: float, max_concurrent: int) -> float:
    """The smallest of 1/16, 1/8, ... 1 of a GPU of `memory_bytes` that holds a process with `needed_bytes` of tensors,
    and at least 1 / `max_concurrent`."""
    needed = (GPU_HEADROOM * needed_bytes + GPU_OVERHEAD_BYTES) / memory_bytes
    return next((part for part in _GPU_FRACTIONS if part >= needed and part * max_concurrent >= 1), 1.0)


def execution_text(execution: Execution) -> str:
    """Such as "deepspeed x 4, ZeRO 2, recomputing"."""
    parts = [execution.engine if execution.engine == "torch" else f"deepspeed x {execution.workers}"]
    parts += [f"ZeRO {execution.zero}"] if execution.engine == "deepspeed" else []
    parts += ["compiled"] if execution.compile else []
    parts += ["recomputing"] if execution.activation_checkpointing else []
    parts += [f"microbatches of {execution.micro_rows}"] if execution.micro_rows else []
    return ", ".join(parts)


def size_text(stage: Stage) -> str:
    return stage.size if isinstance(stage, EngineStage) else stage.label


def _requested(choices: ExecutionChoices) -> Execution:
    workers = 1 if choices.workers is None else choices.workers
    if choices.engine == "deepspeed":
        zero = DEFAULT_ZERO if choices.zero is None else choices.zero
        return Execution(engine="deepspeed", workers=workers, zero=zero)
    return Execution(workers=workers, zero=choices.zero or 0)


def _ways(stage: Stage, choices: ExecutionChoices, budget: DeviceBudget) -> Iterator[Execution]:
    """Every way to carry the stage out that the choices allow, the cheapest first. Only training uses workers."""
    if not isinstance(stage, EngineStage):
        yield Execution()
        return
    plain = _requested(choices)
    pays = budget.device == "cuda" and stage.model_parameters >= COMPILED_FROM
    plain = replace(
        plain,
        compile=choices.compile == "on" or (choices.compile == "auto" and pays and plain.zero < 3),
        activation_checkpointing=choices.activation_checkpointing == "on",
    )
    yield plain
    yield from _smaller(stage, plain, choices, budget)
    if choices.engine == "auto" and budget.device == "cuda":
        yield from _spread(stage, plain, choices, budget, range(2, budget.devices + 1))


def _smaller(
    stage: EngineStage, plain: Execution, choices: ExecutionChoices, budget: DeviceBudget
) -> Iterator[Execution]:
    """`plain` in ever smaller microbatches: down to MICRO_TOKENS, then with activations recomputed down to one row."""
    most = min(stage.rows // plain.workers, stage.rows_within(budget.activation_budget))
    halves = [most >> power for power in range(1, most.bit_length())]
    if not plain.activation_checkpointing:
        recomputes = choices.activation_checkpointing != "off"
        least = MICRO_TOKENS if recomputes else 0
        yield from (replace(plain, micro_rows=rows) for rows in halves if rows * stage.row_tokens >= least)
        if not recomputes:
            return
        plain = replace(plain, activation_checkpointing=True)
        yield plain
    yield from (replace(plain, micro_rows=rows) for rows in halves)


def _spread(
    stage: EngineStage, plain: Execution, choices: ExecutionChoices, budget: DeviceBudget, workers: Iterable[int]
) -> Iterator[Execution]:
    """`plain` on several devices, by each ZeRO stage that the engine supports for this stage."""
    for count in workers:
        for zero in (1, 2, 3):
            spread = replace(plain, engine="deepspeed", workers=count, zero=zero, compile=plain.compile and zero < 3)
            if _supported(stage, spread):
                yield spread
                yield from _smaller(stage, spread, choices, budget)


def _supported(stage: Stage, execution: Execution) -> bool:
    try:
        stage.check_execution(execution)
    except UserError:
        return False
    return True


def _placed(stage: Stage, execution: Execution, budget: DeviceBudget) -> Placement:
    memory = stage.memory(execution, budget.activation_budget)
    request = _request(execution, memory, budget)
    return Placement(execution=execution, memory=memory, fits=memory.total <= budget.usable_bytes, request=request)


def _request(execution: Execution, memory: Memory, budget: DeviceBudget) -> ResourceRequest:
    cuda, workers = budget.device == "cuda", execution.workers
    if workers > 1:
        return ResourceRequest(cpus=workers, gpus=workers if cuda else 0.0, workers=workers)
    if not cuda:
        return ResourceRequest()
    return ResourceRequest(gpus=gpu_fraction(memory.total, budget.memory_bytes, budget.max_concurrent))


def _refusal(stage: Stage, placement: Placement, choices: ExecutionChoices, budget: DeviceBudget) -> str:
    memory = placement.memory
    held = {
        "weights": memory.parameters,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "initial weights": memory.init_weights,
        "activations about": max(memory.activations, memory.evaluation),
    }
    parts = ", ".join(f"{name} {number / 1e9:.3g}" for name, number in held.items() if number)
    return (
        f"{size_text(stage)} does not fit: it needs {memory.total / 1e9:.3g} GB on each device "
        f"({execution_text(placement.execution)}: {parts}), {budget}; {_mends(stage, placement, choices, budget)}"
    )


def _mends(stage: Stage, placement: Placement, choices: ExecutionChoices, budget: DeviceBudget) -> str:
    """What would make the stage fit."""
    cuda, found = budget.device == "cuda", []
    if isinstance(stage, EngineStage):
        if choices.activation_checkpointing == "off":
            recomputing = replace(choices, activation_checkpointing="auto")
            found += ["--activation-checkpointing auto"] if place(stage, recomputing, budget).fits else []
        half = stage.in_half()
        if half is not None and cuda:
            found += ["--precision bf16"] if place(half, choices, budget).fits else []
        if cuda:
            found += _more_devices(stage, choices, budget)
    needed = placement.memory.total * CPU_HEADROOM + CPU_OVERHEAD_BYTES
    concurrent = int(budget.memory_bytes / needed)
    if not cuda and 1 <= concurrent < budget.processes:
        found.append(f"--max-concurrent {concurrent}")
    if not found:
        return f"expected a smaller size, or a machine with {needed / 1e9:.3g} GB free for each stage"
    return f"it would fit with {' or with '.join(found)}"


def _more_devices(stage: EngineStage, choices: ExecutionChoices, budget: DeviceBudget) -> list[str]:
    """The smallest number of GPUs of this kind that would be enough."""
    plain = Execution(activation_checkpointing=choices.activation_checkpointing == "on")
    counts = (1 << power for power in range(MOST_WORKERS.bit_length()))
    for execution in _spread(stage, plain, replace(choices, engine="auto"), budget, counts):
        if _placed(stage, execution, budget).fits:
            flags = f"--engine deepspeed --workers {execution.workers} --zero {execution.zero}"
            return [flags if execution.workers <= budget.devices else f"{execution.workers} such GPUs ({flags})"]
    return []
