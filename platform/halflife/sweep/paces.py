"""How long stages take: what is assumed of cores, corrected by what complete stages of the same plan took."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from statistics import fmean
from typing import Any

from halflife.store.plan import Plan
from halflife.store.stage import Stage
from halflife.sweep import machine

PEAK_SHARE = 0.7
"""Of a core's speed in matrix products, what training uses of it before anything has been measured."""
GPU_FLOPS = 100e12
"""FLOP/s of a GPU at modest utilisation."""
STEP_SECONDS = 0.01
"""Overhead of an optimizer step before anything has been measured: Python, launches, small tensors. With both constants
the presets' stages (30k to 300k parameters on a core of an AMD EPYC, 86 GFLOP/s) took 0.7 to 1.4 times as long as
estimated."""
STAGE_SECONDS = 0.1
"""From the end of a stage to the start of the next one: the median of seven sweeps is 0.05 to 0.2 s."""
STOPPED_PART = 0.35
"""Of its length, what a stage that may stop early is assumed to take before one like it has ended: between 0.13 (40
relearnings of what was learned before) and 1 (of what never was)."""
EVIDENCE_SECONDS = 2.0
"""Time of complete stages that counts as much as what was expected of them: a stage of a second says little."""


def pace_group(stage: Stage) -> tuple[Any, ...]:
    """Stages of one group are assumed to run at the same pace."""
    return stage.kind, getattr(stage, "architecture", None)


def assumed_flops(device: str) -> float:
    """FLOP/s of one slot before any stage has been measured, if nothing else runs."""
    return PEAK_SHARE * machine.core_flops() if device == "cpu" else GPU_FLOPS


def free_share(device: str, slots: int) -> float:
    """What other work leaves of a slot."""
    return machine.core_share(slots) if device == "cpu" else 1.0


def assumed_seconds(stage: Stage, device: str) -> float:
    """On one slot, evaluations included, before anything has been measured, if nothing else runs."""
    return stage.cost.flops / assumed_flops(device) + stage.cost.steps * STEP_SECONDS


def seconds_of(plan: Plan, device: str, slots: int) -> Callable[[Stage], float]:
    """The seconds that a stage of a plan takes on one of `slots`: at the pace of its group, or else of all, as far as
    complete stages tell; one that may stop early, for the part of its length that those like it took."""
    found, parts = measured(plan, device), measured_parts(plan)
    first = 1 / free_share(device, slots)
    usual = _pace(sum(assumed for assumed, _ in found.values()), sum(spent for _, spent in found.values()), first)
    paces = {group: _pace(assumed, spent, usual) for group, (assumed, spent) in found.items()}

    def seconds(stage: Stage) -> float:
        part = parts.get(_length_group(stage), STOPPED_PART) if _may_stop(stage) else 1.0
        return STAGE_SECONDS + assumed_seconds(stage, device) * paces.get(pace_group(stage), usual) * part

    return seconds


def _pace(assumed: float, spent: float, expected: float) -> float:
    """Between the pace that was measured and the one expected, on a log scale, by the time that was measured."""
    weight = spent / (spent + EVIDENCE_SECONDS)
    return math.exp((1 - weight) * math.log(expected) + (weight * math.log(spent / assumed) if weight else 0.0))


def measured(plan: Plan, device: str) -> dict[tuple[Any, ...], tuple[float, float]]:
    """Seconds assumed of the complete stages, and those that they took, by group."""
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
    return {group: (assumed[group], seconds[group]) for group in assumed if assumed[group]}


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
