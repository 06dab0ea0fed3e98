"""Companions: modules that train beside a model, on its activations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import nn

from halflife.errors import UserError
from halflife.models.decoder import Decoder
from halflife.models.ladder import Rung
from halflife.models.sites import Site
from halflife.stages.train import Checkpoint
from halflife.store.execution import Execution
from halflife.training.attached import Attached
from halflife.training.checkpoints import read_optimizer, read_weights
from halflife.training.companion import Companion
from halflife.training.objectives import NextToken
from halflife.training.optimizers import AdamW
from halflife.training.schedules import Schedule
from tests.training.companions import AUTOENCODER
from tests.training.fakes import VOCABULARY, Host, Interrupted, PartlyScored, Stream, Ticking, recipe, run, torch_engine

JOINT = replace(AUTOENCODER, strength=0.5)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def engine(*companions: Any, micro_rows: int | None = None, **changes: Any) -> Any:
    model = Decoder(Rung(size="20k"), VOCABULARY)
    model.initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.head.weight.normal_(generator=torch.Generator().manual_seed(0), std=0.1)
    return torch_engine(model, recipe(companions=companions, **changes), micro_rows=micro_rows)


def own(weights: Any) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in weights.items() if not name.startswith("companion.")}


@pytest.mark.parametrize("changes", [{}, {"dropout": 0.2}, {"max_grad_norm": 1e-3}])
def test_beside_a_detached_companion_the_model_trains_as_without_it_to_the_bit(tmp_path, changes) -> None:
    alone, beside = Host(tmp_path / "alone"), Host(tmp_path / "beside")
    run(recipe(**changes), alone)
    run(recipe(companions=(AUTOENCODER,), **changes), beside)
    weights, expected = own(read_weights(tmp_path / "beside/final")), read_weights(tmp_path / "alone/final")
    assert weights.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights.items())
    for step, values in alone.points.items():
        assert {name: beside.points[step][name] for name in values if name != "train/tokens_per_second"} == {
            name: value for name, value in values.items() if name != "train/tokens_per_second"
        }
    last = beside.points[max(beside.points)]
    first = beside.points[sorted(beside.points)[1]]
    assert 0 < last["bottleneck/fvu"] < 0.8 * first["bottleneck/fvu"]


@pytest.mark.parametrize("micro_rows", [None, 1])
def test_the_model_gets_strength_times_the_gradient_of_the_companions_loss_and_the_companion_its_own(
    micro_rows,
) -> None:
    plain, joint = engine(), engine(JOINT, micro_rows=micro_rows)
    detached = engine(AUTOENCODER)
    batch = Stream(rows=8).batch(0)
    for of in (plain, joint, detached):
        module = of.companions[0].module if of.companions else None
        if module is not None:
            with torch.no_grad():
                module.up.normal_(generator=torch.Generator().manual_seed(1), std=0.1)
        of.gradients(batch, 0)
    module, tokens = joint.companions[0].module, torch.from_numpy(batch)[:, :-1]
    from halflife.models.hooks import tapped
    from halflife.training.seen import Metrics

    with tapped(plain.model, JOINT.sites) as taps:
        plain.model(tokens)
    loss = module({site: taps[site] for site in JOINT.sites}, Metrics())
    expected = torch.autograd.grad(loss, plain.parameters, allow_unused=True)
    for before, now, part in zip(plain.parameters, joint.parameters, expected, strict=True):
        added = torch.zeros_like(before) if part is None else 0.5 * part
        torch.testing.assert_close(now.grad, before.grad + added, rtol=1e-3, atol=1e-5)
    for one, other in zip(module.parameters(), detached.companions[0].module.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)


def test_where_only_answers_are_predicted_a_companion_still_reads_every_position() -> None:
    from tests.training.fakes import ANSWERS

    some, everything = engine(AUTOENCODER, mixture=ANSWERS), engine(AUTOENCODER)
    metrics = some.gradients(PartlyScored(rows=8).batch(0), 0)["bottleneck/loss"]
    assert metrics.item() == pytest.approx(everything.gradients(Stream(rows=8).batch(0), 0)["bottleneck/loss"].item())


@pytest.mark.parametrize("companion", [AUTOENCODER, JOINT])
def test_a_resumed_run_ends_with_the_same_bits_companion_included(tmp_path, companion) -> None:
    stage = recipe(companions=(companion,), schedule=Schedule(shape="cosine", warmup=0.2), dropout=0.1)
    run(stage, whole := Host(tmp_path / "a"))
    first = Host(tmp_path / "b", interrupt_at=5)
    with pytest.raises(Interrupted):
        run(stage, first, checkpoint_seconds=0.5, clock=Ticking())
    run(stage, rest := Host(tmp_path / "c", resume=first.checkpoints[-1]))
    for read in (read_weights, read_optimizer):
        expected, found = read(tmp_path / "a/final"), read(tmp_path / "c/final")
        assert any("companion.bottleneck.down" in name for name in expected)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)
    last = max(whole.points)
    assert rest.points[last]["bottleneck/loss"] == whole.points[last]["bottleneck/loss"]


class Counting(nn.Module):
    """One linear map, and a count of the batches in a buffer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.map = nn.Linear(width, 1)
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, activations: Any, metrics: Any) -> torch.Tensor:
        self.batches += 1
        metrics.log("batches", self.batches)
        return torch.stack([self.map(x).square().mean() for x in activations.values()]).mean()


@dataclass(frozen=True, kw_only=True)
class Counts(Companion):
    def parameters(self, width: int) -> int:
        return width + 1

    def activation_bytes(self, width: int) -> float:
        return 4.0 * width

    def build(self, width: int, seed: int) -> Any:
        return Counting(width)


COUNTS = Counts(
    name="counts",
    sites=(Site(layer=1), Site(layer=1, part="mlp"), Site(layer=2, part="attention")),
    optimizer=AdamW(learning_rate=0.01),
)


def test_a_companions_buffers_are_resumed(tmp_path) -> None:
    stage = recipe(companions=(COUNTS,))
    run(stage, whole := Host(tmp_path / "a"))
    first = Host(tmp_path / "b", interrupt_at=5)
    with pytest.raises(Interrupted):
        run(stage, first, checkpoint_seconds=0.5, clock=Ticking())
    run(stage, rest := Host(tmp_path / "c", resume=first.checkpoints[-1]))
    last = max(whole.points)
    assert rest.points[last]["counts/batches"] == whole.points[last]["counts/batches"]


@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_a_companion_reads_fp32_whatever_the_models_precision(strength: float) -> None:
    of = engine(replace(COUNTS, strength=strength), precision="bf16")
    assert of.gradients(Stream().batch(0), 0)["counts/loss"] > 0


def test_a_branch_continues_its_trunks_companion_and_one_without_it_leaves_it_behind(tmp_path) -> None:
    trunk = recipe(companions=(AUTOENCODER,))
    run(trunk, Host(tmp_path / "trunk"))
    start = tmp_path / "trunk/final"
    branch = recipe(start=Checkpoint(stage=trunk), companions=(AUTOENCODER,), schedule=Schedule(shape="continue"))
    host = Host(tmp_path / "branch")
    run(branch, host, start=start, batches=Stream("branch"))
    fresh = Host(tmp_path / "fresh")
    run(replace(branch, companions=(replace(AUTOENCODER, name="other"),)), fresh, start=start, batches=Stream("branch"))
    first = sorted(host.points)[1]
    assert host.points[first]["bottleneck/fvu"] < 0.8 * fresh.points[first]["other/fvu"]
    assert not [name for name in read_weights(tmp_path / "fresh/final") if "bottleneck" in name]
    run(replace(branch, companions=()), Host(tmp_path / "plain"), start=start, batches=Stream("branch"))
    assert own(read_weights(tmp_path / "plain/final")).keys() == read_weights(tmp_path / "plain/final").keys()


def test_its_constraints_hold_after_every_step() -> None:
    of = engine(AUTOENCODER)
    for step in range(3):
        of.gradients(Stream().batch(step), step)
        of.step(1.0)
        assert isinstance(of.companions[0], Attached)
        torch.testing.assert_close(of.companions[0].module.down.norm(dim=0), torch.ones(AUTOENCODER.rank))


def test_a_plan_counts_what_a_companion_costs() -> None:
    plain, joint = recipe(), recipe(companions=(JOINT,))
    width, parameters = plain.architecture.width, 2 * plain.architecture.width * JOINT.rank
    assert joint.cost.flops - plain.cost.flops == pytest.approx(12 * parameters * plain.tokens)
    before, now = plain.memory(Execution()), joint.memory(Execution())
    assert now.total - before.total == pytest.approx(4 * 4 * parameters)  # weights, gradients and two moments
    assert now.activations - before.activations == plain.batch_tokens * JOINT.activation_bytes(width)
    assert joint.cost.disk_bytes > plain.cost.disk_bytes
    assert joint.key != plain.key


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: replace(JOINT, name="train"), "companion 'train': expected a name"),
        (lambda: replace(JOINT, sites=()), "companion bottleneck without a site"),
        (lambda: replace(JOINT, strength=-1.0), "companion bottleneck of strength -1.0"),
        (lambda: recipe(companions=(replace(JOINT, sites=(Site(layer=9),)),)), "layer 9 of 20k given: it has"),
        (lambda: recipe(companions=(JOINT, JOINT)), "the name 'bottleneck' given twice"),
        (lambda: recipe(companions=(replace(JOINT, name="clean"),)), "the name 'clean' given twice"),
        (
            lambda: recipe(companions=(JOINT,)).check_execution(Execution(engine="deepspeed")),
            "Autoencoder is not supported by the engine 'deepspeed'",
        ),
        (
            lambda: recipe(start=Checkpoint(stage=recipe(companions=(JOINT,))), companions=(replace(JOINT, rank=5),)),
            "companion bottleneck of 320 parameters: it continues the start's of that name, which has 256",
        ),
        (lambda: recipe(objectives=()), "no objective given"),
        (lambda: recipe(objectives=(NextToken(), NextToken())), "NextToken given 2 times"),
    ],
)
def test_invalid_companions_are_refused_in_one_line(make: Any, line: str) -> None:
    with pytest.raises(UserError, match=line) as error:
        make()
    assert "\n" not in str(error.value)
