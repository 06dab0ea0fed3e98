"""--dry-run: what a sweep would compute, and estimates of its time, memory and disk."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from halflife.store.execution import Execution, Memory
from halflife.store.plan import Plan
from halflife.store.stage import Stage
from halflife.sweep import machine
from halflife.sweep.placement import Placement, Placements, execution_text, size_text
from halflife.sweep.report import blocked_lines, duration
from halflife.sweep.study import Study

CORE_SHARE = 0.7
"""Of a core's speed in matrix products, what training uses of it before anything has been measured."""
GPU_FLOPS = 100e12
"""FLOP/s of a GPU at modest utilisation."""
STEP_SECONDS = 0.01
"""Overhead of an optimizer step before anything has been measured: Python, launches, small tensors. With both constants
the presets' stages (30k to 300k parameters on a core of an AMD EPYC, 86 GFLOP/s) took 0.7 to 1.4 times as long as
estimated."""
HALF = 0.5
"""Of its length, what a stage that may stop early takes before one like it has ended."""
STARTUP_SECONDS = 12.0
"""Starting Ray, and the first stage's imports."""
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
    paces, taken = measured_paces(plan, device), seconds_of(plan, device)
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
    wall = max(sum(seconds.values()) / slots, _longest_chain(missing, seconds)) + (STARTUP_SECONDS if missing else 0.0)
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
        core = f", {CORE_SHARE:.0%} of a core's in matrix products," if device == "cpu" else ""
        flops = f"{_si(assumed_flops(device))}FLOP/s per slot{core}"
        basis = f"assuming {flops} and {1e3 * STEP_SECONDS:.0f} ms overhead per step"
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


def pace_group(stage: Stage) -> tuple[Any, ...]:
    """Stages of one group are assumed to run at the same pace."""
    return stage.kind, getattr(stage, "architecture", None)


def assumed_flops(device: str) -> float:
    """FLOP/s of one slot before any stage has been measured."""
    return CORE_SHARE * machine.core_flops() if device == "cpu" else GPU_FLOPS


def assumed_seconds(stage: Stage, device: str) -> float:
    """On one slot, evaluations included, before anything has been measured."""
    return stage.cost.flops / assumed_flops(device) + stage.cost.steps * STEP_SECONDS


def seconds_of(plan: Plan, device: str) -> Callable[[Stage], float]:
    """The seconds that a stage of a plan takes on one slot, as far as complete stages tell: at the pace of its group,
    or else of all groups; one that may stop early, for the part of its length that those like it took, or else half."""
    paces, parts = measured_paces(plan, device), measured_parts(plan)
    usual = fmean(paces.values()) if paces else 1.0

    def seconds(stage: Stage) -> float:
        part = parts.get(_length_group(stage), HALF) if _may_stop(stage) else 1.0
        return assumed_seconds(stage, device) * paces.get(pace_group(stage), usual) * part

    return seconds


def measured_parts(plan: Plan) -> dict[tuple[Any, ...], float]:
    """Of the complete stages that may stop early: the mean part of their tokens that they took, by group."""
    found: defaultdict[tuple[Any, ...], list[float]] = defaultdict(list)
    for key, outcome in plan.outcomes.items():
        stage, tokens = plan.stages[key], outcome.summary.get("tokens")
        if _may_stop(stage) and tokens and stage.cost.tokens:
            found[_length_group(stage)].append(min(1.0, tokens / stage.cost.tokens))
    return {group: fmean(parts) for group, parts in found.items()}


def _may_stop(stage: Stage) -> bool:
    return getattr(stage, "until", None) is not None


def _length_group(stage: Stage) -> tuple[Any, ...]:
    return *pace_group(stage), stage.cost.tokens


def measured_paces(plan: Plan, device: str) -> dict[tuple[Any, ...], float]:
    """How much longer than assumed the complete stages took, as a ratio, by group."""
    assumed: defaultdict[tuple[Any, ...], float] = defaultdict(float)
    seconds: defaultdict[tuple[Any, ...], float] = defaultdict(float)
    for key, outcome in plan.outcomes.items():
        stage, summary = plan.stages[key], outcome.summary
        spent = (summary.get("seconds_training") or 0.0) + (summary.get("seconds_evaluating") or 0.0)
        if outcome.status == "complete" and spent > 0:
            tokens = summary.get("tokens")
            part = min(1.0, tokens / stage.cost.tokens) if _may_stop(stage) and tokens and stage.cost.tokens else 1.0
            assumed[pace_group(stage)] += assumed_seconds(stage, device) * part
            seconds[pace_group(stage)] += spent
    return {group: seconds[group] / assumed[group] for group in assumed if assumed[group]}


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
