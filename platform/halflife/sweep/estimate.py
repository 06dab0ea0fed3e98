"""--dry-run: what a sweep would do, and an estimate of what it would take."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from halflife.store.plan import Plan
from halflife.store.stage import Stage
from halflife.sweep import placement as fit
from halflife.sweep.report import duration
from halflife.sweep.site import ExecutionSite
from halflife.sweep.study import Study

ASSUMED_FLOPS = {"cpu": 60e9, "cuda": 100e12}
"""FLOP/s of one slot where nothing has been measured: a core of a server, a GPU at a modest utilisation."""
STEP_SECONDS = 0.01
"""What an optimizer step takes besides, where nothing has been measured: Python, launches, small tensors. With both the
presets' stages, 30k to 300k parameters on a core of an AMD EPYC, took 0.7 to 1.4 times as long as assumed."""
STARTUP_SECONDS = 12.0
"""Ray, and the imports of the first stage."""
_ANCESTORS = "ancestors"
"""Stages that no trial names as a phase."""


@dataclass(kw_only=True)
class Row:
    """One phase of the table."""

    stages: int = 0
    cached: int = 0
    tokens: float = 0.0
    """This and what follows: of the missing stages."""
    flops: float = 0.0
    seconds: float = 0.0
    """Of one slot."""


@dataclass(kw_only=True)
class Estimate:
    phases: dict[str, Row] = field(default_factory=dict)
    slots: int
    seconds: float
    """Wall time: the work spread over the slots, and no less than the longest chain of stages."""
    measured: int
    """Missing stages whose pace was measured on complete ones of their kind and size."""
    memory_bytes: float
    """Of as many of the largest missing stages as run at once."""
    disk_bytes: float

    @property
    def total(self) -> Row:
        rows = list(self.phases.values())
        names = ("stages", "cached", "tokens", "flops", "seconds")
        return Row(**{name: sum(getattr(row, name) for row in rows) for name in names})


def estimate(study: Study, plan: Plan, place: ExecutionSite) -> Estimate:
    """What the missing stages of a plan would take at a place."""
    missing = [stage for stage in plan.missing if stage.key not in plan.blocked]
    shares = place.shares(missing)
    slots = place.slots(shares.values())
    device = place.actual_device
    paces = measured_paces(plan, device)
    seconds = {stage.key: assumed_seconds(stage, device) * paces.get(sort_of(stage), 1.0) for stage in missing}
    phases: dict[str, Row] = {}
    for stage in plan.stages.values():
        users = study.users.get(stage.key)
        row = phases.setdefault(users[0][1] if users else _ANCESTORS, Row())
        row.stages += 1
        row.cached += stage.key in plan.outcomes
        if stage.key in seconds:
            row.tokens += stage.cost.tokens
            row.flops += stage.cost.flops
            row.seconds += seconds[stage.key]
    wall = max(sum(seconds.values()) / slots, _longest_chain(missing, seconds)) + (STARTUP_SECONDS if missing else 0.0)
    placements = [place.placement(stage) for stage in missing]
    largest = sorted((found.memory.total * found.execution.workers for found in placements), reverse=True)
    return Estimate(
        phases=phases,
        slots=slots,
        seconds=wall,
        measured=sum(sort_of(stage) in paces for stage in missing),
        memory_bytes=sum(largest[:slots]),
        disk_bytes=sum(stage.cost.disk_bytes for stage in missing),
    )


def show(study: Study, plan: Plan, place: ExecutionSite, console: Console) -> None:
    """Print the estimate, the sizes that the stages come in, and what each holds in memory."""
    found = estimate(study, plan, place)
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
            str(row.stages - row.cached),
            _si(row.tokens),
            _si(row.flops),
            duration(row.seconds),
            end_section=row is [*found.phases.values()][-1],
        )
    console.print(table)
    for line in _sizes(plan.stages.values()):
        console.print(line, markup=False)
    fit.show(plan.missing, place.asked, place.room, console)
    missing = total.stages - total.cached
    console.print(
        f"{len(study.trials)} trials; {missing} of {total.stages} stages missing, "
        f"{found.slots} at once on {place.actual_device}"
    )
    if missing:
        flops = _si(ASSUMED_FLOPS[place.actual_device])
        basis = f"assuming {flops}FLOP/s a slot and {1e3 * STEP_SECONDS:.0f} ms a step besides"
        if found.measured:
            basis = f"as measured for {found.measured} of {missing} stages, else {basis}"
        console.print(
            f"about {duration(found.seconds)} ({basis}), {found.memory_bytes / 1e9:.1f} GB of memory for tensors, "
            f"{found.disk_bytes / 1e9:.2f} GB of disk"
        )


def sort_of(stage: Stage) -> tuple[Any, ...]:
    """Stages of one sort are taken to run at the same pace."""
    return stage.kind, getattr(stage, "architecture", None)


def assumed_seconds(stage: Stage, device: str) -> float:
    """Of one slot, evaluations included, where nothing has been measured."""
    return stage.cost.flops / ASSUMED_FLOPS[device] + stage.cost.steps * STEP_SECONDS


def measured_paces(plan: Plan, device: str) -> dict[tuple[Any, ...], float]:
    """How many times as long as assumed complete stages took, by sort."""
    assumed: defaultdict[tuple[Any, ...], float] = defaultdict(float)
    seconds: defaultdict[tuple[Any, ...], float] = defaultdict(float)
    for key, outcome in plan.outcomes.items():
        stage, summary = plan.stages[key], outcome.summary
        spent = (summary.get("seconds_training") or 0.0) + (summary.get("seconds_evaluating") or 0.0)
        if outcome.status == "complete" and spent > 0:
            tokens = summary.get("tokens") or stage.cost.tokens
            part = tokens / stage.cost.tokens if stage.cost.tokens else 1.0  # it may have stopped early
            assumed[sort_of(stage)] += assumed_seconds(stage, device) * min(1.0, part)
            seconds[sort_of(stage)] += spent
    return {sort: seconds[sort] / assumed[sort] for sort in assumed if assumed[sort]}


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
