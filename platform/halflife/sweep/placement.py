"""What fits: how a stage is carried out so that it fits the devices at hand, and why it cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from rich.console import Console
from rich.table import Table

from halflife.errors import UserError
from halflife.stages.train import Train
from halflife.store.execution import CPU_ACTIVATION_BYTES, Execution, Memory
from halflife.store.stage import Stage
from halflife.sweep import executions, resources
from halflife.training.memory import GPU_ACTIVATION_SHARE

COMPILED_FROM = 10_000_000
"""Parameters from which compiling, half a minute for every shape, is taken to pay on a GPU."""
MICRO_TOKENS = 1024
"""A microbatch is cut down to so many tokens before activations are recomputed: below it, reading and casting the
weights for each costs a GPU as much as recomputing."""
MOST_WORKERS = 1024
Choice = Literal["auto", "on", "off"]


@dataclass(frozen=True, kw_only=True)
class ExecutionChoices:
    """What the user says of how stages are carried out; what is left open is chosen."""

    engine: str = "auto"
    workers: int | None = None
    zero: int | None = None
    compile: Choice = "auto"
    activation_checkpointing: Choice = "auto"


@dataclass(frozen=True, kw_only=True)
class DeviceBudget:
    """What one stage may use."""

    device: Literal["cpu", "cuda"]
    devices: int
    """Cores or GPUs of this machine."""
    slots: int
    """Stages that run at once, at most."""
    memory_bytes: float
    """Of each GPU; of a CPU, what is free now, for all slots together."""

    @property
    def usable_bytes(self) -> float:
        """For the tensors of one process: a GPU's whole memory, or a slot's part of the machine's."""
        if self.device == "cuda":
            return (self.memory_bytes - resources.GPU_OVERHEAD_BYTES) / resources.GPU_HEADROOM
        return (self.memory_bytes / self.slots - resources.CPU_OVERHEAD_BYTES) / resources.CPU_HEADROOM

    @property
    def activation_budget(self) -> float:
        """What engines cut microbatches to."""
        return GPU_ACTIVATION_SHARE * self.memory_bytes if self.device == "cuda" else CPU_ACTIVATION_BYTES


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How a stage is carried out, and what it then holds on each device."""

    execution: Execution
    memory: Memory
    fits: bool


def fitting(stage: Stage, asked: ExecutionChoices, room: DeviceBudget) -> Placement:
    """The first way to carry out a stage that fits the room, in the order of what it costs: as it is; in smaller
    microbatches; with activations recomputed; where the engine is left open, on several GPUs by DeepSpeed. Of a stage
    that fits in no way, the one that needs least."""
    least = None
    for execution in _ways(stage, asked, room):
        placement = _placed(stage, execution, room)
        if placement.fits:
            return placement
        if least is None or placement.memory.total < least.memory.total:
            least = placement
    assert least is not None
    return least


def check_fits(stages: Iterable[Stage], asked: ExecutionChoices, room: DeviceBudget) -> None:
    """Raises UserError when a stage cannot fit: how much it needs for what, and what would make it fit."""
    for stage in stages:
        placement = fitting(stage, asked, room)
        if not placement.fits:
            raise UserError(_refusal(stage, placement, asked, room))


def show(stages: Iterable[Stage], asked: ExecutionChoices, room: DeviceBudget, console: Console) -> None:
    """Print what the largest stage of each size holds, by part."""
    largest: dict[tuple[str, Execution], Placement] = {}
    for stage in stages:
        placement = fitting(stage, asked, room)
        sort = (_size(stage), placement.execution)
        if sort not in largest or largest[sort].memory.total < placement.memory.total:
            largest[sort] = placement
    if not largest:
        return
    ordered = sorted(largest.items(), key=lambda item: item[1].memory.total)
    table = Table(title="GB held on each device", title_justify="left")
    table.add_column("")
    for (size, _), _ in ordered:
        table.add_column(size, justify="right")
    parts: dict[str, Callable[[Memory], float]] = {
        "weights": lambda memory: memory.parameters,
        "gradients": lambda memory: memory.gradients,
        "optimizer": lambda memory: memory.optimizer,
        "starting weights": lambda memory: memory.init_weights,
        "activations (estimate)": lambda memory: memory.activations,
        "or evaluation (estimate)": lambda memory: memory.evaluation,
        "in all": lambda memory: memory.total,
    }
    for name, part in parts.items():
        numbers = [f"{part(placement.memory) / 1e9:.3g}" for _, placement in ordered]
        table.add_row(name, *numbers, end_section=name in ("or evaluation (estimate)", "in all"))
    table.add_row("carried out by", *(in_words(execution) for (_, execution), _ in ordered))
    table.add_row("", *("fits" if placement.fits else "does not fit" for _, placement in ordered))
    console.print(table)
    console.print(_room_in_words(room), markup=False)


def in_words(execution: Execution) -> str:
    """Such as "deepspeed x 4, ZeRO 2, recomputing"."""
    words = [execution.engine if execution.engine == "torch" else f"deepspeed x {execution.workers}"]
    words += [f"ZeRO {execution.zero}"] if execution.engine == "deepspeed" else []
    words += ["compiled"] if execution.compile else []
    words += ["recomputing"] if execution.activation_checkpointing else []
    words += [f"{execution.micro_rows} rows at once"] if execution.micro_rows else []
    return ", ".join(words)


def _ways(stage: Stage, asked: ExecutionChoices, room: DeviceBudget) -> Iterator[Execution]:
    """Every way to carry the stage out that the user leaves open, the cheapest first."""
    plain = executions.choose(stage, asked.engine, asked.workers, asked.zero)
    if not isinstance(stage, Train):
        yield plain
        return
    pays = room.device == "cuda" and stage.architecture.parameters >= COMPILED_FROM
    plain = replace(
        plain,
        compile=asked.compile == "on" or (asked.compile == "auto" and pays and plain.zero < 3),
        activation_checkpointing=asked.activation_checkpointing == "on",
    )
    yield plain
    yield from _smaller(stage, plain, asked, room)
    if asked.engine == "auto" and room.device == "cuda":
        yield from _spread(stage, plain, asked, room, range(2, room.devices + 1))


def _smaller(stage: Train, plain: Execution, asked: ExecutionChoices, room: DeviceBudget) -> Iterator[Execution]:
    """`plain` in ever smaller microbatches: down to MICRO_TOKENS, then with activations recomputed down to a row."""
    sequence = stage.mixture.sequence
    most = min(stage.batch_tokens // sequence // plain.workers, stage.rows_within(room.activation_budget))
    halves = [most >> power for power in range(1, most.bit_length())]
    if not plain.activation_checkpointing:
        recomputes = asked.activation_checkpointing != "off"
        least = MICRO_TOKENS if recomputes else 0
        yield from (replace(plain, micro_rows=rows) for rows in halves if rows * sequence >= least)
        if not recomputes:
            return
        plain = replace(plain, activation_checkpointing=True)
        yield plain
    yield from (replace(plain, micro_rows=rows) for rows in halves)


def _spread(
    stage: Train, plain: Execution, asked: ExecutionChoices, room: DeviceBudget, workers: Iterable[int]
) -> Iterator[Execution]:
    """`plain` on several devices, by ZeRO of each stage that the engine does not refuse."""
    for count in workers:
        for zero in (1, 2, 3):
            spread = replace(plain, engine="deepspeed", workers=count, zero=zero, compile=plain.compile and zero < 3)
            if _carried_out(stage, spread):
                yield spread
                yield from _smaller(stage, spread, asked, room)


def _carried_out(stage: Stage, execution: Execution) -> bool:
    try:
        executions.check_stage(stage, execution)
    except UserError:
        return False
    return True


def _placed(stage: Stage, execution: Execution, room: DeviceBudget) -> Placement:
    memory = stage.memory(execution, room.activation_budget)
    return Placement(execution=execution, memory=memory, fits=memory.total <= room.usable_bytes)


def _refusal(stage: Stage, placement: Placement, asked: ExecutionChoices, room: DeviceBudget) -> str:
    memory = placement.memory
    held = {
        "weights": memory.parameters,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "starting weights": memory.init_weights,
        "activations about": max(memory.activations, memory.evaluation),
    }
    parts = ", ".join(f"{name} {number / 1e9:.3g}" for name, number in held.items() if number)
    way = in_words(placement.execution)
    return (
        f"{_size(stage)} does not fit: it needs {memory.total / 1e9:.3g} GB on each device ({way}"
        f": {parts}), {_room_in_words(room)}; {_mends(stage, placement, asked, room)}"
    )


def _mends(stage: Stage, placement: Placement, asked: ExecutionChoices, room: DeviceBudget) -> str:
    """What would make the stage fit."""
    found = []
    if isinstance(stage, Train):
        if asked.activation_checkpointing == "off":
            found += _if_fits(
                "--activation-checkpointing auto", stage, replace(asked, activation_checkpointing="auto"), room
            )
        if stage.precision == "fp32" and room.device == "cuda":
            found += _if_fits("--precision bf16", replace(stage, precision="bf16"), asked, room)
        if room.device == "cuda":
            found += _more_devices(stage, asked, room)
    needed = placement.memory.total * resources.CPU_HEADROOM + resources.CPU_OVERHEAD_BYTES
    at_once = int(room.memory_bytes / needed)
    if room.device == "cpu" and 1 <= at_once < room.slots:
        found.append(f"--max-concurrent {at_once}")
    if not found:
        return f"expected a smaller size, or a machine with {needed / 1e9:.3g} GB free for each stage"
    return f"it would fit with {' or with '.join(found)}"


def _if_fits(flag: str, stage: Stage, asked: ExecutionChoices, room: DeviceBudget) -> list[str]:
    return [flag] if fitting(stage, asked, room).fits else []


def _more_devices(stage: Train, asked: ExecutionChoices, room: DeviceBudget) -> list[str]:
    """The smallest number of GPUs like these that would do."""
    plain = Execution(activation_checkpointing=asked.activation_checkpointing == "on")
    counts = (1 << power for power in range(MOST_WORKERS.bit_length()))
    for execution in _spread(stage, plain, replace(asked, engine="auto"), room, counts):
        if _placed(stage, execution, room).fits:
            flags = f"--engine deepspeed --workers {execution.workers} --zero {execution.zero}"
            return [flags if execution.workers <= room.devices else f"{execution.workers} GPUs like these ({flags})"]
    return []


def _size(stage: Stage) -> str:
    return stage.architecture.size if isinstance(stage, Train) else stage.label


def _room_in_words(room: DeviceBudget) -> str:
    whole, usable = f"{room.memory_bytes / 1e9:.3g} GB", f"{room.usable_bytes / 1e9:.3g}"
    if room.device == "cuda":
        return f"this machine has {room.devices} GPU{'s' * (room.devices > 1)} of {whole}, {usable} of it for tensors"
    slots = f"each of {room.slots} stages at once" if room.slots > 1 else "one stage"
    return f"this machine has {whole} free, {usable} of it for the tensors of {slots}"
