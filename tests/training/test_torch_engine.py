from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from halflife.errors import UserError
from halflife.models.decoder import Decoder
from halflife.models.ladder import Rung
from halflife.store.execution import Execution
from halflife.training.objectives import L2SP, NextToken
from halflife.training.optimizers import SGD, AdamW, Muon
from halflife.training.torch_engine import rows_that_fit
from halflife.training.torch_optimizers import build
from tests.training.fakes import ANSWERS, VOCABULARY, PartlyScored, Stream, loss_of, recipe, torch_engine
from tests.training.widths import Wide


def engine(stage=None, rung=None, micro_rows=None, seed=0) -> Any:
    model = Decoder(rung or Rung(size="20k"), VOCABULARY)
    model.initialise(torch.Generator().manual_seed(seed))
    with torch.no_grad():  # with the initial head of zeros there is no gradient below it
        model.head.weight.normal_(generator=torch.Generator().manual_seed(seed), std=0.1)
    return torch_engine(model, stage or recipe(), micro_rows=micro_rows)


def weights(of):
    return {name: tensor.clone() for name, tensor in of.full_weights().items()}


@pytest.mark.parametrize("micro_rows", [1, 3, 4])
def test_accumulated_gradients_equal_those_of_the_whole_batch(micro_rows):
    whole, parts = engine(), engine(micro_rows=micro_rows)
    batch = Stream(rows=8).batch(0)
    assert loss_of(parts, batch) == pytest.approx(loss_of(whole, batch), rel=1e-6)
    for a, b in zip(whole.parameters, parts.parameters, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("everywhere", [False, True])  # logits at all positions, as for compiled code
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("micro_rows", [None, 1, 3])
def test_the_loss_is_the_mean_over_the_scored_targets_of_the_whole_batch(micro_rows, smoothing, everywhere):
    of = engine(recipe(mixture=ANSWERS, objectives=(NextToken(label_smoothing=smoothing),)), micro_rows=micro_rows)
    of.execution = Execution(compile=everywhere)  # set after construction, so nothing is compiled here
    batch = PartlyScored(rows=8).batch(0)
    marked = batch < 0
    ids = torch.from_numpy(np.where(marked, ~batch, batch))
    assert (ids == torch.from_numpy(Stream(rows=8).batch(0))).all()
    logprobs = of.model(ids[:, :-1]).log_softmax(-1)
    own = logprobs.gather(-1, ids[:, 1:, None])[..., 0]
    each = -(1 - smoothing) * own - smoothing * logprobs.mean(-1)
    loss = each[torch.from_numpy(~marked[:, 1:])].mean()
    expected = torch.autograd.grad(loss, of.parameters)
    assert loss_of(of, batch) == pytest.approx(loss.item(), rel=1e-5)
    for parameter, gradient in zip(of.parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


def test_a_batch_without_marks_has_the_same_loss_where_only_answers_are_scored():
    all_scored, partly = engine(), engine(recipe(mixture=ANSWERS))
    batch = Stream(rows=8).batch(0)
    assert loss_of(partly, batch) == pytest.approx(loss_of(all_scored, batch), rel=1e-6)


def test_microbatches_that_are_compiled_have_one_length(monkeypatch):
    monkeypatch.setattr("torch.compile", lambda function, **_: function)
    of = engine(micro_rows=5)
    of.execution = Execution(compile=True)
    seen = []
    of.model.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    of.gradients(Stream(rows=8).batch(0), 0)
    assert seen == [4, 4]


def test_objectives_that_make_their_own_passes_run_eagerly_and_so_do_their_backward_passes(monkeypatch):
    inside: list[bool] = []
    eager: list[bool] = []

    @contextmanager
    def eagerly(execution):
        inside.append(True)
        yield
        inside.pop()

    def on_step(model, batch, step, metrics):
        eager.append(bool(inside))
        loss = model(batch[:1, :4]).square().mean()
        loss.register_hook(lambda gradient: eager.append(bool(inside)))
        return loss

    monkeypatch.setattr("halflife.training.torch_engine.eagerly", eagerly)
    of = engine()
    of.on_step = [on_step]
    of.gradients(Stream().batch(0), 0)
    assert eager == [True, True]


def test_the_step_returns_the_norm_before_clipping_and_clips_to_the_limit():
    clipped = engine(recipe(max_grad_norm=1e-3))
    clipped.gradients(Stream().batch(0), 0)

    def norm():
        return torch.cat([p.grad.flatten() for p in clipped.parameters if p.grad is not None]).norm().item()

    before = norm()
    assert clipped.step(1.0).item() == pytest.approx(before, rel=1e-5)
    assert norm() == pytest.approx(1e-3, rel=1e-3)


def test_a_step_at_multiplier_zero_moves_nothing():
    still = engine()
    still.gradients(Stream().batch(0), 0)
    still.step(0.0)
    assert still.displacement() == 0.0


def test_l2sp_is_the_proximal_step_towards_the_starting_weights():
    strength, lr_multiplier = 3.0, 0.5
    free, pulled = (
        engine(),
        engine(
            recipe(
                objectives=(
                    NextToken(),
                    L2SP(strength=strength),
                )
            )
        ),
    )
    start = weights(free)
    for of in (free, pulled):
        of.gradients(Stream().batch(0), 0)
        of.step(lr_multiplier)
    shrink = 1 + recipe().optimizer.learning_rate * lr_multiplier * strength
    for name, moved in weights(free).items():
        torch.testing.assert_close(weights(pulled)[name], start[name] + (moved - start[name]) / shrink)


def test_l2sp_of_enormous_strength_keeps_the_starting_weights():
    pulled = engine(
        recipe(
            objectives=(
                NextToken(),
                L2SP(strength=1e12),
            )
        )
    )
    for step in range(5):
        pulled.gradients(Stream().batch(step), 0)
        pulled.step(1.0)
    assert pulled.displacement() < 1e-7


def shrinkage(of, kind, lr_multiplier=1.0):
    """Factor by which a step without gradients multiplies the weights of one kind."""
    before = weights(of)
    for parameter in of.parameters:
        parameter.grad = torch.zeros_like(parameter)
    of.step(lr_multiplier)
    name = next(name for name in before if of.model.kind(name) == kind)
    return (of.full_weights()[name].norm() / before[name].norm()).item()


@pytest.mark.parametrize("width", [32, 64, 256])
@pytest.mark.parametrize("kind", ["hidden", "embed", "head"])
@pytest.mark.parametrize("optimizer", [AdamW, SGD, Muon])
def test_independent_decay_shrinks_every_matrix_equally_at_every_width(width, kind, optimizer):
    of = engine(recipe(optimizer=optimizer(learning_rate=0.02, weight_decay=0.5)), Wide(of=width))
    assert shrinkage(of, kind, lr_multiplier=0.5) == pytest.approx(1 - 0.5 * 0.02 * 0.5, rel=1e-5)


def test_coupled_decay_of_hidden_matrices_slows_with_width():
    stage = recipe(optimizer=AdamW(learning_rate=0.02, weight_decay=0.5, decay="coupled"))
    for width in (32, 256):
        of = engine(stage, Wide(of=width))
        assert shrinkage(of, "hidden") == pytest.approx(1 - 0.02 * 0.5 * 64 / width, rel=1e-5)
        assert shrinkage(engine(stage, Wide(of=width)), "embed") == pytest.approx(1 - 0.02 * 0.5, rel=1e-5)


def test_norm_gains_do_not_decay():
    assert shrinkage(engine(recipe(optimizer=AdamW(learning_rate=0.1, weight_decay=0.9))), "gain") == 1.0


@pytest.mark.parametrize(("optimizer", "hidden", "other"), [(AdamW, 0.25, 1.0), (SGD, 1.0, 4.0)])
def test_learning_rates_follow_mup_by_kind(optimizer, hidden, other):
    model = Decoder(Wide(of=256), VOCABULARY)
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in build(optimizer(learning_rate=1.0), model).param_groups:
        for parameter in group["params"]:
            assert group["base_lr"] == (hidden if model.kind(names[parameter]) == "hidden" else other)


@pytest.mark.parametrize("optimizer", [AdamW(learning_rate=0.01), SGD(learning_rate=0.01), Muon(learning_rate=0.01)])
def test_a_saved_optimizer_continues_bit_for_bit(optimizer):
    stage = recipe(optimizer=optimizer)
    one = engine(stage)
    for step in range(3):
        one.gradients(Stream().batch(step), 0)
        one.step(1.0)
    other = engine(stage, seed=1)
    other.load(weights(one), {name: tensor.clone() for name, tensor in one.optimizer_state().items()})
    for of in (one, other):
        of.gradients(Stream().batch(3), 0)
        of.step(1.0)
    assert all(torch.equal(tensor, other.full_weights()[name]) for name, tensor in one.full_weights().items())


def test_muon_updates_the_hidden_matrices_and_nothing_else():
    of = engine(recipe(optimizer=Muon(learning_rate=0.01)))
    of.gradients(Stream().batch(0), 0)
    of.step(1.0)
    slots = {name: set() for name, _ in of.model.named_parameters()}
    for key in of.optimizer_state():
        slot, name = key.split(".", 1)
        slots[name].add(slot)
    for name, found in slots.items():
        hidden = of.model.kind(name) == "hidden"
        assert found == ({"momentum_buffer"} if hidden else {"exp_avg", "exp_avg_sq", "step"}), name


def spread_gradients(of):
    """Gradients with singular values from 1 to 1/30, as is typical."""
    generator = torch.Generator().manual_seed(1)
    for parameter in of.parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 2:
            u, values, v = torch.linalg.svd(parameter.grad, full_matrices=False)
            parameter.grad = u @ torch.diag(torch.logspace(0, -1.5, len(values))) @ v


@pytest.mark.parametrize("width", [64, 128])
def test_muon_moves_a_hidden_matrix_by_a_near_orthogonal_one(width):
    """Newton-Schulz's five steps leave singular values between about 0.7 and 1.2 (Keller Jordan 2024)."""
    rate, lr_multiplier = 0.01, 0.5
    of = engine(recipe(optimizer=Muon(learning_rate=rate), max_grad_norm=1e9), Wide(of=width))
    before = weights(of)
    spread_gradients(of)
    of.step(lr_multiplier)
    for name, after in of.full_weights().items():
        if of.model.kind(name) == "hidden":
            rows, columns = after.shape
            values = torch.linalg.svdvals(after - before[name]) / (rate * lr_multiplier)
            unit = 0.2 * 64**0.5 * max(1, rows / columns) ** 0.5
            assert values.max() < 1.3 * unit, name
            assert values.min() > 0.6 * unit, name


def test_at_the_base_width_muon_moves_as_far_as_moonlights():
    """0.2 * rate, root mean square, for matrices with at least as many rows as columns (arXiv 2502.16982)."""
    of = engine(recipe(optimizer=Muon(learning_rate=0.01)), Wide(of=64))
    before = weights(of)
    spread_gradients(of)
    of.step(1.0)
    for name, after in of.full_weights().items():
        if of.model.kind(name) == "hidden" and after.shape[0] >= after.shape[1]:
            assert (after - before[name]).square().mean().sqrt().item() == pytest.approx(0.002, rel=0.2)


def test_frozen_parameters_are_in_no_optimizer_and_do_not_move():
    of = engine(recipe(optimizer=Muon(learning_rate=0.01)))
    frozen = "blocks.0.qkv.weight"
    of.model.get_parameter(frozen).requires_grad_(False)
    of = torch_engine(of.model, of.recipe)
    before = weights(of)
    of.gradients(Stream().batch(0), 0)
    of.step(1.0)
    moved = {name for name, after in of.full_weights().items() if not torch.equal(after, before[name])}
    assert moved == set(before) - {frozen}
    assert not any(key.endswith(frozen) for key in of.optimizer_state())


def test_muon_without_a_matrix_to_train_is_refused():
    model = Decoder(Rung(size="20k"), VOCABULARY)
    for block in model.blocks:
        block.requires_grad_(False)
    with pytest.raises(UserError, match="no hidden matrix is trained"):
        build(Muon(learning_rate=0.01), model)


def test_label_smoothing_raises_the_loss_of_a_confident_model():
    plain, smooth = engine(), engine(recipe(objectives=(NextToken(label_smoothing=0.2),)))
    for of in (plain, smooth):
        with torch.no_grad():
            of.model.get_parameter("head.weight").mul_(50)
    batch = Stream().batch(0)
    assert loss_of(smooth, batch) != pytest.approx(loss_of(plain, batch), rel=1e-3)


def test_bf16_losses_stay_near_those_of_fp32():
    full, half = engine(), engine(replace(recipe(), precision="bf16"))
    for step in range(3):
        batch = Stream().batch(step)
        assert loss_of(half, batch) == pytest.approx(loss_of(full, batch), rel=0.02)
        full.step(1.0)
        half.step(1.0)
    assert all(parameter.dtype == torch.float32 for parameter in half.parameters)


def test_microbatches_shrink_as_models_grow_and_depend_on_nothing_else():
    rows = [rows_that_fit(Rung(size=size), 257, 128, torch.device("cpu")) for size in ("100k", "10m", "1b")]
    assert rows == sorted(rows, reverse=True)
    assert rows[0] >= 32
    assert rows[-1] >= 1
