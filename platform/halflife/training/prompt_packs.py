"""Packs: prompts that are fitted together, as one batch of a frozen model, each by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from halflife.evaluation.prompted import (
    PromptedModel,
    PromptScores,
    Texts,
    answer,
    cut,
    remember,
    score_prompts,
)
from halflife.evaluation.targets import TargetItems
from halflife.models.ladder import Rung
from halflife.models.past import Past, joined
from halflife.models.prompts import Direct, SoftPrompt
from halflife.models.released import Released
from halflife.models.soft_prompts import Bank
from halflife.rng import generator
from halflife.training.memory import GPU_ACTIVATION_SHARE
from halflife.training.prompt_adam import PromptAdam

CPU_PACK_BYTES = 64 * 2**20
"""Activations of a pack on a CPU. Up to here a larger pack takes less time for each prompt, as the cost of calling an
operation is shared; far beyond, a step falls out of the caches. A constant, not what the machine has: a resumed fit
must cut packs alike."""
CPU_PAST_BYTES = 2**30
"""Keys and values of training texts that are kept; what is larger is computed anew for each batch."""


@dataclass(frozen=True)
class Run:
    """One prompt fitted to one target, and what it begins with."""

    name: str
    target: TargetItems
    prompt: SoftPrompt
    start: Tensor
    """(k, width), in units of the embeddings' root mean square."""
    seed: int
    """Draws the input model's network."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """How prompts are fitted: what all runs of a stage share."""

    steps: int
    batch: int
    """Examples a step, for each run."""
    weight_decay: float = 0.0
    clip: float = 1.0
    seed: int = 0


def packed(
    runs: Sequence[Run], course: Course, architecture: Rung | Released, vocabulary: int, device: torch.device
) -> list[list[Run]]:
    """Runs cut into packs: those of one target, position and input model, neighbours in k, as many as pay."""
    budget = float(CPU_PACK_BYTES)
    if device.type == "cuda":
        budget = GPU_ACTIVATION_SHARE * torch.cuda.get_device_properties(device).total_memory
    each = architecture.activation_bytes(vocabulary) * course.batch
    ordered = sorted(runs, key=lambda run: (*_sort(run), run.prompt.tokens, run.name))
    packs: list[list[Run]] = []
    for run in ordered:
        longest = run.prompt.tokens + run.target.longest
        fits = packs and _sort(packs[-1][0]) == _sort(run)
        if fits and (len(packs[-1]) + 1) * each * longest <= budget:
            packs[-1].append(run)
        else:
            packs.append([run])
    return packs


def _sort(run: Run) -> tuple[str, ...]:
    """Runs of one sort can share a pack."""
    trained = "trained" if run.prompt.tokens else "baseline"
    return run.target.name, str(run.prompt.position), repr(run.prompt.model), trained


class Pack:
    """Some runs with one target, position and input model: their numbers, their optimizer, their texts."""

    def __init__(
        self, model: PromptedModel, runs: Sequence[Run], course: Course, scale: float, device: torch.device
    ) -> None:
        """Raises UserError when the position lies outside a text."""
        self.model, self.runs, self.course, self.device = model, runs, course, device
        prompt, self.target = runs[0].prompt, runs[0].target
        self.trained = bool(prompt.tokens and course.steps)
        starts = [run.start.to(device) for run in runs]
        self.bank = Bank(
            prompt.model, starts, conditions=self.target.conditions, scale=scale, seeds=[run.seed for run in runs]
        )
        self.conditional = not isinstance(prompt.model, Direct)
        rates = torch.tensor([run.prompt.learning_rate for run in runs], device=device)
        self.optimizer = PromptAdam(self.bank.parameters, rates, weight_decay=course.weight_decay, clip=course.clip)
        self.held_out = cut(self.target.held_out, prompt.position, baseline=not prompt.tokens).to(device)
        self.losses = torch.zeros(len(runs), device=device)
        """Of the training batches since `mean_losses` was asked."""
        self.counted = 0
        if self.trained:
            self.texts = cut(self.target.train, prompt.position).to(device)
            self.order = _order(len(self.texts), course, self.target.name)
            self.past = _all_remembered(model, self.texts, device)

    def step(self, step: int, multiple: float) -> None:
        """One step of every run, on the examples of this step."""
        at = torch.from_numpy(self.order[step]).to(self.device)
        texts = self.texts.take(at)
        past = remember(self.model, texts) if self.past is None else self.past.take(at, texts.before.shape[1])
        prompts = self._vectors(texts.conditions)
        nats = answer(self.model, prompts, self.bank.tokens, texts, past).nats
        losses = nats.mean(1)
        losses.sum().backward()
        self.losses += losses.detach()
        self.counted += 1
        self.optimizer.step(multiple)

    def mean_losses(self) -> list[float]:
        """Each run's training loss, nats a token, over the steps since this was last asked."""
        means = (self.losses / max(1, self.counted)).tolist()
        self.losses.zero_()
        self.counted = 0
        return means

    def scores(self) -> PromptScores:
        """Every run on the held-out texts."""
        with torch.no_grad():
            return score_prompts(self.model, self._vectors, self.bank.tokens, self.held_out)

    def norms(self) -> list[float]:
        """Of each prompt, without conditions, over the embeddings' root mean square: sqrt(mean of its squares)."""
        squares = self._vectors(self.held_out.conditions[:1]).detach().square().sum((1, 2, 3))
        numbers = self.bank.tokens * self.runs[0].start.shape[1]
        return (squares / numbers).sqrt().div(self.bank.scale).tolist()

    def _vectors(self, conditions: Tensor) -> Tensor:
        return self.bank.vectors(conditions[None] if self.conditional else None)


def _order(texts: int, course: Course, target: str) -> np.ndarray:
    """(steps, batch): which examples each step sees, pass after pass, each in an order of its own. Of the seed and the
    target alone, so that all runs of a target see the same."""
    batch = min(course.batch, texts)
    passes = -(-course.steps * batch // texts)
    drawn = [generator(course.seed, "prompt batch", target, number).permutation(texts) for number in range(passes)]
    return np.concatenate(drawn)[: course.steps * batch].reshape(course.steps, batch)


def _all_remembered(model: PromptedModel, texts: Texts, device: torch.device) -> Past | None:
    """Keys and values of all texts; None where there is nothing before the prompts, or they take too much."""
    budget = float(CPU_PAST_BYTES)
    if device.type == "cuda":
        budget = GPU_ACTIVATION_SHARE * torch.cuda.get_device_properties(device).total_memory
    if not texts.before.shape[1]:
        return None
    parts: list[Past] = []
    with torch.no_grad():
        for at in torch.arange(len(texts), device=device).split(16):
            lengths = texts.before_lengths[at]
            parts.append(model.remembered(model.embed(texts.before[at]), lengths)[1])
            if parts[0].bytes / parts[0].texts * len(texts) > budget:
                return None
    return joined(parts)
