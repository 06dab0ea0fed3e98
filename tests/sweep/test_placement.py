from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from halflife.errors import UserError
from halflife.models.ladder import Rung
from halflife.stages.train import Train
from halflife.store.execution import Execution
from halflife.sweep import placement as fit
from halflife.sweep import resources
from halflife.sweep.placement import DeviceBudget, ExecutionChoices, check_fits, fitting, in_words
from halflife.sweep.resources import Gpus
from halflife.sweep.site import ExecutionSite
from halflife.training.optimizers import Muon
from tests.sweep.fakes import Fake
from tests.training.fakes import BASE

OPEN = ExecutionChoices()


def stage(size: str, rows: int = 64, sequence: int = 128, **changes) -> Train:
    changes = {"evaluations": (), **changes}
    mixture = replace(BASE.mixture, sequence=sequence)
    batch = rows * sequence
    return replace(BASE, start=Rung(size=size), mixture=mixture, batch_tokens=batch, tokens=10 * batch, **changes)


def gpus(count: int, gigabytes: float) -> DeviceBudget:
    return DeviceBudget(device="cuda", devices=count, slots=16, memory_bytes=gigabytes * 1e9)


def cpu(gigabytes: float, slots: int = 2) -> DeviceBudget:
    return DeviceBudget(device="cpu", devices=slots, slots=slots, memory_bytes=gigabytes * 1e9)


def test_what_fits_as_it_is_is_carried_out_as_it_is():
    assert fitting(stage("30k", rows=4, sequence=128), OPEN, cpu(8)).execution == Execution()
    assert fitting(stage("1m", rows=4, sequence=128), OPEN, gpus(1, 80)).execution == Execution()


def test_layers_are_compiled_on_a_gpu_from_ten_million_parameters():
    chosen = [fitting(stage(size, rows=4), OPEN, gpus(1, 80)).execution.compile for size in ("3m", "30m")]
    assert chosen == [False, True]
    assert not fitting(stage("30m", rows=4), OPEN, cpu(80)).execution.compile
    assert fitting(stage("3m", rows=4), ExecutionChoices(compile="on"), cpu(80)).execution.compile
    assert not fitting(stage("30m", rows=4), ExecutionChoices(compile="off"), gpus(1, 80)).execution.compile


def test_microbatches_shrink_before_activations_are_recomputed():
    whole, smaller, recomputed = (fitting(stage("1m"), OPEN, cpu(memory)) for memory in (20, 2, 0.97))
    assert whole.execution == Execution()
    assert smaller.fits
    assert 1 <= (smaller.execution.micro_rows or 0) < 64
    assert not smaller.execution.activation_checkpointing
    assert recomputed.fits
    assert recomputed.execution.activation_checkpointing
    assert not fitting(stage("1m"), OPEN, cpu(0.82)).fits


def test_an_engine_left_open_becomes_deepspeed_where_one_gpu_is_too_small():
    placement = fitting(stage("7b"), OPEN, gpus(8, 80))
    assert placement.fits
    assert placement.execution.engine == "deepspeed"
    assert 2 <= placement.execution.workers <= 8
    assert not fitting(stage("7b"), ExecutionChoices(engine="torch"), gpus(8, 80)).fits


def test_muon_is_spread_over_gpus_as_well():
    placement = fitting(stage("7b", optimizer=Muon(learning_rate=0.01)), OPEN, gpus(8, 80))
    assert (placement.fits, placement.execution.engine) == (True, "deepspeed")


def test_an_engine_is_never_chosen_that_refuses_the_stage():
    """A batch of three sequences divides among three workers, and that many GPUs are too small by ZeRO 1 and 2."""
    chosen = fitting(stage("7b", rows=3), OPEN, gpus(8, 80)).execution
    assert (chosen.workers, chosen.zero) == (3, 3)
    assert not fitting(stage("7b", rows=1), OPEN, gpus(8, 80)).fits


@pytest.mark.parametrize("size", ["30k", "10m", "300m", "1.5b", "7b", "20b"])
@pytest.mark.parametrize("room", [cpu(4), cpu(20), gpus(1, 24), gpus(8, 80)])
def test_whatever_fits_is_within_the_room_and_what_does_not_is_refused_in_one_line(size, room):
    asked = stage(size, rows=16)
    placement = fitting(asked, OPEN, room)
    assert placement.fits == (placement.memory.total <= room.usable_bytes)
    if placement.fits:
        check_fits([asked], OPEN, room)
    else:
        with pytest.raises(UserError, match=f"{size} does not fit: it needs .* GB on each device") as error:
            check_fits([asked], OPEN, room)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "asked", "room", "said"),
    [
        (stage("300m"), OPEN, cpu(12), "it would fit with --max-concurrent 1"),
        (stage("20b"), OPEN, cpu(20), "expected a smaller size, or a machine with 4"),
        (stage("7b"), OPEN, gpus(1, 80), r"4 GPUs like these \(--engine deepspeed --workers 4 --zero \d\)"),
        (stage("7b"), ExecutionChoices(engine="torch"), gpus(8, 80), r"with --engine deepspeed --workers \d --zero \d"),
        (
            stage("1.5b", sequence=8192),
            ExecutionChoices(activation_checkpointing="off"),
            gpus(1, 48),
            "it would fit with --activation-checkpointing auto",
        ),
    ],
)
def test_a_refusal_says_what_would_make_it_fit(given, asked, room, said):
    with pytest.raises(UserError, match=said):
        check_fits([given], asked, room)


def test_what_a_refusal_proposes_does_fit():
    asked = ExecutionChoices(engine="deepspeed", workers=4, zero=1)
    with pytest.raises(UserError, match="4 GPUs"):
        check_fits([stage("7b")], OPEN, gpus(1, 80))
    found = [fitting(stage("7b"), replace(asked, zero=zero), gpus(4, 80)).fits for zero in (1, 2, 3)]
    assert any(found)


def test_the_table_has_a_column_for_each_size():
    console = Console(record=True, width=120, file=io.StringIO())
    fit.show([stage("300m"), stage("30k", rows=4), Fake(name="other")], OPEN, cpu(4), console)
    text = console.export_text()
    for part in ("30k", "300m", "other", "weights", "activations (estimate)", "does not fit", "4 GB free"):
        assert part in text


def test_ways_are_named_in_words():
    way = Execution(engine="deepspeed", workers=4, zero=2, activation_checkpointing=True, micro_rows=8)
    assert in_words(way) == "deepspeed x 4, ZeRO 2, recomputing, 8 rows at once"


def test_a_stage_takes_the_share_of_a_gpu_that_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(resources, "gpus", lambda: Gpus(count=1, memory_bytes=80e9))
    monkeypatch.setattr(resources, "cores", lambda: 16)
    small, large = stage("100k", rows=16, sequence=128), stage("1.5b")
    shares = ExecutionSite(results=tmp_path).shares([small, large])
    assert (shares[small.key].gpus, shares[large.key].gpus) == (1 / 16, 1.0)


def test_free_memory_is_within_a_container_s_limit():
    assert 0 < resources.free_bytes() < 1e14
