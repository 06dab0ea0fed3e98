"""Elastic weight consolidation, training against soft prompts, KL to the start, and gradient noise."""

from __future__ import annotations

from dataclasses import make_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from halflife.errors import UserError
from halflife.evaluation.targets import Item, TaskTarget
from halflife.models.decoder import Decoder
from halflife.models.ladder import Rung
from halflife.prompts.attack_loss import PromptLoss
from halflife.prompts.attacks import PromptAttacks
from halflife.stages.fisher import Fisher
from halflife.stages.subject import Subject
from halflife.stages.train import Checkpoint, Train
from halflife.tasks.arithmetic import Addition
from halflife.training import adapters, fisher
from halflife.training.objectives import EWC, KL, L2SP, NextToken
from halflife.training.optimizers import AdamW
from halflife.training.parameters import LoRA
from halflife.training.schedules import Schedule
from halflife.training.seen import Seen
from halflife.training.torch_engine import TorchEngine, add_noise
from tests.training.fakes import (
    ANSWERS,
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

TRUNK = recipe()
START = Checkpoint(stage=TRUNK)
FISHER = Fisher(subject=Subject(model=START), mixture=TRUNK.mixture)


def branch(**changes: Any) -> Train:
    return recipe(start=START, optimizer=AdamW(learning_rate=0.01), schedule=Schedule(shape="continue"), **changes)


def engine(stage: Train, micro_rows: int | None = None, tmp_fisher: Path | None = None) -> TorchEngine:
    model = Decoder(Rung(size="20k"), VOCABULARY)
    model.initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.head.weight.normal_(generator=torch.Generator().manual_seed(0), std=0.1)
    parents = {FISHER: tmp_fisher} if tmp_fisher else {}
    return torch_engine(model, stage, micro_rows=micro_rows, parents=parents)


def trained(of: TorchEngine, steps: int = 10, lr_multiplier: float = 1.0) -> dict[str, torch.Tensor]:
    for step in range(steps):
        of.gradients(Stream().batch(step), 0)
        of.step(lr_multiplier)
    return {name: tensor.clone() for name, tensor in of.full_weights().items()}


def importance(folder: Path, large: float = 1.0, small: float = 0.0) -> Path:
    """A folder with Fisher information: `large` for the first half of every tensor's elements, `small` for the rest."""
    model = Decoder(Rung(size="20k"), VOCABULARY)
    fisher.write(
        folder,
        {
            name: torch.where(torch.arange(p.numel()).view_as(p) < p.numel() / 2, large, small)
            for name, p in model.named_parameters()
        },
    )
    return folder


# --- elastic weight consolidation ---


def test_ewc_of_enormous_strength_keeps_the_important_weights_and_frees_the_others(tmp_path):
    free = engine(branch())
    held = engine(branch(objectives=(NextToken(), EWC(strength=1e12, fisher=FISHER))), tmp_fisher=importance(tmp_path))
    start = {name: tensor.clone() for name, tensor in held.full_weights().items()}
    alone, kept = trained(free), trained(held)
    for name, begin in start.items():
        half = -(-begin.numel() // 2)
        moved = (kept[name] - begin).flatten()
        assert moved[:half].abs().max() < 1e-6, name
        assert moved[half:].norm() > 0.3 * (alone[name] - begin).flatten()[half:].norm(), name


def test_with_equal_fisher_information_ewc_is_l2sp_at_any_scale_of_the_fisher(tmp_path):
    pulled = engine(
        branch(
            objectives=(
                NextToken(),
                L2SP(strength=30.0),
            )
        )
    )
    even = importance(tmp_path, large=7e-5, small=7e-5)
    held = engine(branch(objectives=(NextToken(), EWC(strength=30.0, fisher=FISHER))), tmp_fisher=even)
    expected, found = trained(pulled, lr_multiplier=0.5), trained(held, lr_multiplier=0.5)
    assert pulled.displacement() > 0
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6)


# --- against soft prompts ---


def prompt_loss(prompts: int = 2) -> PromptLoss:
    width = Rung(size="20k").width
    vectors = [torch.randn(k, width, generator=torch.Generator().manual_seed(k)) for k in range(1, prompts + 1)]
    rng = np.random.default_rng(0)
    texts = [
        Item(tokens=rng.integers(VOCABULARY, size=5), after=np.array([5]), targets=np.array([1]), answer=5)
        for _ in range(12)
    ]
    return PromptLoss(vectors, texts, "start", strength=2.0, batch=6, key=(0, "attack"), device="cpu")


def test_a_loss_behind_prompts_depends_on_the_step_alone_and_reaches_every_weight():
    of, loss = engine(branch()), prompt_loss()
    again = prompt_loss()
    values = [float(loss(of.model, step).detach()) for step in range(6)]
    assert values == [float(again(of.model, step).detach()) for step in range(6)]
    assert len(set(values)) > 3
    of.gradients(Stream().batch(0), 0)
    alone = [parameter.grad.clone() for parameter in of.parameters if parameter.grad is not None]
    of.on_step.append(lambda model, batch, step, metrics: loss(model, step))
    of.gradients(Stream().batch(0), 0)
    both = [parameter.grad for parameter in of.parameters if parameter.grad is not None]
    assert all(not torch.equal(one, two) for one, two in zip(alone, both, strict=True))


def test_training_against_prompts_lowers_the_loss_behind_them():
    of, loss = engine(branch()), prompt_loss()
    of.on_step.append(lambda model, batch, step, metrics: loss(model, step))
    before = np.mean([float(loss(of.model, step).detach()) for step in range(10)])
    for step in range(30):
        of.gradients(Stream().batch(step), step)
        of.step(1.0)
    after = np.mean([float(loss(of.model, step).detach()) for step in range(100, 110)])
    assert after < 0.2 * before


# --- KL to the start ---


def outputs(of: TorchEngine) -> torch.Tensor:
    with of.measuring():
        return of.model(torch.from_numpy(Stream("elsewhere", rows=16).batch(0))[:, :-1]).log_softmax(-1)


def reference_of(of: TorchEngine) -> Any:
    """The model that the engine's KL, its second objective, compares with."""
    found: list[Any] = []
    one = torch.zeros(1, 1, VOCABULARY)

    def predict(model: Any) -> torch.Tensor:
        found.append(model)
        return one

    seen = Seen(logits=one, targets=one[..., 0].long(), predicted=1, share=1.0, activations={}, predict=predict)
    of.on_batch[1](of.model, None, 0, seen)
    return found[0]


def divergence(before: torch.Tensor, now: torch.Tensor) -> float:
    return (before.exp() * (before - now)).sum(-1).mean().item()


def test_kl_of_enormous_strength_keeps_the_outputs_while_the_weights_may_move():
    moved = {}
    for strength in (0.0, 1e4):
        of = engine(
            branch(
                objectives=(
                    NextToken(),
                    KL(strength=strength),
                )
            )
        )
        before = outputs(of)
        trained(of, steps=60, lr_multiplier=0.1)
        moved[strength] = divergence(before, outputs(of)), of.displacement()
    assert moved[0.0][0] > 0.5
    assert moved[1e4][0] < 0.02 * moved[0.0][0]
    assert moved[1e4][1] > 0


@pytest.mark.parametrize("micro_rows", [None, 1])
def test_the_gradient_of_kl_is_that_of_the_mean_over_scored_tokens(micro_rows):
    of = engine(
        branch(
            mixture=ANSWERS,
            objectives=(
                NextToken(),
                KL(strength=3.0),
            ),
            dropout=0.0,
        ),
        micro_rows,
    )
    start, reference = outputs(of), reference_of(of)
    with torch.no_grad():
        for parameter in of.parameters:
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    assert divergence(start, outputs(of)) > 1e-3
    batch = torch.from_numpy(PartlyScored(rows=8).batch(0))
    ids, scored = torch.where(batch < 0, ~batch, batch), batch[:, 1:] >= 0
    now, before = of.model(ids[:, :-1]).log_softmax(-1), reference(ids[:, :-1]).log_softmax(-1)
    loss = -now.gather(-1, ids[:, 1:, None])[..., 0][scored].mean()
    total = loss + 3.0 * (before.exp() * (before - now)).sum(-1)[scored].mean()
    expected = torch.autograd.grad(total, of.parameters)
    assert loss_of(of, batch) == pytest.approx(loss.item(), rel=1e-5)  # the reported loss excludes KL
    for parameter, gradient in zip(of.parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-6)


def test_the_reference_of_kl_has_no_dropout_and_is_not_trained():
    model = Decoder(Rung(size="20k"), VOCABULARY, dropout=0.5)
    model.initialise(torch.Generator().manual_seed(0))
    of = torch_engine(model, branch(objectives=(NextToken(), KL(strength=1.0)), dropout=0.5))
    tokens = torch.arange(16)[None]
    before = reference_of(of)(tokens)
    trained(of, steps=3)
    assert torch.equal(reference_of(of)(tokens), before)


def test_with_lora_the_reference_of_kl_is_the_model_without_lora():
    model = Decoder(Rung(size="20k"), VOCABULARY)
    model.initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.head.weight.normal_(generator=torch.Generator().manual_seed(0), std=0.1)
    tokens = torch.arange(16)[None]
    before = model(tokens).detach()
    adapters.apply(LoRA(rank=2), model, seed=0)
    low_rank = {"parameters": LoRA(rank=2), "optimizer_state": "reset"}
    of = torch_engine(model, branch(objectives=(NextToken(), KL(strength=1.0)), **low_rank))
    trained(of, steps=5)
    torch.testing.assert_close(reference_of(of)(tokens), before)
    assert (model(tokens) - before).abs().max() > 0.01


# --- noise on the gradients ---


def test_noise_is_gaussian_and_as_large_as_each_tensors_gradient_times_its_strength():
    torch.manual_seed(0)
    gradients = [torch.full((400, 300), 2.0), torch.full((50_000,), 1e-3), torch.zeros(7)]
    noisy = [gradient.clone() for gradient in gradients]
    add_noise(noisy, 0.5)
    for gradient, found in zip(gradients[:2], noisy[:2], strict=True):
        size = gradient.flatten()[0].item()
        noise = (found - gradient).flatten() / (0.5 * size)
        assert noise.mean().abs() < 0.02
        assert noise.std().item() == pytest.approx(1.0, abs=0.02)
        assert (noise.abs() < 1).float().mean().item() == pytest.approx(0.6827, abs=0.01)
    assert torch.equal(noisy[2], gradients[2])


def test_noise_depends_on_seed_and_step_alone_and_a_resumed_run_has_the_same(tmp_path):
    noisy = recipe(gradient_noise=1.0)
    whole = Host(tmp_path / "whole")
    run(noisy, whole)
    part = Host(tmp_path / "part", interrupt_at=5)
    with pytest.raises(Interrupted):
        run(noisy, part, checkpoint_seconds=0.5, clock=Ticking())
    rest = Host(tmp_path / "rest", resume=part.checkpoints[-1])
    run(noisy, rest)
    last = max(whole.points)
    for name in ("train/loss", "clock/displacement"):
        assert rest.points[last][name] == whole.points[last][name]
    other, none = Host(tmp_path / "other"), Host(tmp_path / "none")
    run(recipe(gradient_noise=1.0, seed=1), other)
    run(recipe(), none)
    displacements = [host.points[last]["clock/displacement"] for host in (whole, other, none)]
    assert len(set(displacements)) == 3


# --- what is refused ---


def lookalike() -> Any:
    """An object with the name and field of an objective, of another class."""
    return make_dataclass("L2SP", [("strength", float)], frozen=True)(strength=1.0)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: L2SP(strength=-1.0), "l2sp of strength -1.0: expected 0 or a positive number"),
        (lambda: EWC(strength=float("inf"), fisher=FISHER), "ewc of strength inf"),
        (lambda: KL(strength=float("nan")), "kl of strength nan"),
        (
            lambda: PromptAttacks(strength=1.0, attacks=(), target=TaskTarget(task=Addition(form="digits"))),
            "0 prompt attacks",
        ),
        (lambda: NextToken(label_smoothing=1.5), "label smoothing 1.5: expected a fraction from 0 to 1"),
        (lambda: recipe(gradient_noise=-0.1), "gradient noise -0.1: expected 0 or a positive number"),
        (lambda: recipe(objectives=(NextToken(), KL(strength=1.0),)), "kl to the initial model of a fresh rung"),
        (lambda: recipe(objectives=(NextToken(), EWC(strength=1.0, fisher=FISHER),)), "ewc needs the Fisher"),
        (lambda: branch(objectives=(NextToken(), EWC(strength=1.0, fisher=None),)), "ewc needs the Fisher"),
        (lambda: branch(objectives=(KL(strength=1.0),) * 2), "KL given 2 times: expected it once"),
        (lambda: branch(objectives=("l2sp",)), "objective 'l2sp' given: expected one of `training.objectives`"),
        (lambda: branch(objectives=(lookalike(),)), r"objective L2SP\(strength=1.0\) given: expected one of"),
        (
            lambda: branch(
                objectives=(NextToken(), EWC(strength=1.0, fisher=FISHER),), parameters=LoRA(), optimizer_state="reset"
            ),
            "ewc with LoRA, which keeps the initial weights",
        ),
        (lambda: engine(branch(objectives=(L2SP(strength=1.0),))), "objectives without a loss given: L2SP"),
        (lambda: replace(FISHER, batches=0), "a Fisher of batches = 0: expected at least 1"),
    ],
)  # fmt: skip
def test_invalid_fields_are_refused_in_one_line_before_any_compute(make, line):
    with pytest.raises(UserError, match=line) as error:
        make()
    assert "\n" not in str(error.value)
