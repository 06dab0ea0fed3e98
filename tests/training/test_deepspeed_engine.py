from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from halflife.models.decoder import Decoder
from halflife.models.ladder import Rung
from halflife.stages.train import Checkpoint
from halflife.training import checkpoints
from halflife.training.engine import Engine
from halflife.training.losses import CrossEntropy
from halflife.training.optimizers import SGD, AdamW, Muon
from halflife.training.penalties import L2SP
from halflife.training.schedules import Schedule
from halflife.training.torch_engine import TorchEngine
from tests.training.fakes import (
    ANSWERS,
    BATCH_TOKENS,
    VOCABULARY,
    Host,
    Interrupted,
    PartlyScored,
    Stream,
    Ticking,
    recipe,
    run,
)
from tests.training.together import STEPS, together

ADAMW = AdamW(learning_rate=0.01, weight_decay=0.1)
STAGES = {
    "adamw": recipe(optimizer=ADAMW, penalties=(L2SP(strength=0.5),), max_grad_norm=0.5),
    "tied": recipe(optimizer=ADAMW, start=Rung(size="30k", tied=True)),
    "sgd": recipe(optimizer=SGD(learning_rate=0.1, weight_decay=0.1)),
    "muon": recipe(optimizer=Muon(learning_rate=0.003, weight_decay=0.1)),
    "bf16": recipe(optimizer=ADAMW, precision="bf16"),
    "dropout": recipe(optimizer=ADAMW, dropout=0.2),
    "answers": recipe(optimizer=ADAMW, mixture=ANSWERS, loss=CrossEntropy(label_smoothing=0.1)),
    "diverging": recipe(optimizer=SGD(learning_rate=1e30)),
    "loop": recipe(optimizer=ADAMW, schedule=Schedule(shape="cosine", warmup=0.2), penalties=(L2SP(strength=0.5),)),
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
    """Twenty steps as numbers: losses, norms and displacements, with evaluations in between, and the last weights."""
    model = Decoder(stage.architecture, VOCABULARY, stage.dropout)
    model.initialise(torch.Generator().manual_seed(0))
    engine = make(model, stage)
    found: dict[str, Any] = {"loss": [], "norm": [], "displacement": [], "evaluation": []}
    for step in range(STEPS):
        torch.manual_seed(100 * step + engine.ranks.rank)
        stream = PartlyScored() if stage.has_loss_mask else Stream()
        found["loss"].append(engine.gradients(stream.batch(step)).item())
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
    return follow(STAGES[stage], lambda model, of: TorchEngine(model, of))


def assert_same(found: dict[str, Any], expected: dict[str, Any], tolerance: float = 1e-4) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=tolerance), name


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_torch_and_deepspeed_on_one_and_two_workers_give_the_same_losses_at_every_zero_stage(tmp_path, workers):
    calls = [{**call, "stage": "adamw"} for call in EVERY_STAGE]
    calls += [{"zero": zero, "stage": stage} for stage in ("sgd", "tied", "answers") for zero in (1, 3)]
    calls += [{"zero": 2, "stage": "answers", "micro_rows": 1}]
    expected = {stage: alone(stage) for stage in ("adamw", "sgd", "tied", "answers")}
    for call, found in zip(calls, together("several", tmp_path, workers, calls=calls), strict=True):
        assert_same(found, expected[call["stage"]])
    assert not list((tmp_path / "extensions").glob("**/*.so"))  # nothing is compiled, neither here nor in a sweep


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_muon_takes_the_torch_engines_steps_wherever_zero_has_cut_its_matrices(tmp_path, workers, monkeypatch):
    """Muon orthogonalises in bf16, whose rounding makes much of the order of summation; without it all is the same."""
    rounded = alone("muon")["loss"]
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    expected = alone("muon")
    moved = {name.removeprefix("momentum_buffer.") for name in expected["state"] if name.startswith("momentum_buffer")}
    assert {Decoder.kind(name) for name in moved} == {"hidden"}
    calls = [{"zero": zero, "stage": "muon", "rounding": rounding} for rounding in (True, False) for zero in range(4)]
    for call, found in zip(calls, together("several", tmp_path, workers, calls=calls), strict=True):
        if call["rounding"]:
            assert found["loss"] == pytest.approx(rounded, rel=1e-4)
        else:
            assert_same(found, expected)


@pytest.mark.slow
def test_muon_goes_on_under_zero_from_the_torch_engines_momentum(tmp_path):
    expected = torch_loop(tmp_path / "torch", "muon")
    with pytest.raises(Interrupted):
        run(STAGES["muon"], Host(tmp_path / "half", interrupt_at=6), checkpoint_seconds=0.5, clock=Ticking())
    half = str(tmp_path / "half/resume-6")
    found = together("loop", tmp_path, 2, folder="rest", zero=1, stage="muon", resume=half)["points"]
    assert_same_points(found, {step: values for step, values in expected.items() if int(step) > 6 * BATCH_TOKENS})


@pytest.mark.slow
def test_bf16_and_dropout_under_deepspeed_are_those_of_the_torch_engine(tmp_path):
    calls = [{"zero": zero, "stage": stage} for zero, stage in ((2, "bf16"), (1, "dropout"))]
    found = together("several", tmp_path, calls=calls)
    for call, numbers in zip(calls, found, strict=True):
        tolerance = 2e-2 if call["stage"] == "bf16" else 1e-4
        assert numbers["loss"] == pytest.approx(alone(call["stage"])["loss"], rel=tolerance)


@pytest.mark.slow
def test_dropout_is_reproducible_on_two_workers_and_differs_between_them(tmp_path):
    call = {"zero": 1, "stage": "dropout"}
    first, second = together("several", tmp_path, 2, calls=[call, call])
    assert first == second
    assert first["loss"] != pytest.approx(alone("dropout")["loss"], rel=1e-4)


@pytest.mark.parametrize("zero", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_process_that_trains_stage_after_stage_keeps_the_memory_of_none(tmp_path, zero):
    held = together("held", tmp_path, zero=zero, engines=3)
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


@pytest.mark.slow
def test_a_branch_forks_across_engines_with_its_optimizer_state(tmp_path):
    torch_loop(tmp_path / "torch-trunk", "loop")
    trunk = together("loop", tmp_path, folder="trunk", zero=1)
    assert_same_checkpoint(tmp_path / "trunk/final", tmp_path / "torch-trunk/final")
    expected = torch_loop(tmp_path / "torch-branch", "branch", start=tmp_path / "torch-trunk/final")
    assert_same_points(torch_loop(tmp_path / "a", "branch", start=tmp_path / "trunk/final"), expected)
    start = str(tmp_path / "torch-trunk/final")
    assert_same_points(together("loop", tmp_path, folder="b", zero=2, stage="branch", start=start)["points"], expected)
    assert json.loads(json.dumps(trunk["summary"])) == trunk["summary"]


def test_numbers_that_cease_to_be_finite_end_the_stage_as_diverged(tmp_path):
    with pytest.raises(
        AssertionError, match=r"Diverged: the gradients ceased to be finite at step \d+, after [\d,]+ tokens"
    ):
        together("loop", tmp_path, folder="diverging", zero=1, stage="diverging")


@pytest.mark.slow
def test_a_run_whose_ranks_die_goes_on_with_any_number_of_workers_on_the_same_curve(tmp_path):
    expected = torch_loop(tmp_path / "torch", "loop")
    parts = [(2, 2, 4), (1, 1, 7), (2, 3, 9), (2, 0, None)]  # workers, ZeRO stage, the step after which rank 0 is gone
    resume, joined = None, {}
    for number, (workers, zero, end_at) in enumerate(parts):
        folder = tmp_path / str(number)
        answer = together(
            "loop", tmp_path, workers, folder=folder.name, zero=zero, resume=resume, end_at=end_at, timeout=120
        )
        if end_at is not None:
            assert answer is None
            resume = str(folder / f"resume-{end_at}")
            shards = list(Path(resume).glob("shard-*.safetensors"))
            assert len(shards) == (2 if workers == 2 else 0)
        else:
            joined = answer["points"]
    last = {step: values for step, values in expected.items() if int(step) > 9 * BATCH_TOKENS}
    assert_same_points(joined, last)
    assert_same_checkpoint(tmp_path / "3/final", tmp_path / "torch/final")
    # The torch engine goes on from shards as well.
    host = Host(tmp_path / "back", resume=tmp_path / "2/resume-9")
    run(STAGES["loop"], host)
    assert_same_points({str(step): values for step, values in host.points.items()}, last)
