from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from halflife.models.decoder import Decoder
from halflife.stages.train import Checkpoint
from halflife.training import checkpoints
from halflife.training.engine import Engine
from halflife.training.objectives import L2SP, NextToken
from halflife.training.optimizers import SGD, AdamW, Muon
from halflife.training.schedules import Schedule
from tests.training.fakes import (
    ANSWERS,
    BATCH_TOKENS,
    VOCABULARY,
    Host,
    Interrupted,
    PartlyScored,
    Stream,
    Ticking,
    loss_of,
    recipe,
    run,
    torch_engine,
)
from tests.training.together import STEPS, together

pytestmark = pytest.mark.slow
ADAMW = AdamW(learning_rate=0.01, weight_decay=0.1)
STAGES = {
    "adamw": recipe(optimizer=ADAMW, objectives=(NextToken(), L2SP(strength=0.5)), max_grad_norm=0.5),
    "sgd": recipe(optimizer=SGD(learning_rate=0.1, weight_decay=0.1)),
    "muon": recipe(optimizer=Muon(learning_rate=0.003, weight_decay=0.1)),
    "bf16": recipe(optimizer=ADAMW, precision="bf16"),
    "dropout": recipe(optimizer=ADAMW, dropout=0.2),
    "answers": recipe(optimizer=ADAMW, mixture=ANSWERS, objectives=(NextToken(label_smoothing=0.1),)),
    "diverging": recipe(optimizer=SGD(learning_rate=1e30)),
    "loop": recipe(
        optimizer=ADAMW, schedule=Schedule(shape="cosine", warmup=0.2), objectives=(NextToken(), L2SP(strength=0.5))
    ),
}
STAGES["branch"] = recipe(
    start=Checkpoint(stage=STAGES["loop"]), optimizer=ADAMW, schedule=Schedule(shape="continue"), seed=1
)
EVERY_STAGE = [{"zero": zero, "micro_rows": rows} for zero in range(4) for rows in (None, 1)]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def follow(stage: Any, make: Callable[[Any, Any], Engine]) -> dict[str, Any]:
    """Twenty steps: losses, norms and displacements, with evaluations in between, and the final weights."""
    model = Decoder(stage.architecture, VOCABULARY, stage.dropout)
    model.initialise(torch.Generator().manual_seed(0))
    engine = make(model, stage)
    found: dict[str, Any] = {"loss": [], "norm": [], "displacement": [], "evaluation": []}
    for step in range(STEPS):
        torch.manual_seed(100 * step + engine.ranks.rank)
        stream = PartlyScored() if stage.has_loss_mask else Stream()
        found["loss"].append(loss_of(engine, stream.batch(step)))
        found["norm"].append(engine.step(1 - step / (2 * STEPS)).item())
        if step % 7 == 3:
            found["displacement"].append(engine.displacement())
            with engine.measuring():
                tokens = torch.arange(8)[None]
                found["evaluation"].append(model.logits(model.hidden(model.embed(tokens))).norm().item())
    found["weights"] = {name: value.norm().item() for name, value in sorted(engine.full_weights().items())}
    found["state"] = {name: value.float().norm().item() for name, value in sorted(engine.optimizer_state().items())}
    return found


def alone(stage: str) -> dict[str, Any]:
    return follow(STAGES[stage], torch_engine)


def assert_same(found: dict[str, Any], expected: dict[str, Any], tolerance: float = 1e-4) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=tolerance), name


CALLS = [{**call, "stage": "adamw"} for call in EVERY_STAGE]
CALLS += [{"zero": zero, "stage": stage} for stage in ("sgd", "answers") for zero in (1, 3)]
CALLS += [{"zero": 2, "stage": "answers", "micro_rows": 1}]
MUON = [{"zero": zero, "stage": "muon", "rounding": rounding} for rounding in (True, False) for zero in range(4)]
ROUNDED_AND_DROPPED = [{"zero": zero, "stage": stage} for zero, stage in ((2, "bf16"), (1, "dropout"))]
BRANCH = {"task": "loop", "folder": "branch", "zero": 2, "stage": "branch"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("deepspeed")


@pytest.fixture(scope="module")
def torch_trunk(folder: Path) -> dict[str, Any]:
    return torch_loop(folder / "torch-trunk", "loop")


@pytest.fixture(scope="module")
def pair(folder: Path) -> dict[str, Any]:
    """Results of two workers, all in one process group."""
    half = folder / "half"
    with pytest.raises(Interrupted):
        run(STAGES["muon"], Host(half, interrupt_at=6), checkpoint_seconds=0.5, clock=Ticking())
    tasks = {
        "losses": {"task": "several", "calls": CALLS},
        "muon": {"task": "several", "calls": MUON},
        "muon resumed": {
            "task": "loop", "folder": "rest", "zero": 1, "stage": "muon", "resume": str(half / "resume-6"),
        },
        "dropout": {"task": "several", "calls": [{"zero": 1, "stage": "dropout"}] * 2},
        "first part": {"task": "loop", "folder": "first", "zero": 2, "end_at": 4},
        "second part": {
            "task": "loop", "folder": "second", "zero": 3, "end_at": 9,
            "resume": str(folder / "pair" / "first" / "resume-4"),
        },
        "third part": {
            "task": "loop", "folder": "third", "zero": 0, "resume": str(folder / "pair" / "second" / "resume-9"),
        },
    }  # fmt: skip
    return together(folder / "pair", 2, tasks)


@pytest.fixture(scope="module")
def single(folder: Path, torch_trunk: dict[str, Any], pair: dict[str, Any]) -> dict[str, Any]:
    """Results of one worker, all in one process."""
    tasks = {
        "held 3": {"task": "held", "zero": 3, "engines": 3},
        "losses": {"task": "several", "calls": CALLS},
        "diverging": {"task": "loop", "folder": "diverging", "zero": 1, "stage": "diverging"},
        "held 1": {"task": "held", "zero": 1, "engines": 3},
        "muon": {"task": "several", "calls": MUON},
        "bf16 and dropout": {"task": "several", "calls": ROUNDED_AND_DROPPED},
        "trunk": {"task": "loop", "folder": "trunk", "zero": 1},
        "branch": {**BRANCH, "start": str(folder / "torch-trunk/final")},
        "from shards": {"task": "loop", "folder": "shards", "zero": 1, "resume": str(folder / "pair/second/resume-9")},
        "broken off": {"task": "loop", "folder": "broken", "zero": 1, "end_at": 4},
    }
    return together(folder / "single", 1, tasks)


@pytest.mark.parametrize("workers", ["single", "pair"])
def test_torch_and_deepspeed_on_one_and_two_workers_give_the_same_losses_at_every_zero_stage(folder, workers, request):
    found = request.getfixturevalue(workers)["losses"]
    expected = {stage: alone(stage) for stage in ("adamw", "sgd", "answers")}
    for call, numbers in zip(CALLS, found, strict=True):
        assert_same(numbers, expected[call["stage"]])
    assert not list((folder / workers / "extensions").glob("**/*.so"))  # nothing is compiled, as in a sweep


@pytest.mark.parametrize("workers", ["single", "pair"])
def test_muon_takes_the_torch_engines_steps_however_zero_shards_its_matrices(workers, request, monkeypatch):
    """Muon orthogonalizes in bf16, whose rounding amplifies the order of summation; without it the results agree."""
    answers = request.getfixturevalue(workers)["muon"]
    rounded = alone("muon")["loss"]
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    expected = alone("muon")
    moved = {name.removeprefix("momentum_buffer.") for name in expected["state"] if name.startswith("momentum_buffer")}
    assert {Decoder.kind(name) for name in moved} == {"hidden"}
    for call, found in zip(MUON, answers, strict=True):
        if call["rounding"]:
            assert found["loss"] == pytest.approx(rounded, rel=1e-4)
        else:
            assert_same(found, expected)


def test_muon_resumes_under_zero_from_the_torch_engines_momentum(pair, tmp_path):
    expected = torch_loop(tmp_path, "muon")
    found = pair["muon resumed"]["points"]
    assert_same_points(found, {step: values for step, values in expected.items() if int(step) > 6 * BATCH_TOKENS})


def test_bf16_and_dropout_under_deepspeed_are_those_of_the_torch_engine(single):
    for call, numbers in zip(ROUNDED_AND_DROPPED, single["bf16 and dropout"], strict=True):
        tolerance = 2e-2 if call["stage"] == "bf16" else 1e-4
        assert numbers["loss"] == pytest.approx(alone(call["stage"])["loss"], rel=tolerance)


def test_dropout_is_reproducible_on_two_workers_and_differs_between_them(pair):
    first, second = pair["dropout"]
    assert first == second
    assert first["loss"] != pytest.approx(alone("dropout")["loss"], rel=1e-4)


@pytest.mark.parametrize("zero", [1, 3])
def test_a_process_that_trains_several_stages_frees_the_memory_of_each(single, zero):
    held = single[f"held {zero}"]
    assert held[-1] - held[0] < 4 * 300_000 / 4  # a quarter of one copy of the weights


def torch_loop(folder: Path, stage: str, **arguments: Any) -> dict[str, Any]:
    host = Host(folder)
    run(STAGES[stage], host, **arguments)
    return {str(step): values for step, values in host.points.items()}


def assert_same_points(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(found) == list(expected)
    for step, values in expected.items():
        for name, value in values.items():
            if name != "train/tokens_per_second":
                assert found[step][name] == pytest.approx(value, rel=1e-4), (step, name)


def assert_same_checkpoint(found: Path, expected: Path) -> None:
    state, other = checkpoints.read_state(found), checkpoints.read_state(expected)
    assert {name: state[name] for name in ("size", "vocabulary", "optimizer")} == {
        name: other[name] for name in ("size", "vocabulary", "optimizer")
    }
    for read in (checkpoints.read_weights, checkpoints.read_optimizer):
        one, two = read(found), read(expected)
        assert set(one) == set(two)
        for name in two:
            torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-5)


def test_a_branch_forks_across_engines_with_its_optimizer_state(folder, single, tmp_path):
    trunk = folder / "single" / "trunk" / "final"
    assert_same_checkpoint(trunk, folder / "torch-trunk/final")
    expected = torch_loop(tmp_path / "torch-branch", "branch", start=folder / "torch-trunk/final")
    assert_same_points(torch_loop(tmp_path / "a", "branch", start=trunk), expected)
    assert_same_points(single["branch"]["points"], expected)
    assert json.loads(json.dumps(single["trunk"]["summary"])) == single["trunk"]["summary"]


def test_gradients_that_are_not_finite_end_the_stage_as_diverged(single):
    message = r"Diverged: the gradients are no longer finite at step \d+, after [\d,]+ tokens"
    assert re.match(message, single["diverging"])


def test_an_interrupted_run_resumes_with_any_number_of_workers_on_the_same_curve(
    folder, torch_trunk, pair, single, tmp_path
):
    """Workers that die are tested in tests/sweep/test_workers.py."""
    assert pair["first part"] == pair["second part"] == "Interrupted: "
    for shards in (folder / "pair" / "first" / "resume-4", folder / "pair" / "second" / "resume-9"):
        assert len(list(shards.glob("shard-*.safetensors"))) == 2
    last = {step: values for step, values in torch_trunk.items() if int(step) > 9 * BATCH_TOKENS}
    assert_same_points(pair["third part"]["points"], last)
    assert_same_checkpoint(folder / "pair" / "third" / "final", folder / "torch-trunk/final")
    # One worker resumes from shards of two as well, and writes none itself; so does the torch engine.
    assert_same_points(single["from shards"]["points"], last)
    assert single["broken off"] == "Interrupted: "
    assert not list((folder / "single" / "broken" / "resume-4").glob("shard-*.safetensors"))
    for name, resume in (("pair", "pair/second/resume-9"), ("single", "single/broken/resume-4")):
        host = Host(tmp_path / name, resume=folder / resume)
        run(STAGES["loop"], host)
        points = {str(step): values for step, values in host.points.items()}
        assert_same_points({step: points[step] for step in last}, last)
