"""What an update by policy gradient costs, beside one batched forward and backward pass over the same tokens; and what
its rollouts cost, in such passes.

In CPU time of one thread, interleaved. With KL to the start, whose probabilities belong to the rollouts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from halflife.models.decoder import Decoder
from halflife.models.ladder import Rung
from halflife.tasks.base import Example
from halflife.training.policy_gradient import PolicyGradient
from halflife.training.reinforce import Reinforce
from halflife.training.rewards import AnswerReward
from halflife.training.seen import Metrics
from halflife.training.terms import frozen_copy
from tests.benchmarks.figure import Figure
from tests.benchmarks.interleaved import ratio, rounds

MOST = 1.3
SIZE, VOCABULARY, PROMPTS, GROUP, PROMPT, LENGTH = "60k", 64, 8, 8, 24, 24
SECONDS_A_TURN = 0.4


class Numbers:
    """Prompts for the description, which is not prepared here."""

    name, characters = "numbers", PROMPT + LENGTH

    def examples(self, part: str, count: int, results: Any) -> list[Example]:
        return []


def figures(count: int) -> list[Figure]:
    torch.set_num_threads(1)
    model = Decoder(Rung(size=SIZE), VOCABULARY)
    model.initialise(torch.Generator().manual_seed(0))
    described = PolicyGradient(
        target=Numbers(), reward=AnswerReward(), prompts=PROMPTS, group=GROUP, length=LENGTH, beta=0.1
    )
    prompts = list(np.random.default_rng(0).integers(0, VOCABULARY, (128, PROMPT)))
    reinforce = Reinforce(
        described,
        prompts,
        lambda rollouts: (rollouts.tokens % 2).float(),
        length=LENGTH,
        end=None,
        vocabulary=VOCABULARY,
        reference=frozen_copy(model),
        key=(0, "bench"),
    )
    rollouts, rewards, before = reinforce.experience(model, 0)

    def plain() -> None:
        hidden = model.hidden(model.embed(rollouts.inputs))[:, -LENGTH:]
        F.cross_entropy(model.logits(hidden).flatten(0, 1), rollouts.tokens.flatten()).backward()

    def update() -> None:
        reinforce.update(model, rollouts, rewards, before, Metrics()).backward()

    contenders = {"plain": plain, "update": update, "rollouts": lambda: reinforce.experience(model, 0)}
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for each in rounds({name: _speed(call) for name, call in contenders.items()}, count):
        for name, speed in each.items():
            found[name].append(speed)
    times = {name: ratio(found["plain"], found[name]) for name in ("update", "rollouts")}
    where = f"{SIZE}, {PROMPTS * GROUP} completions of {LENGTH} tokens after {PROMPT}"
    return [
        Figure(
            name=f"{where}: update, against a forward and backward pass", value=times["update"].median, unit="x time",
            target=f"<= {MOST}", reached=times["update"].median <= MOST, low=times["update"].low,
            high=times["update"].high,
        ),
        Figure(
            name=f"{where}: rollouts, against the same", value=times["rollouts"].median, unit="x time",
            target="printed", reached=True, low=times["rollouts"].low, high=times["rollouts"].high,
        ),
    ]  # fmt: skip


def _speed(call: Callable[[], object]) -> Callable[[], float]:
    def turn() -> float:
        began, done = time.process_time(), 0
        while time.process_time() - began < SECONDS_A_TURN:
            call()
            done += 1
        return done / (time.process_time() - began)

    return turn
