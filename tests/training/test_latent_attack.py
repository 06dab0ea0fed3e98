"""Latent attacks: what the attacker may do, what it reaches, and what training against it does."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from halflife.data.codecs import load
from halflife.data.pretrained import prepare_tokenizer
from halflife.data.tokenizers import Bytes, vocabulary_of
from halflife.errors import UserError
from halflife.evaluation.scoring import pack
from halflife.evaluation.targets import items
from halflife.models.decoder import Decoder
from halflife.models.hooks import edited, tapped
from halflife.models.ladder import Rung
from halflife.models.prepare import prepare_model
from halflife.models.sites import Site
from halflife.models.start import fresh
from halflife.rng import generator, seed_of
from halflife.stages.train import Train
from halflife.store.execution import Execution
from halflife.tasks.base import Example
from halflife.training import checkpoints
from halflife.training.latent_attack import LatentAttack
from halflife.training.loop import model_at
from halflife.training.objective import Objective, ObjectiveSetting, Terms
from halflife.training.objectives import NextToken
from halflife.training.optimizers import AdamW
from halflife.training.parameters import Frozen
from halflife.training.perturbation import AttackLoss, Perturbation
from halflife.training.seen import Metrics
from tests.models import tiny
from tests.training.fakes import BASE, Host, Interrupted, Stream, Ticking, recipe, run

SIZE = Rung(size="20k")
VOCABULARY = vocabulary_of(Bytes())
BLOCKS = SIZE.layers
EVERY = [Site(layer=layer) for layer in range(BLOCKS + 1)]
EVERY += [Site(layer=layer, part=part) for layer in range(1, BLOCKS + 1) for part in ("attention", "mlp")]


@dataclass(frozen=True, kw_only=True)
class Letters:
    """Answer some letters by themselves, or by others."""

    shift: int = 0
    first: int = 0
    letters: int = 8

    @property
    def name(self) -> str:
        return f"letters-{self.shift}"

    @property
    def characters(self) -> int:
        return 7

    def examples(self, part: str, count: int, results: Path) -> Sequence[Example]:
        found = []
        for number in range(self.first, self.first + count):
            asked = "".join(chr(97 + (number * place + place) % self.letters) for place in range(1, 2 + number % 3))
            answer = "".join(chr(97 + (ord(letter) - 97 + self.shift) % self.letters) for letter in asked)
            found.append(Example(prompt=f"{number}{asked}=", answer=f"{answer}\n"))
        return found[::-1] if self.shift else found


RIGHT, WRONG = Letters(), Letters(shift=3)
ATTACK = LatentAttack(target=RIGHT, sites=(Site(layer=1),), radius=0.3, examples=12, batch=6)
TARGETED = replace(ATTACK, toward=WRONG)


class ByteStream(Stream):
    vocabulary = VOCABULARY


def against(attack: LatentAttack, **changes: Any) -> Train:
    return recipe(objectives=(attack,), optimizer=AdamW(learning_rate=0.003), **changes)


def prepared(attack: LatentAttack, model: Any, folder: Path, stage: Train = BASE) -> AttackLoss:
    """The function behind the objective."""
    host: Any = Host(folder)
    stage = replace(stage, objectives=(attack,))
    on_step: Any = attack.prepare(ObjectiveSetting(stage=stage, model=model, context=host)).on_step
    (loss,) = [cell.cell_contents for cell in on_step.__closure__ if isinstance(cell.cell_contents, AttackLoss)]
    return loss


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """That answers right; frozen by the tests' own good manners, not by its flags."""
    model = fresh(SIZE, VOCABULARY, 0.0, 0)
    loss = prepared(replace(ATTACK, radius=0.0, batch=12), model, tmp_path_factory.mktemp("none"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(60):
        optimizer.zero_grad()
        loss(model, step, Metrics()).backward()
        optimizer.step()
    optimizer.zero_grad()
    assert metrics(loss, model)["latent-attack/loss"] < 0.1
    return model


def metrics(loss: AttackLoss, model: Any, step: int = 0) -> dict[str, float]:
    metrics = Metrics()
    loss(model, step, metrics)
    return {name: float(value) for name, value in metrics.values.items()}


# --- radius 0 ---


@dataclass(frozen=True, kw_only=True)
class OnExamples(Objective):
    """Plain training on the same examples."""

    reads_batch = False

    def prepare(self, setting: ObjectiveSetting) -> Terms:
        codec = load(setting.stage.mixture.tokenizer, setting.context.results)
        drawn = items(RIGHT, "train", ATTACK.examples, codec, setting.context.results)

        def loss(model: Any, batch: Tensor, step: int, metrics: Metrics) -> Tensor:
            chosen = generator(setting.stage.seed, "latent attack", 0, step).permutation(len(drawn))[: ATTACK.batch]
            some = [drawn[index] for index in chosen]
            packed = pack([item.tokens[: item.answer] for item in some], [item.targets for item in some], "cpu")
            logits = model.logits(model.hidden(model.embed(packed.inputs))[packed.answer])
            return F.cross_entropy(logits, packed.targets)

        return Terms(on_step=loss)


def trained(stage: Train, folder: Path) -> Mapping[str, Tensor]:
    run(stage, Host(folder), batches=ByteStream())
    return checkpoints.read_weights(folder / "final")


@pytest.mark.parametrize(
    ("changes", "dropout"),
    [({}, 0.0), ({"start": "random", "toward": WRONG, "sites": tuple(EVERY)}, 0.1)],
    ids=["away", "toward, with dropout"],
)
def test_an_attack_of_radius_0_is_plain_training_to_the_bit(tmp_path, changes, dropout):
    attack = replace(ATTACK, radius=0.0, **changes)
    objectives = {"plain": (NextToken(), OnExamples()), "attacked": (NextToken(), attack), "without": (NextToken(),)}
    plain, attacked, without = (
        trained(recipe(objectives=these, dropout=dropout, tokens=6 * 64), tmp_path / name)
        for name, these in objectives.items()
    )
    assert all(torch.equal(attacked[name], tensor) for name, tensor in plain.items())
    assert not any(torch.equal(attacked[name], tensor) for name, tensor in without.items())


def test_a_perturbation_that_stays_0_changes_no_gradient(model, tmp_path):
    """The passes and the edit themselves are neutral, to the bit."""
    losses = [prepared(replace(ATTACK, **still), model, tmp_path) for still in ({"radius": 0.0}, {"step_size": 0.0})]
    plain, attacked = (torch.autograd.grad(loss(model, 3, Metrics()), list(model.parameters())) for loss in losses)
    assert all(torch.equal(one, other) for one, other in zip(plain, attacked, strict=True))


# --- the ball ---


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.floats(0.01, 3), st.floats(0, 100), st.floats(-30, 30))
def test_no_perturbation_leaves_its_ball_whatever_the_gradients(seed, random, radius, size, exponent):
    rng = np.random.default_rng(seed)
    prompt = torch.from_numpy(rng.random((3, 4)) < 0.6)
    prompt[0, 0] = True
    x = torch.from_numpy(rng.standard_normal((3, 6, 5), dtype=np.float32))
    perturbation = Perturbation(prompt, radius, rng if random else None)
    before = perturbation(x, torch.arange(6)[None]).detach() - x
    expected = radius * x[:, :4].norm(dim=-1)[prompt].mean()
    torch.testing.assert_close(perturbation.bound, expected)
    assert not before[:, 4:].any()
    for _ in range(3):
        gradient = torch.from_numpy(rng.standard_normal((3, 4, 5), dtype=np.float32)) * 10.0**exponent
        gradient[1] = 0
        perturbation.step(gradient, size)
        norms = perturbation.value.detach().norm(dim=-1)
        assert (norms <= expected * (1 + 1e-6)).all()
        assert not norms[~prompt].any()
        if not random:
            assert not norms[1].any()


@pytest.mark.parametrize(
    "attack", [replace(ATTACK, radius=1.0), replace(TARGETED, start="random")], ids=["away", "toward"]
)
def test_only_prompts_are_attacked_and_the_radius_is_that_of_the_sites_mean_norm(model, tmp_path, attack):
    attack = replace(attack, sites=(Site(layer=0), Site(layer=2)))
    loss = prepared(attack, model, tmp_path)
    index = np.arange(6)
    found = loss.attack(model, index, 0, Metrics())
    texts = loss.right.take(index, "cpu")
    with torch.no_grad(), tapped(model, attack.sites) as taps:
        model.hidden(model.embed(texts.tokens))
    longest = texts.prompt.shape[1]
    assert texts.prompt.sum(1).tolist() == [len(example.prompt) for example in RIGHT.examples("train", 6, tmp_path)]
    for site, perturbation in found.items():
        if site.layer == 0 or attack.start == "zero":  # deeper sites are measured under the start of the earlier ones
            expected = attack.radius * taps[site][:, :longest].norm(dim=-1)[texts.prompt].mean()
            torch.testing.assert_close(perturbation.bound, expected)
        norms = perturbation.value.norm(dim=-1)
        assert (norms <= perturbation.bound * (1 + 1e-6)).all()
        assert not norms[~texts.prompt].any()
        assert norms.max() > 0.9 * perturbation.bound


# --- the attack ---


@pytest.mark.parametrize("site", EVERY, ids=lambda site: site.name)
def test_the_attacker_lowers_the_wrong_answers_loss_or_raises_the_right_ones(model, tmp_path, site):
    toward = metrics(prepared(replace(TARGETED, sites=(site,), radius=1.0), model, tmp_path), model)
    assert toward["latent-attack/end_loss"] < 0.85 * toward["latent-attack/start_loss"]
    away = metrics(prepared(replace(ATTACK, sites=(site,), radius=1.0), model, tmp_path), model)
    assert away["latent-attack/end_loss"] > 10 * away["latent-attack/start_loss"]
    assert away["latent-attack/end_loss"] == away["latent-attack/loss"]


@pytest.mark.parametrize("attack", [ATTACK, TARGETED], ids=["away", "toward"])
def test_a_larger_ball_and_more_steps_make_a_stronger_attack(model, tmp_path, attack):
    def end(**changes: Any) -> float:
        value = metrics(prepared(replace(attack, **changes), model, tmp_path), model)["latent-attack/end_loss"]
        return value if attack.toward else -value

    by_radius = [end(radius=radius) for radius in (0.1, 0.3, 1.0)]
    assert by_radius == sorted(by_radius, reverse=True)
    by_steps = [end(steps=steps, step_size=0.25) for steps in (1, 2, 4, 8)]
    assert by_steps == sorted(by_steps, reverse=True)


def test_the_start_loss_is_that_of_the_answers_without_an_attack(model, tmp_path):
    wrong = replace(ATTACK, target=WRONG, radius=0.0)
    clean = metrics(prepared(replace(ATTACK, radius=0.0, batch=12), model, tmp_path), model)["latent-attack/loss"]
    assert metrics(prepared(replace(ATTACK, batch=12), model, tmp_path), model)["latent-attack/start_loss"] == clean
    clean = metrics(prepared(replace(wrong, batch=12), model, tmp_path), model)["latent-attack/loss"]
    toward = metrics(prepared(replace(TARGETED, batch=12), model, tmp_path), model)["latent-attack/start_loss"]
    assert toward == pytest.approx(clean, rel=1e-5)


def test_the_random_start_is_inside_the_ball_and_depends_on_seed_and_step_alone(model, tmp_path):
    still = replace(ATTACK, start="random", step_size=0.0)
    found = [
        prepared(still, model, tmp_path, replace(BASE, seed=seed)).attack(model, np.arange(6), step, Metrics())
        for seed, step in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    first, again, other, seeded = (each[ATTACK.sites[0]] for each in found)
    assert torch.equal(first.value, again.value)
    assert not torch.equal(first.value, other.value)
    assert not torch.equal(first.value, seeded.value)
    distances = (torch.cat([each.value for each in (first, other, seeded)]).norm(dim=-1) / first.bound).flatten()
    distances = distances[distances > 0]
    assert 0.4 < distances.mean() < 0.6
    assert distances.min() < 0.2
    assert distances.max() > 0.8


def test_the_inner_loop_leaves_the_weights_their_gradients_and_the_mode_as_they_were(tmp_path):
    model = Decoder(SIZE, VOCABULARY, dropout=0.1)
    model.initialise(torch.Generator().manual_seed(0))
    model.blocks[0].requires_grad_(False)
    trained = [parameter.requires_grad for parameter in model.parameters()]
    before = copy.deepcopy(model.state_dict())
    loss = prepared(TARGETED, model, tmp_path)
    state = torch.random.get_rng_state()
    loss.attack(model, np.arange(6), 0, Metrics())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [parameter.requires_grad for parameter in model.parameters()] == trained
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_weights_get_the_gradient_of_the_loss_under_the_perturbations_held_fixed(model, tmp_path):
    loss = prepared(replace(TARGETED, sites=(Site(layer=0), Site(layer=1, part="mlp")), strength=2.0), model, tmp_path)
    found = torch.autograd.grad(loss(model, 5, Metrics()), list(model.parameters()))
    index = generator(*loss.key, 5).permutation(len(loss.right.tokens))[:6]
    perturbations = loss.attack(model, index, 5, Metrics())
    with edited(model, perturbations):
        expected = torch.autograd.grad(2 * loss.right.take(index, "cpu").loss(model), list(model.parameters()))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert not any(perturbation.value.requires_grad for perturbation in perturbations.values())


# --- training ---


def test_after_training_under_attack_the_attack_does_little(tmp_path):
    """Compared with as many steps on the same answers without attack."""
    losses = {}
    for radius in (0.0, 0.3):
        attack = replace(ATTACK, radius=radius, batch=12)
        run(
            recipe(objectives=(attack,), tokens=50 * 64, evaluations=()),
            Host(tmp_path / str(radius)),
            batches=ByteStream(),
        )
        model, _ = model_at(tmp_path / str(radius) / "final", SIZE, VOCABULARY)
        losses[radius] = metrics(prepared(replace(ATTACK, batch=12), model, tmp_path), model)
    assert losses[0.0]["latent-attack/start_loss"] < 0.1
    assert losses[0.0]["latent-attack/end_loss"] > 1
    assert losses[0.3]["latent-attack/end_loss"] < 0.2 * losses[0.0]["latent-attack/end_loss"]


def test_the_attackers_losses_are_logged_and_a_resumed_run_has_the_same_bits(tmp_path):
    stage = recipe(objectives=(NextToken(), replace(TARGETED, start="random")), dropout=0.1)
    whole, part = Host(tmp_path / "whole"), Host(tmp_path / "part", interrupt_at=5)
    run(stage, whole, batches=ByteStream())
    with pytest.raises(Interrupted):
        run(stage, part, batches=ByteStream(), checkpoint_seconds=0.5, clock=Ticking())
    rest = Host(tmp_path / "rest", resume=part.checkpoints[-1])
    run(stage, rest, batches=ByteStream())
    last = whole.points[max(whole.points)]
    assert set(TARGETED.measures) == {name for name in last if name.startswith("latent-attack/")}
    assert last["latent-attack/end_loss"] < last["latent-attack/start_loss"]
    for name in (*TARGETED.measures, "train/loss", "clock/displacement"):
        assert rest.points[max(whole.points)][name] == last[name]
    weights = [checkpoints.read_weights(tmp_path / folder / "final") for folder in ("whole", "rest")]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


@pytest.mark.parametrize("attack", [ATTACK, TARGETED], ids=["away", "toward"])
def test_under_autocast_every_weight_that_is_trained_gets_its_gradient(model, tmp_path, attack):
    """Autocast keeps the casts of weights: one that was made without gradients would be used again."""
    loss = prepared(attack, model, tmp_path)
    expected = torch.autograd.grad(loss(model, 0, Metrics()), list(model.parameters()))
    values = Metrics()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(model, 0, values)
    found = torch.autograd.grad(value, list(model.parameters()))
    for one, other in zip(found, expected, strict=True):
        assert F.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.9


def test_with_layers_computed_twice_the_attack_on_the_stream_is_the_same(tmp_path):
    stage = against(replace(ATTACK, sites=(Site(layer=0), Site(layer=1))), tokens=4 * 64)
    host = Host(tmp_path / "twice")
    host.execution = Execution(activation_checkpointing=True)
    run(stage, host, batches=ByteStream())
    once, twice = trained(stage, tmp_path / "once"), checkpoints.read_weights(tmp_path / "twice" / "final")
    assert all(torch.equal(tensor, twice[name]) for name, tensor in once.items())


def test_frozen_layers_stay_as_they_are_under_attack(tmp_path):
    stage = against(ATTACK, parameters=Frozen(embeddings=True, layers=1))
    start = dict(fresh(SIZE, VOCABULARY, 0.0, seed_of(0, "model")).named_parameters())
    end = trained(stage, tmp_path)
    held = {name for name in start if name.startswith(("embed.", "blocks.0."))}
    assert {name for name, tensor in end.items() if torch.equal(tensor, start[name])} == held


@pytest.mark.parametrize("family", ["gpt_neox", "llama"])
def test_released_models_are_attacked_at_their_own_sites(family, tmp_path):
    released = prepare_model(str(tiny.folder(tmp_path / "model", family)), tmp_path)
    tokenizer = prepare_tokenizer(Path(released.folder), tmp_path)
    stage = recipe(start=released, mixture=replace(BASE.mixture, tokenizer=tokenizer))
    model = fresh(released, vocabulary_of(tokenizer), 0.0, 0)
    for part in ("residual", "attention", "mlp"):
        loss = prepared(replace(TARGETED, radius=2.0, sites=(Site(layer=1, part=part),)), model, tmp_path, stage)
        found = metrics(loss, model)
        assert found["latent-attack/end_loss"] < found["latent-attack/start_loss"] - 0.01


# --- what is refused ---


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"radius": -0.1}, "latent attack of radius -0.1: expected 0 or a positive number"),
        ({"radius": float("inf")}, "latent attack of radius inf"),
        ({"step_size": float("nan")}, "latent attack of step_size nan"),
        ({"strength": -1.0}, "latent attack of strength -1.0"),
        ({"steps": 0}, "latent attack of steps = 0: expected at least 1"),
        ({"batch": 0}, "latent attack of batch = 0"),
        ({"start": "far"}, "start of a latent attack 'far' given: expected one of zero, random"),
        ({"sites": ()}, r"latent attack at \[\]: expected at least one site"),
        ({"sites": (Site(layer=1),) * 2}, r"latent attack at \['residual-1', 'residual-1'\]"),
        ({"toward": RIGHT}, "latent attack toward the right answers"),
        ({"sites": (Site(layer=99),)}, f"layer 99 of 20k given: it has {BLOCKS} blocks"),
    ],
)
def test_invalid_fields_are_refused_in_one_line(changes, line):
    with pytest.raises(UserError, match=line) as error:
        against(replace(ATTACK, **changes))
    assert "\n" not in str(error.value)


def test_one_attack_a_stage_and_only_engines_that_can():
    with pytest.raises(UserError, match="LatentAttack given 2 times"):
        recipe(objectives=(ATTACK, TARGETED))
    with pytest.raises(UserError, match="LatentAttack is not supported by the engine 'deepspeed'"):
        against(ATTACK).check_execution(Execution(engine="deepspeed"))


def test_prompts_without_a_wrong_answer_and_texts_that_are_too_long_are_refused_before_training(model, tmp_path):
    with pytest.raises(UserError, match="5 of 12 prompts are not among its 12 examples; expected the same prompts"):
        prepared(replace(TARGETED, toward=Letters(shift=3, first=5)), model, tmp_path)
    released = prepare_model(str(tiny.folder(tmp_path / "model", "gpt2")), tmp_path)
    tokenizer = prepare_tokenizer(Path(released.folder), tmp_path)
    stage = recipe(start=released, mixture=replace(BASE.mixture, tokenizer=tokenizer))
    short = replace(released, shape=replace(released.shape, context=4))
    stage = replace(stage, start=short, mixture=replace(stage.mixture, sequence=4), batch_tokens=64)
    with pytest.raises(UserError, match=r"latent attack on examples of up to .* reads at most 4"):
        prepared(ATTACK, fresh(released, vocabulary_of(tokenizer), 0.0, 0), tmp_path, stage)


def test_a_part_that_a_released_models_blocks_lack_is_refused_before_training(tmp_path):
    released = prepare_model(str(tiny.folder(tmp_path / "model", "bloom")), tmp_path)
    attack = replace(ATTACK, sites=(Site(layer=1, part="mlp"),))
    with pytest.raises(UserError, match="expected the part 'residual'"):
        prepared(attack, fresh(released, tiny.VOCABULARY, 0.0, 0), tmp_path)


def test_a_site_inside_a_block_is_refused_where_blocks_are_computed_twice(model, tmp_path):
    host: Any = Host(tmp_path)
    host.execution = Execution(activation_checkpointing=True)
    attack = replace(ATTACK, sites=(Site(layer=1, part="mlp"),))
    with pytest.raises(UserError, match="latent attack at mlp-1 with activation checkpointing"):
        attack.prepare(ObjectiveSetting(stage=against(attack), model=model, context=host))


def test_the_plan_counts_the_passes():
    stage = against(ATTACK)
    plain, away, toward = (attack.step_tokens(stage) for attack in (replace(ATTACK, radius=0.0), ATTACK, TARGETED))
    assert plain == ATTACK.batch * RIGHT.characters
    assert away / plain == pytest.approx((3 + 2 * ATTACK.steps) / 3)
    assert toward / plain == pytest.approx((4 + 2 * ATTACK.steps) / 3)
    assert stage.memory(Execution()).init_weights > recipe().memory(Execution()).init_weights
