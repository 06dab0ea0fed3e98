from __future__ import annotations

import importlib.util
import io
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from halflife.errors import UserError
from halflife.evaluation.targets import TaskTarget
from halflife.models.ladder import Rung
from halflife.prompts.attacks import PromptAttacks
from halflife.stages.train import Checkpoint, Train
from halflife.store.execution import Execution
from halflife.store.run import run_stage
from halflife.sweep import estimate, launch, machine, placement
from halflife.sweep.machine import Gpus
from halflife.sweep.placement import (
    DeviceBudget,
    ExecutionChoices,
    Placements,
    ResourceRequest,
    check_choices,
    execution_text,
    gpu_fraction,
    place,
    slots,
)
from halflife.sweep.site import ExecutionSite
from halflife.tasks.arithmetic import Addition
from halflife.training.objectives import KL
from halflife.training.optimizers import Muon
from halflife.training.parameters import LoRA
from tests.sweep.fakes import Fake
from tests.sweep.helpers import study
from tests.training.fakes import BASE, BATCH_TOKENS, SEQUENCE, recipe

AUTO = ExecutionChoices()
ROWS = BATCH_TOKENS // SEQUENCE
START = Checkpoint(stage=recipe())
AGAINST = PromptAttacks(
    strength=1.0,
    attacks=(cast(Any, SimpleNamespace(prompts=(SimpleNamespace(tokens=1),))),),
    target=TaskTarget(task=Addition(form="digits")),
)


def stage(size: str, rows: int = 64, sequence: int = 128, **changes) -> Train:
    changes = {"evaluations": (), **changes}
    mixture = replace(BASE.mixture, sequence=sequence)
    batch = rows * sequence
    return replace(BASE, start=Rung(size=size), mixture=mixture, batch_tokens=batch, tokens=10 * batch, **changes)


def gpus(count: int, gigabytes: float) -> DeviceBudget:
    return DeviceBudget(device="cuda", devices=count, max_concurrent=16, memory_bytes=gigabytes * 1e9)


def check_memory(given: Train, choices: ExecutionChoices, budget: DeviceBudget) -> None:
    Placements(choices, budget).check_memory([given])


def cpu(gigabytes: float, slots: int = 2) -> DeviceBudget:
    return DeviceBudget(device="cpu", devices=slots, max_concurrent=slots, memory_bytes=gigabytes * 1e9)


def test_a_stage_that_fits_is_carried_out_unchanged():
    assert place(stage("30k", rows=4, sequence=128), AUTO, cpu(8)).execution == Execution()
    assert place(stage("1m", rows=4, sequence=128), AUTO, gpus(1, 80)).execution == Execution()


def test_layers_are_compiled_on_a_gpu_from_ten_million_parameters():
    chosen = [place(stage(size, rows=4), AUTO, gpus(1, 80)).execution.compile for size in ("3m", "30m")]
    assert chosen == [False, True]
    assert not place(stage("30m", rows=4), AUTO, cpu(80)).execution.compile
    assert place(stage("3m", rows=4), ExecutionChoices(compile="on"), cpu(80)).execution.compile
    assert not place(stage("30m", rows=4), ExecutionChoices(compile="off"), gpus(1, 80)).execution.compile


def test_microbatches_shrink_before_activations_are_recomputed():
    whole, smaller, recomputed = (place(stage("1m"), AUTO, cpu(memory)) for memory in (20, 2, 0.97))
    assert whole.execution == Execution()
    assert smaller.fits
    assert 1 <= (smaller.execution.micro_rows or 0) < 64
    assert not smaller.execution.activation_checkpointing
    assert recomputed.fits
    assert recomputed.execution.activation_checkpointing
    assert not place(stage("1m"), AUTO, cpu(0.82)).fits


def test_engine_auto_becomes_deepspeed_if_one_gpu_is_too_small():
    found = place(stage("7b"), AUTO, gpus(8, 80))
    assert found.fits
    assert found.execution.engine == "deepspeed"
    assert 2 <= found.execution.workers <= 8
    assert not place(stage("7b"), ExecutionChoices(engine="torch"), gpus(8, 80)).fits


def test_muon_is_spread_over_gpus_as_well():
    found = place(stage("7b", optimizer=Muon(learning_rate=0.01)), AUTO, gpus(8, 80))
    assert (found.fits, found.execution.engine) == (True, "deepspeed")


def test_an_engine_is_never_chosen_that_refuses_the_stage():
    """A batch of three sequences divides among three workers, and three GPUs are too small under ZeRO 1 and 2."""
    chosen = place(stage("7b", rows=3), AUTO, gpus(8, 80)).execution
    assert (chosen.workers, chosen.zero) == (3, 3)
    assert not place(stage("7b", rows=1), AUTO, gpus(8, 80)).fits


@pytest.mark.parametrize("size", ["30k", "10m", "300m", "1.5b", "7b", "20b"])
@pytest.mark.parametrize("budget", [cpu(4), cpu(20), gpus(1, 24), gpus(8, 80)])
def test_whatever_fits_is_within_the_budget_and_what_does_not_is_refused_in_one_line(size, budget):
    asked = stage(size, rows=16)
    found = place(asked, AUTO, budget)
    assert found.fits == (found.memory.total <= budget.usable_bytes)
    if found.fits:
        check_memory(asked, AUTO, budget)
    else:
        with pytest.raises(UserError, match=f"{size} does not fit: it needs .* GB on each device") as error:
            check_memory(asked, AUTO, budget)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "choices", "budget", "message"),
    [
        (stage("300m"), AUTO, cpu(12), "it would fit with --max-concurrent 1"),
        (stage("20b"), AUTO, cpu(20), "expected a smaller size, or a machine with 4"),
        (stage("7b"), AUTO, gpus(1, 80), r"4 such GPUs \(--engine deepspeed --workers 4 --zero \d\)"),
        (stage("7b"), ExecutionChoices(engine="torch"), gpus(8, 80), r"with --engine deepspeed --workers \d --zero \d"),
        (
            stage("1.5b", sequence=8192),
            ExecutionChoices(activation_checkpointing="off"),
            gpus(1, 48),
            "it would fit with --activation-checkpointing auto",
        ),
    ],
)
def test_a_refusal_says_what_would_make_it_fit(given, choices, budget, message):
    with pytest.raises(UserError, match=message):
        check_memory(given, choices, budget)


def test_what_a_refusal_proposes_fits():
    choices = ExecutionChoices(engine="deepspeed", workers=4, zero=1)
    with pytest.raises(UserError, match="4 such GPUs"):
        check_memory(stage("7b"), AUTO, gpus(1, 80))
    found = [place(stage("7b"), replace(choices, zero=zero), gpus(4, 80)).fits for zero in (1, 2, 3)]
    assert any(found)


def test_the_table_has_a_column_for_each_size():
    console = Console(record=True, width=120, file=io.StringIO())
    stages = [stage("300m"), stage("30k", rows=4), Fake(name="other")]
    estimate.show_memory(stages, Placements(AUTO, cpu(4)), console)
    text = console.export_text()
    for part in ("30k", "300m", "other", "weights", "activations (estimate)", "does not fit", "4 GB free"):
        assert part in text


def test_an_execution_is_shown_in_one_line():
    execution = Execution(engine="deepspeed", workers=4, zero=2, activation_checkpointing=True, micro_rows=8)
    assert execution_text(execution) == "deepspeed x 4, ZeRO 2, recomputing, microbatches of 8"


def test_a_stage_takes_the_fraction_of_a_gpu_that_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(machine, "gpus", lambda: Gpus(count=1, memory_bytes=80e9))
    monkeypatch.setattr(machine, "cores", lambda: 16)
    small, large = stage("100k", rows=16, sequence=128), stage("1.5b")
    requests = ExecutionSite(results=tmp_path).placements().requests([small, large])
    assert [request.gpus for request in requests] == [1 / 16, 1.0]


def test_free_memory_is_within_a_container_s_limit():
    assert 0 < machine.free_bytes() < 1e14


@pytest.mark.parametrize(
    ("needed", "max_concurrent", "expected"),
    [(1e6, 16, 1 / 16), (1e6, 4, 1 / 4), (1e6, 3, 1 / 2), (20e9, 16, 1 / 2), (39e9, 16, 1.0), (500e9, 16, 1.0)],
)
def test_a_gpu_is_shared_by_as_many_as_fit(needed: float, max_concurrent: int, expected: float):
    assert gpu_fraction(needed, 80e9, max_concurrent) == expected


def test_slots_follow_the_smallest_fraction_of_the_gpus(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "gpus", lambda: Gpus(count=2, memory_bytes=80e9))
    monkeypatch.setattr(machine, "cores", lambda: 32)
    assert slots([ResourceRequest(gpus=1.0), ResourceRequest(gpus=0.25)], ExecutionSite().budget) == 8
    assert slots([ResourceRequest(gpus=0.25)], ExecutionSite(max_concurrent=3).budget) == 3
    assert slots([ResourceRequest()], ExecutionSite(device="cpu").budget) == 32


def test_no_more_stages_run_at_once_than_have_workers_for_them(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "cores", lambda: 8)
    three = [ResourceRequest(cpus=3, workers=3)]
    assert slots(three, ExecutionSite(device="cpu", engine="deepspeed", workers=3).budget) == 2
    assert slots(three, ExecutionSite(device="cpu", max_concurrent=1).budget) == 1


@pytest.mark.parametrize(
    ("engine", "workers", "zero", "reason"),
    [
        ("jax", None, None, "unknown engine 'jax': expected auto, torch or deepspeed"),
        ("torch", 2, None, "2 workers with the torch engine, which uses 1: use --engine deepspeed"),
        ("torch", None, 1, "ZeRO stage 1 with the torch engine, which cannot shard: use --engine deepspeed"),
        ("auto", 2, None, "2 workers without an engine: add --engine deepspeed"),
        ("auto", None, 3, "ZeRO stage 3 without an engine: add --engine deepspeed"),
        ("deepspeed", 5, None, "5 workers on a machine with 4 devices: expected at most 4"),
        ("deepspeed", 0, None, "0 workers: expected at least 1"),
        ("deepspeed", 1, 4, "ZeRO stage 4: expected 0, 1, 2 or 3"),
    ],
)
def test_choices_that_no_engine_supports_are_refused_in_one_line(
    engine: str, workers: int | None, zero: int | None, reason: str
):
    with pytest.raises(UserError, match=reason) as error:
        check_choices(ExecutionChoices(engine=engine, workers=workers, zero=zero), devices=4)
    assert "\n" not in str(error.value)


def test_deepspeed_that_is_not_installed_is_refused_before_any_compute(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"'deepspeed' is not installed: pip install"):
        check_choices(ExecutionChoices(engine="deepspeed", workers=1, zero=0), devices=1)
    check_choices(ExecutionChoices(engine="torch"), devices=1)


@pytest.mark.parametrize(
    ("changes", "workers", "zero", "reason"),
    [
        ({}, 3, 1, f"batches of {ROWS} sequences do not divide among 3 workers: choose a number"),
        ({"parameters": LoRA()}, 1, 3, "LoRA under ZeRO stage 3.*--zero 2"),
        ({"gradient_noise": 0.1}, 1, 1, "gradient noise is not supported by the engine 'deepspeed'.*--engine torch"),
        ({"start": START, "objectives": (KL(strength=1.0),)}, 1, 0, "KL is not supported by.*--engine torch"),
        ({"start": START, "objectives": (AGAINST,)}, 1, 0, "PromptAttacks is not supported by the engine 'deepspeed'"),
    ],
)
def test_a_stage_that_the_engine_cannot_train_is_refused(changes: dict, workers: int, zero: int, reason: str):
    execution = Execution(engine="deepspeed", workers=workers, zero=zero)
    with pytest.raises(UserError, match=reason):
        recipe(**changes).check_execution(execution)
    Fake(name="of another kind").check_execution(execution)


def test_only_training_is_spread_over_workers_and_zero_1_is_the_default():
    two = ExecutionChoices(engine="deepspeed", workers=2)
    assert place(recipe(), two, cpu(20)).execution == Execution(engine="deepspeed", workers=2, zero=1)
    assert place(Fake(name="other"), two, cpu(20)).execution == Execution()
    assert place(recipe(), AUTO, cpu(20)).execution == Execution()


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_stage_is_placed_once_in_a_sweep(dry_run: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Not again for each check, request, task, estimate and report."""
    placed: Counter[str] = Counter()

    def counted(stage: Any, *arguments: Any) -> Any:
        placed[stage.key] += 1
        return place(stage, *arguments)

    def computed(plan: Any, store: Any, *, make_task: Any, ran: set[str], **arguments: Any) -> None:
        while stage := plan.take():
            make_task(stage, False)
            plan.completed(stage.key, run_stage(stage, store))
            ran.add(stage.key)

    monkeypatch.setattr(placement, "place", counted)
    monkeypatch.setattr("halflife.sweep.tuning.run_plan", computed)
    made = study(seconds=0.0)
    launch.run(made, ExecutionSite(results=tmp_path, device="cpu", dry_run=dry_run), Console(file=io.StringIO()))
    assert placed == Counter(stage.key for stage in made.stages)
