"""--dry-run: what a sweep would compute, and estimates of its time, memory and disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from halflife.store.execution import Execution, Memory
from halflife.store.plan import Plan
from halflife.store.stage import Stage
from halflife.sweep.paces import (
    PEAK_SHARE,
    STEP_SECONDS,
    assumed_flops,
    free_share,
    measured,
    pace_group,
    seconds_of,
)
from halflife.sweep.placement import Placement, Placements, execution_text, size_text
from halflife.sweep.report import blocked_lines, duration
from halflife.sweep.study import Study

STARTUP_SECONDS = 12.0
"""Starting Ray, and the first stage's imports, if nothing else runs."""
BUSY = 0.8
"""What other work leaves of a core below which it is mentioned."""
_ANCESTORS = "ancestors"
"""Stages that no trial names as a phase."""


@dataclass(kw_only=True)
class Row:
    """One phase in the table."""

    stages: int = 0
    cached: int = 0
    blocked: int = 0
    """Stages that can never run."""
    tokens: float = 0.0
    """This and the following: over the stages that are missing and can run."""
    flops: float = 0.0
    seconds: float = 0.0
    """On one slot."""

    @property
    def missing(self) -> int:
        return self.stages - self.cached - self.blocked


@dataclass(kw_only=True)
class Estimate:
    phases: dict[str, Row] = field(default_factory=dict)
    slots: int
    seconds: float
    """Wall time: the work spread over the slots, but at least the longest chain of stages."""
    measured: int
    """Missing stages whose pace was measured on complete stages of the same kind and size."""
    memory_bytes: float
    """Of the largest missing stages, as many as run at once."""
    disk_bytes: float

    @property
    def total(self) -> Row:
        rows = list(self.phases.values())
        names = ("stages", "cached", "blocked", "tokens", "flops", "seconds")
        return Row(**{name: sum(getattr(row, name) for row in rows) for name in names})


def estimate(study: Study, plan: Plan, placements: Placements) -> Estimate:
    """What the missing stages of a plan would take."""
    missing = _runnable(plan)
    slots, device = placements.slots(missing), placements.budget.device
    paces, taken = measured(plan, device), seconds_of(plan, device, slots)
    seconds = {stage.key: taken(stage) for stage in missing}
    phases: dict[str, Row] = {}
    for stage in plan.stages.values():
        users = study.users.get(stage.key)
        row = phases.setdefault(users[0][1] if users else _ANCESTORS, Row())
        row.stages += 1
        row.cached += stage.key in plan.outcomes
        row.blocked += stage.key in plan.blocked
        if stage.key in seconds:
            row.tokens += stage.cost.tokens
            row.flops += stage.cost.flops
            row.seconds += seconds[stage.key]
    wall = max(sum(seconds.values()) / slots, _longest_chain(missing, seconds))
    wall += STARTUP_SECONDS / free_share(device, slots) if missing else 0.0
    found = [placements[stage] for stage in missing]
    largest = sorted((each.memory.total * each.execution.workers for each in found), reverse=True)
    return Estimate(
        phases=phases,
        slots=slots,
        seconds=wall,
        measured=sum(pace_group(stage) in paces for stage in missing),
        memory_bytes=sum(largest[:slots]),
        disk_bytes=sum(stage.cost.disk_bytes for stage in missing),
    )


def show(study: Study, plan: Plan, placements: Placements, console: Console) -> None:
    """Print the estimate, the model sizes, and the memory that each size needs."""
    found, device = estimate(study, plan, placements), placements.budget.device
    total = found.total
    table = Table(title=f"{study.declaration.study} {study.declaration.preset}: nothing is run", title_justify="left")
    table.add_column("phase")
    for name in ("stages", "cached", "missing", "tokens", "FLOPs", "slot time"):
        table.add_column(name, justify="right")
    for name, row in [*found.phases.items(), ("all", total)]:
        table.add_row(
            name,
            str(row.stages),
            str(row.cached),
            str(row.missing),
            _si(row.tokens),
            _si(row.flops),
            duration(row.seconds),
            end_section=row is [*found.phases.values()][-1],
        )
    console.print(table)
    for line in _sizes(plan.stages.values()):
        console.print(line, markup=False)
    show_memory(_runnable(plan), placements, console)
    missing = total.missing
    console.print(
        f"{len(study.trials)} trials; {missing} of {total.stages} stages missing, {found.slots} at once on {device}"
    )
    for line in blocked_lines(plan.blocked.values()):
        console.print(line, markup=False)
    if missing:
        core = f", {PEAK_SHARE:.0%} of a core's in matrix products," if device == "cpu" else ""
        flops = f"{_si(assumed_flops(device))}FLOP/s per slot{core}"
        basis = f"assuming {flops} and {1e3 * STEP_SECONDS:.0f} ms overhead per step"
        if (free := free_share(device, found.slots)) < BUSY:
            basis += f"; other work leaves {free:.0%} of a core"
        if found.measured:
            basis = f"as measured for {found.measured} of {missing} stages, otherwise {basis}"
        console.print(
            f"about {duration(found.seconds)} ({basis}), {found.memory_bytes / 1e9:.1f} GB of memory for tensors, "
            f"{found.disk_bytes / 1e9:.2f} GB of disk"
        )


def _runnable(plan: Plan) -> list[Stage]:
    return [stage for stage in plan.missing if stage.key not in plan.blocked]


def show_memory(stages: Iterable[Stage], placements: Placements, console: Console) -> None:
    """Print what the largest stage of each size holds in memory, by part."""
    largest: dict[tuple[str, Execution], Placement] = {}
    for stage in stages:
        found = placements[stage]
        group = (size_text(stage), found.execution)
        if group not in largest or largest[group].memory.total < found.memory.total:
            largest[group] = found
    if not largest:
        return
    ordered = sorted(largest.items(), key=lambda item: item[1].memory.total)
    table = Table(title="memory on each device, in GB", title_justify="left")
    table.add_column("")
    for (size, _), _ in ordered:
        table.add_column(size, justify="right")
    parts: dict[str, Callable[[Memory], float]] = {
        "weights": lambda memory: memory.parameters,
        "gradients": lambda memory: memory.gradients,
        "optimizer": lambda memory: memory.optimizer,
        "initial weights": lambda memory: memory.init_weights,
        "activations (estimate)": lambda memory: memory.activations,
        "or evaluation (estimate)": lambda memory: memory.evaluation,
        "total": lambda memory: memory.total,
    }
    for name, part in parts.items():
        numbers = [f"{part(found.memory) / 1e9:.3g}" for _, found in ordered]
        table.add_row(name, *numbers, end_section=name in ("or evaluation (estimate)", "total"))
    table.add_row("execution", *(execution_text(execution) for (_, execution), _ in ordered))
    table.add_row("", *("fits" if found.fits else "does not fit" for _, found in ordered))
    console.print(table)
    console.print(str(placements.budget), markup=False)


def _longest_chain(missing: Iterable[Stage], seconds: dict[str, float]) -> float:
    ends: dict[str, float] = {}
    for stage in missing:  # parents before children
        ends[stage.key] = seconds[stage.key] + max((ends.get(parent.key, 0.0) for parent in stage.parents), default=0.0)
    return max(ends.values(), default=0.0)


def _sizes(stages: Iterable[Stage]) -> list[str]:
    rungs = {rung.size: rung for stage in stages if (rung := getattr(stage, "architecture", None)) is not None}
    return [rung.describe() for rung in sorted(rungs.values(), key=lambda rung: rung.parameters)]


def _si(value: float) -> str:
    for unit, factor in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.3g} "
