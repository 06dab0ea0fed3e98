"""What a latent attack's step costs, beside its own passes by hand: those of the attacker, with frozen weights, and the
training pass under a perturbation. Drawing items, balls, steps and projections come on top, and the pass that measures
where a targeted attack ends.

In CPU time of one thread, interleaved.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from halflife.evaluation.targets import Item
from halflife.models.decoder import Decoder
from halflife.models.ladder import Rung
from halflife.models.sites import Site
from halflife.training.perturbation import AttackLoss
from halflife.training.seen import Metrics
from tests.benchmarks.figure import Figure
from tests.benchmarks.interleaved import ratio, rounds

MOST = 1.2
SIZES = ("100k", "1m")
ITEMS, BATCH, PROMPT, ANSWER, STEPS = 128, 16, 24, 8, 4
SECONDS_A_TURN = 0.4


def figures(count: int) -> list[Figure]:
    torch.set_num_threads(1)
    return [figure for size in SIZES for figure in _figures(size, count)]


def _figures(size: str, count: int) -> list[Figure]:
    model = Decoder(Rung(size=size), 257)
    model.initialise(torch.Generator().manual_seed(0))
    right, wrong = _items(0), _items(1)
    contenders = {
        "hand": _by_hand(model),
        "away": _attacked(model, right, None),
        "toward": _attacked(model, right, wrong),
    }
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for each in rounds({name: _speed(call) for name, call in contenders.items()}, count):
        for name, speed in each.items():
            found[name].append(speed)
    result = []
    for name in ("away", "toward"):
        slower = ratio(found["hand"], found[name])  # speeds, so the time of ours over theirs
        result.append(
            Figure(
                name=f"{size}: a step of a latent attack ({name}), against its passes by hand", value=slower.median,
                unit="x time", target=f"<= {MOST}", reached=slower.median <= MOST, low=slower.low, high=slower.high,
            )
        )  # fmt: skip
    return result


def _items(seed: int) -> list[Item]:
    """Prompts that do not depend on the seed, with answers that do."""
    prompts = np.random.default_rng(0).integers(0, 257, (ITEMS, PROMPT))
    answers = np.random.default_rng(seed).integers(0, 257, (ITEMS, ANSWER))
    return [
        Item(
            tokens=np.concatenate([prompt, answer[:-1]]),
            after=np.arange(PROMPT, PROMPT + ANSWER),
            targets=answer,
            answer=PROMPT,
        )
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def _attacked(model: Decoder, right: list[Item], wrong: list[Item] | None) -> Callable[[], None]:
    loss = AttackLoss(
        right, wrong, sites=(Site(layer=1),), radius=0.3, steps=STEPS, step_size=0.5, random=False, strength=1.0,
        batch=BATCH, key=(0, "bench"), device="cpu",
    )  # fmt: skip
    steps = iter(range(2**62))

    def step() -> None:
        loss(model, next(steps), Metrics()).backward()

    return step


def _by_hand(model: Decoder) -> Callable[[], None]:
    items = _items(0)[:BATCH]
    tokens = torch.from_numpy(np.stack([item.tokens for item in items]))
    targets = torch.from_numpy(np.stack([item.targets for item in items])).flatten()
    zero = torch.zeros(*tokens.shape, model.architecture.width)
    weights = list(model.parameters())

    def loss(perturbation: Tensor) -> Tensor:
        def add(module: Any, args: Any, output: Tensor) -> Tensor:
            return output + perturbation

        handle = model.blocks[0].register_forward_hook(add)
        try:
            hidden = model.hidden(model.embed(tokens))[:, PROMPT - 1 :]
        finally:
            handle.remove()
        return F.cross_entropy(model.logits(hidden).flatten(0, 1), targets)

    def step() -> None:
        for weight in weights:
            weight.requires_grad_(False)
        for _ in range(STEPS):
            perturbation = zero.clone().requires_grad_()
            torch.autograd.grad(loss(perturbation), perturbation)
        for weight in weights:
            weight.requires_grad_(True)
        loss(zero).backward()

    return step


def _speed(call: Callable[[], None]) -> Callable[[], float]:
    """Steps per second of CPU time, over SECONDS_A_TURN."""

    def turn() -> float:
        began, steps = time.process_time(), 0
        while time.process_time() - began < SECONDS_A_TURN:
            call()
            steps += 1
        return steps / (time.process_time() - began)

    return turn
