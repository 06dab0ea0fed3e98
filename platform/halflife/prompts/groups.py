"""Packs: prompts that are fitted together, as one batch of a frozen model, each by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from halflife.evaluation import SCORED_TOKENS
from halflife.evaluation.targets import TargetItems
from halflife.models.kv_cache import KVCache, joined
from halflife.models.ladder import Rung
from halflife.models.released import Released
from halflife.prompts.adam import PromptAdam
from halflife.prompts.batch import PromptBatch
from halflife.prompts.describe import Direct, SoftPrompt
from halflife.prompts.generation import generate, openings
from halflife.prompts.scoring import (
    PromptedModel,
    PromptScores,
    Texts,
    answer,
    cut,
    remember,
    score_prompts,
)
from halflife.rng import generator
from halflife.training.memory import GPU_ACTIVATION_SHARE

CPU_PACK_BYTES = 64 * 2**20
"""Activations of a pack on a CPU. Up to here a larger pack takes less time for each prompt, as the cost of calling an
operation is shared; far beyond, a step falls out of the caches. A constant, not what the machine has: a resumed fit
must cut packs alike."""
PADDED = 1.25
"""Targets of one pack have texts that differ in length by at most so much."""
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
class FitConfig:
    """How prompts are fitted: what all runs of a stage share."""

    steps: int
    batch: int
    """Examples a step, for each run."""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    seed: int = 0


def packed(
    runs: Sequence[Run], course: FitConfig, architecture: Rung | Released, vocabulary: int, device: torch.device
) -> list[list[Run]]:
    """Runs cut into packs, as many at once as pay: prompts with one position and input model, neighbours in k, each
    fitted to all targets of the pack. Within a pack runs stand prompt by prompt, in one order of targets."""
    budget = float(CPU_PACK_BYTES)
    if device.type == "cuda":
        budget = GPU_ACTIVATION_SHARE * torch.cuda.get_device_properties(device).total_memory
    each = architecture.activation_bytes(vocabulary) * course.batch
    rows: dict[tuple[str, ...], list[Run]] = {}
    for run in sorted(runs, key=lambda run: (*_sort(run, course), run.prompt.tokens, run.prompt.name)):
        rows.setdefault((*_sort(run, course), run.target.name), []).append(run)
    waiting = [sorted(row, key=lambda run: (run.prompt.tokens, run.prompt.name)) for row in rows.values()]
    waiting.sort(key=lambda row: (_sort(row[0], course), [run.prompt.name for run in row], row[0].target.longest))
    packs: list[list[Run]] = []
    while waiting:
        first, longest = waiting[0], waiting[0][0].target.longest + waiting[0][-1].prompt.tokens
        if len(first) > 1 and len(first) * each * longest > budget:  # a part of the prompts, to one target
            count = 1
            while (count + 1) * each * (first[count].prompt.tokens + first[0].target.longest) <= budget:
                count += 1
            packs.append(first[:count])
            waiting[0] = first[count:]
            continue
        together = [waiting.pop(0)]
        while waiting and _alike(first, waiting[0], course):
            longest = waiting[0][0].target.longest + first[-1].prompt.tokens
            if (len(together) + 1) * len(first) * each * longest > budget:
                break
            together.append(waiting.pop(0))
        packs.append([run for of_prompt in zip(*together, strict=True) for run in of_prompt])
    return packs


def _sort(run: Run, course: FitConfig) -> tuple[str, ...]:
    """Runs of one sort can share a pack."""
    rows, conditions = min(course.batch, len(run.target.train)), run.target.conditions
    trained = "trained" if run.prompt.tokens else "baseline"
    return str(run.prompt.position), repr(run.prompt.model), trained, str(rows), str(conditions)


def _alike(first: Sequence[Run], other: Sequence[Run], course: FitConfig) -> bool:
    """Whether two targets have the same prompts, and texts of about one length: what is padded costs as much."""
    same = [run.prompt for run in first] == [run.prompt for run in other]
    lengths = sorted(row[0].target.longest for row in (first, other))
    return same and _sort(first[0], course) == _sort(other[0], course) and lengths[1] <= PADDED * lengths[0]


@dataclass(frozen=True)
class Scored:
    """One run on its target's held-out items."""

    nats: np.ndarray
    """(items,) minus the log-probability of all that is asked of an item."""
    correct: np.ndarray
    """(items,) bool."""
    asked: np.ndarray
    """(items,) tokens."""

    @property
    def loss(self) -> float:
        """Nats a token, over all items together."""
        return float(self.nats.sum() / self.asked.sum())


class PromptGroup:
    """Some prompts, each fitted to some targets: their numbers, their optimizer, their texts."""

    def __init__(
        self, model: PromptedModel, runs: Sequence[Run], course: FitConfig, scale: float, device: torch.device
    ) -> None:
        """`runs`: prompt by prompt, in one order of targets, as `packed` gives them. Raises UserError when the position
        lies outside a text."""
        self.model, self.runs, self.course, self.device = model, runs, course, device
        prompt = runs[0].prompt
        self.targets = list({run.target.name: run.target for run in runs}.values())
        self.trained = bool(prompt.tokens and course.steps)
        self.bank = PromptBatch(
            prompt.model,
            [run.start.to(device) for run in runs],
            conditions=self.targets[0].conditions,
            scale=scale,
            seeds=[run.seed for run in runs],
        )
        self.tokens = self.bank.tokens[:: len(self.targets)]
        self.conditional = not isinstance(prompt.model, Direct)
        rates = torch.tensor([run.prompt.learning_rate for run in runs], device=device)
        self.optimizer = PromptAdam(
            self.bank.parameters, rates, weight_decay=course.weight_decay, max_grad_norm=course.max_grad_norm
        )
        baseline = not prompt.tokens
        self.held_out = [cut(target.held_out, prompt.position, baseline=baseline).to(device) for target in self.targets]
        self.losses = torch.zeros(len(runs), device=device)
        """Of the training batches since `mean_losses` was asked."""
        self.counted = 0
        most, batch = max(len(target.train) for target in self.targets), course.batch
        self.settled = max(1, min(course.steps // 2, max(course.steps // 10, -(-most // batch))))
        """Last steps whose training losses say what a prompt came to: a tenth, and all examples if they can. The mean
        of all steps would favour what begins low over what ends low."""
        if self.trained:
            self.texts = cut([item for target in self.targets for item in target.train], prompt.position).to(device)
            first = np.cumsum([0, *(len(target.train) for target in self.targets)])
            orders = [_order(len(t.train), course, t.name) + at for t, at in zip(self.targets, first[:-1], strict=True)]
            self.order = np.concatenate(orders, axis=1)
            self.past = _all_remembered(model, self.texts, device)

    def step(self, step: int, lr_multiplier: float) -> None:
        """One step of every run, on the examples of this step."""
        at = torch.from_numpy(self.order[step]).to(self.device)
        texts, targets = self.texts.take(at), len(self.targets)
        past = remember(self.model, texts) if self.past is None else self.past.take(at, texts.before.shape[1])
        found = answer(self.model, self._prompts(texts), self.tokens, texts, past)
        target = found.text // (len(at) // targets)
        sums = found.nats.new_zeros(len(self.tokens), targets).index_add(1, target, found.nats)
        losses = (sums / target.bincount(minlength=targets)).flatten()
        losses.sum().backward()
        self.losses += losses.detach()
        self.counted += 1
        self.optimizer.step(lr_multiplier)

    def mean_losses(self) -> list[float]:
        """Each run's training loss, nats a token, over the steps since this was last asked."""
        means = (self.losses / max(1, self.counted)).tolist()
        self.losses.zero_()
        self.counted = 0
        return means

    def scores(self) -> list[Scored]:
        """Every run on its target's held-out texts."""
        found = [self._scores_of(at) for at in range(len(self.targets))]
        return [
            Scored(of_target.nats[at], of_target.correct[at], of_target.asked)
            for at in range(len(self.tokens))
            for of_target in found
        ]

    def generated(self) -> list[dict[str, int]]:
        """Of every run, counts of what the model says behind it, by itself and under the wanted conditions; empty where
        the target does not judge."""
        found = [self._generated_of(at) for at in range(len(self.targets))]
        return [of_target[at] for at in range(len(self.tokens)) for of_target in found]

    def _generated_of(self, target: int) -> list[dict[str, int]]:
        judged, position = self.targets[target].judged, self.runs[0].prompt.position
        if judged is None:
            return [{} for _ in self.tokens]
        # with no prompt there is no place for one: texts are read whole
        texts = openings(judged.prompts, position if int(self.tokens.max()) else "start").to(self.device)
        conditions = torch.tensor([[judged.conditions]], device=self.device)
        with torch.no_grad():
            prompts = self._vectors(conditions, slice(target, None, len(self.targets)))
        longest = texts.before.shape[1] + texts.after.shape[1] + int(self.tokens.max()) + judged.most
        said: list[list[np.ndarray]] = [[] for _ in self.tokens]
        some = max(1, SCORED_TOKENS // (longest * len(self.tokens)))
        for at in torch.arange(len(texts), device=self.device).split(some):
            part = generate(self.model, prompts, self.tokens, texts.take(at), judged.most, judged.end)
            for of_prompt, more in zip(said, part, strict=True):
                of_prompt.extend(more)
        counts = [Counter({"trials": len(of_prompt)}) for of_prompt in said]
        for count, of_prompt in zip(counts, said, strict=True):
            for prompt, completion in zip(judged.prompts, of_prompt, strict=True):
                count.update(judged.judge(prompt, completion))
        return [dict(count) for count in counts]

    def _scores_of(self, target: int) -> PromptScores:
        its = slice(target, None, len(self.targets))
        with torch.no_grad():
            return score_prompts(
                self.model, lambda conditions: self._vectors(conditions[None], its), self.tokens, self.held_out[target]
            )

    def norms(self) -> list[float]:
        """Of each prompt, at its target's first conditions, over the embeddings' root mean square: sqrt(mean of its
        squares)."""
        first = torch.stack([texts.conditions[:1] for texts in self.held_out])
        squares = self._vectors(first.repeat(len(self.tokens), 1, 1)).detach().square().sum((1, 2, 3))
        numbers = self.bank.tokens * self.runs[0].start.shape[1]
        return (squares / numbers).sqrt().div(self.bank.scale).tolist()

    def _prompts(self, texts: Texts) -> Tensor:
        """(prompts, texts or 1, longest, width), for texts target by target."""
        targets = len(self.targets)
        conditions = texts.conditions.unflatten(0, (targets, -1))
        found = self._vectors(conditions.repeat(len(self.tokens), 1, 1))
        if targets == 1:
            return found
        found = found.expand(-1, conditions.shape[1], -1, -1)
        return found.unflatten(0, (-1, targets)).flatten(1, 2)

    def _vectors(self, conditions: Tensor, its: slice = slice(None)) -> Tensor:
        """(runs, texts or 1, longest, width) from conditions (runs or 1, texts, m)."""
        return self.bank.vectors(conditions if self.conditional else None, its)


def _order(texts: int, course: FitConfig, target: str) -> np.ndarray:
    """(steps, batch): which examples each step sees, pass after pass, each in an order of its own. Of the seed and the
    target alone, so that all runs of a target see the same."""
    batch = min(course.batch, texts)
    passes = -(-course.steps * batch // texts)
    drawn = [generator(course.seed, "prompt batch", target, number).permutation(texts) for number in range(passes)]
    return np.concatenate(drawn)[: course.steps * batch].reshape(course.steps, batch)


def _all_remembered(model: PromptedModel, texts: Texts, device: torch.device) -> KVCache | None:
    """Keys and values of all texts; None where there is nothing before the prompts, or they take too much."""
    budget = float(CPU_PAST_BYTES)
    if device.type == "cuda":
        budget = GPU_ACTIVATION_SHARE * torch.cuda.get_device_properties(device).total_memory
    if not texts.before.shape[1]:
        return None
    parts: list[KVCache] = []
    with torch.no_grad():
        for at in torch.arange(len(texts), device=device).split(16):
            lengths = texts.before_lengths[at]
            parts.append(model.prefill(model.embed(texts.before[at]), lengths)[1])
            if parts[0].bytes / parts[0].texts * len(texts) > budget:
                return None
    return joined(parts)
