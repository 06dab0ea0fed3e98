"""A dictionary beside a model in pretraining: detached it leaves the model as it is, flowing it changes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from halflife.errors import UserError
from halflife.interpret.dictionary import BatchTopK, Dictionary, TopK
from halflife.interpret.dictionary_companion import DictionaryCompanion
from halflife.interpret.low_rank import LowRank
from halflife.models.sites import Site
from halflife.rng import seed_of
from halflife.training.checkpoints import read_weights
from halflife.training.objectives import NextToken
from halflife.training.optimizers import AdamW
from tests.training.fakes import Host, Interrupted, Ticking, recipe, run

BESIDE = DictionaryCompanion(
    name="dictionary",
    sites=(Site(layer=1), Site(layer=2)),
    dictionary=Dictionary(latents=64, sparsity=TopK(k=4)),
    optimizer=AdamW(learning_rate=0.01),
    dead_after=200,
)
ARMS = {
    "shared": replace(BESIDE, dictionary=replace(BESIDE.dictionary, shared=True)),
    "per block": BESIDE,
    "batch": replace(BESIDE, dictionary=replace(BESIDE.dictionary, sparsity=BatchTopK(k=4))),
}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(folder: Path, *companions: DictionaryCompanion) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """The model's own weights, and the last point."""
    host = Host(folder)
    run(recipe(companions=companions), host)
    weights = {name: value for name, value in read_weights(folder / "final").items() if "companion." not in name}
    return weights, host.points[max(host.points)]


@pytest.mark.parametrize("arm", ARMS)
def test_at_strength_0_the_model_is_that_of_training_without_it_to_the_bit(tmp_path: Path, arm: str) -> None:
    alone, _ = trained(tmp_path / "alone")
    detached, points = trained(tmp_path / "detached", ARMS[arm])
    assert alone.keys() == detached.keys()
    assert all(torch.equal(alone[name], detached[name]) for name in alone)
    assert 0 < points["dictionary/fvu"] < 1
    assert points["dictionary/fvu"] == pytest.approx(
        (points["dictionary/fvu-residual-1"] + points["dictionary/fvu-residual-2"]) / 2, rel=1e-4
    )
    assert 0 < points["dictionary/alive"] <= 1
    assert -1 <= points["dictionary/adjacent_cosine"] <= 1
    assert points["dictionary/rms-residual-1"] > 0


@pytest.mark.parametrize("arm", ["shared", "per block"])
def test_a_flowing_one_makes_the_streams_easier_to_encode_the_more_so_the_stronger(tmp_path: Path, arm: str) -> None:
    found = {
        strength: trained(tmp_path / str(strength), replace(ARMS[arm], strength=strength))
        for strength in (0.0, 0.3, 3.0)
    }
    unexplained = [points["dictionary/fvu"] for _, points in found.values()]
    assert unexplained == sorted(unexplained, reverse=True)
    moved = [float((found[0.0][0]["head.weight"] - weights["head.weight"]).norm()) for weights, _ in found.values()]
    assert moved == sorted(moved)
    assert moved[1] > 0


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    stage: Any = recipe(companions=(replace(BESIDE, strength=0.1),))
    run(stage, whole := Host(tmp_path / "a"))
    first = Host(tmp_path / "b", interrupt_at=5)
    with pytest.raises(Interrupted):
        run(stage, first, checkpoint_seconds=0.5, clock=Ticking())
    run(stage, rest := Host(tmp_path / "c", resume=first.checkpoints[-1]))
    expected, found = read_weights(tmp_path / "a/final"), read_weights(tmp_path / "c/final")
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    last = max(whole.points)
    assert rest.points[last]["dictionary/alive"] == whole.points[last]["dictionary/alive"]


def test_a_plan_counts_its_parameters() -> None:
    width = recipe().architecture.width
    for arm in ARMS.values():
        module = arm.build(width, 0)
        assert sum(part.numel() for part in module.parameters()) == arm.parameters(width)
    assert recipe(companions=(BESIDE,)).cost.flops > recipe().cost.flops


def test_seeds_of_training_and_of_the_dictionary_draw_its_initial_weights() -> None:
    one, again, other, reseeded = (
        each.build(32, seed).decoder
        for each, seed in (
            (BESIDE, 0),
            (BESIDE, 0),
            (BESIDE, 1),
            (replace(BESIDE, dictionary=replace(BESIDE.dictionary, seed=1)), 0),
        )
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one, reseeded)
    assert not torch.equal(one[0], one[1])


def test_a_frozen_one_changes_the_model_and_never_itself(tmp_path: Path) -> None:
    frozen = replace(ARMS["shared"], strength=1.0, frozen=True)
    alone, _ = trained(tmp_path / "alone")
    pulled, _ = trained(tmp_path / "frozen", frozen)
    assert not torch.equal(alone["head.weight"], pulled["head.weight"])
    width, weights = recipe().architecture.width, read_weights(tmp_path / "frozen" / "final")
    initial = frozen.build(width, seed_of(recipe().seed, "companion", frozen.name))
    for name, parameter in initial.named_parameters():
        assert torch.allclose(weights[f"companion.dictionary.{name}"], parameter, atol=1e-6), name


def test_streams_pressed_into_few_dimensions_have_less_outside_them_the_stronger(tmp_path: Path) -> None:
    found = []
    for strength in (0.0, 0.3, 3.0):
        host = Host(tmp_path / str(strength))
        run(recipe(objectives=(NextToken(), LowRank(sites=BESIDE.sites, rank=4, strength=strength))), host)
        found.append(host.points[max(host.points)]["low-rank/fvu"])
    assert 1 > found[0] > found[1] > found[2] > 0


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: recipe(companions=(replace(BESIDE, sites=(Site(layer=9),)),)), "layer 9 of 20k given"),
        (lambda: replace(BESIDE, frozen=True), "companion dictionary frozen at strength 0 given"),
        (lambda: LowRank(sites=(), rank=4, strength=1), "rank 4 at 0 sites given"),
        (
            lambda: recipe(objectives=(NextToken(), LowRank(sites=BESIDE.sites, rank=32, strength=1))),
            "rank 32 given: 20k is 32 wide",
        ),
    ],
)
def test_what_the_model_cannot_have_is_refused_in_one_line(make: Callable[[], Any], line: str) -> None:
    with pytest.raises(UserError, match=line) as error:
        make()
    assert "\n" not in str(error.value)
