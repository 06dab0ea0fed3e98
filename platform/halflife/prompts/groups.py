"""Groups of prompts that are fitted together, as one batch of a frozen model, independently of one another."""

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
from halflife.models.model import Model
from halflife.models.released import Released
from halflife.prompts.adam import PromptAdam
from halflife.prompts.batch import PromptBatch
from halflife.prompts.generation import generate, texts_to_continue
from halflife.prompts.scoring import PromptScores, Texts, cut, prefill, score_prompts, score_targets
from halflife.prompts.soft_prompt import Direct, FitConfig, SoftPrompt
from halflife.rng import generator
from halflife.training.memory import GPU_ACTIVATION_SHARE

CPU_GROUP_BYTES = 64 * 2**20
"""Activations of a group on a CPU. Up to this size a larger group takes less time per prompt, since the overhead of
each operation is shared; far beyond it a step no longer fits the caches. A constant, independent of the machine: a
resumed fit must form the same groups."""
MAX_LENGTH_RATIO = 1.25
"""Largest ratio of text lengths between targets in one group."""
CPU_CACHE_BYTES = 2**30
"""Largest cache of keys and values of training texts; without it they are computed for each batch."""


@dataclass(frozen=True)
class Run:
    """One prompt fitted to one target, and its initial vectors."""

    name: str
    target: TargetItems
    prompt: SoftPrompt
    start: Tensor
    """(k, width), in units of the embeddings' root mean square."""


def grouped(
    runs: Sequence[Run], config: FitConfig, architecture: Rung | Released, vocabulary: int, device: torch.device
) -> list[list[Run]]:
    """Runs in groups, as large as pays off: prompts with one position and input model and similar k, each fitted to all
    targets of the group. Within a group runs are ordered prompt by prompt, with one order of targets."""
    budget = float(CPU_GROUP_BYTES)
    if device.type == "cuda":
        budget = GPU_ACTIVATION_SHARE * torch.cuda.get_device_properties(device).total_memory
    token_bytes = architecture.activation_bytes(vocabulary) * config.batch
    rows: dict[tuple[str, ...], list[Run]] = {}
    for run in sorted(runs, key=lambda run: (*_kind(run, config), run.prompt.tokens, run.prompt.name)):
        rows.setdefault((*_kind(run, config), run.target.name), []).append(run)
    waiting = [sorted(row, key=lambda run: (run.prompt.tokens, run.prompt.name)) for row in rows.values()]
    waiting.sort(key=lambda row: (_kind(row[0], config), [run.prompt.name for run in row], row[0].target.longest))
    groups: list[list[Run]] = []
    while waiting:
        first, longest = waiting[0], waiting[0][0].target.longest + waiting[0][-1].prompt.tokens
        if len(first) > 1 and len(first) * token_bytes * longest > budget:  # some of the prompts, to one target
            count = 1
            while (count + 1) * token_bytes * (first[count].prompt.tokens + first[0].target.longest) <= budget:
                count += 1
            groups.append(first[:count])
            waiting[0] = first[count:]
            continue
        together = [waiting.pop(0)]
        while waiting and _compatible(first, waiting[0], config):
            longest = waiting[0][0].target.longest + first[-1].prompt.tokens
            if (len(together) + 1) * len(first) * token_bytes * longest > budget:
                break
            together.append(waiting.pop(0))
        groups.append([run for of_prompt in zip(*together, strict=True) for run in of_prompt])
    return groups


def _kind(run: Run, config: FitConfig) -> tuple[str, ...]:
    """Equal for runs that can share a group."""
    rows, conditions = min(config.batch, len(run.target.train)), run.target.conditions
    trained = "trained" if run.prompt.tokens else "baseline"
    return str(run.prompt.position), repr(run.prompt.model), trained, str(rows), str(conditions)


def _compatible(first: Sequence[Run], other: Sequence[Run], config: FitConfig) -> bool:
    """Whether two targets have the same prompts and texts of about one length, since padding costs as much as text."""
    same = [run.prompt for run in first] == [run.prompt for run in other]
    lengths = sorted(row[0].target.longest for row in (first, other))
    return same and _kind(first[0], config) == _kind(other[0], config) and lengths[1] <= MAX_LENGTH_RATIO * lengths[0]


@dataclass(frozen=True)
class Scored:
    """One run on its target's held-out items."""

    nats: np.ndarray
    """(items,) minus the log-probability of an item's targets."""
    correct: np.ndarray
    """(items,) bool."""
    num_targets: np.ndarray
    """(items,) tokens scored."""

    @property
    def loss(self) -> float:
        """Nats per target token, over all items together."""
        return float(self.nats.sum() / self.num_targets.sum())


class PromptGroup:
    """Several prompts, each fitted to several targets: parameters, optimizer and texts."""

    def __init__(
        self, model: Model, runs: Sequence[Run], config: FitConfig, scale: float, device: torch.device
    ) -> None:
        """`runs`: prompt by prompt, with one order of targets, as `grouped` returns them. Raises UserError when the
        position lies outside a text."""
        self.model, self.runs, self.config, self.device = model, runs, config, device
        prompt = runs[0].prompt
        self.targets = list({run.target.name: run.target for run in runs}.values())
        self.trained = bool(prompt.tokens and config.steps)
        starts = [run.start.to(device) for run in runs]
        self.batch = PromptBatch(prompt.model, starts, conditions=self.targets[0].conditions, scale=scale)
        self.tokens = self.batch.tokens[:: len(self.targets)]
        self.conditional = not isinstance(prompt.model, Direct)
        lrs = torch.tensor([run.prompt.learning_rate for run in runs], device=device)
        self.optimizer = PromptAdam(
            self.batch.parameters, lrs, weight_decay=config.weight_decay, max_grad_norm=config.max_grad_norm
        )
        baseline = not prompt.tokens
        self.held_out = [cut(target.held_out, prompt.position, baseline=baseline).to(device) for target in self.targets]
        self.losses = torch.zeros(len(runs), device=device)
        """Sums of training losses since the last call of `mean_losses`."""
        self.counted = 0
        most = max(len(target.train) for target in self.targets)
        self.final_steps = max(1, min(config.steps // 2, max(config.steps // 10, -(-most // config.batch))))
        """Number of last steps over which the final training loss is averaged: a tenth, and all examples if possible.
        The mean of all steps would favour prompts with a low initial loss over those with a low final one."""
        if self.trained:
            self.texts = cut([item for target in self.targets for item in target.train], prompt.position).to(device)
            first = np.cumsum([0, *(len(target.train) for target in self.targets)])
            orders = [_order(len(t.train), config, t.name) + at for t, at in zip(self.targets, first[:-1], strict=True)]
            self.order = np.concatenate(orders, axis=1)
            self.past = _prefill_all(model, self.texts, device)

    def step(self, step: int, lr_multiplier: float) -> None:
        """One step of every run, on the examples of this step."""
        index = torch.from_numpy(self.order[step]).to(self.device)
        texts, targets = self.texts.take(index), len(self.targets)
        past = prefill(self.model, texts) if self.past is None else self.past.take(index, texts.before.shape[1])
        found = score_targets(self.model, self._prompts(texts), self.tokens, texts, past)
        target = found.text // (len(index) // targets)
        sums = found.nats.new_zeros(len(self.tokens), targets).index_add(1, target, found.nats)
        losses = (sums / target.bincount(minlength=targets)).flatten()
        losses.sum().backward()
        self.losses += losses.detach()
        self.counted += 1
        self.optimizer.step(lr_multiplier)

    def mean_losses(self) -> list[float]:
        """Each run's training loss, nats per token, over the steps since the last call."""
        means = (self.losses / max(1, self.counted)).tolist()
        self.losses.zero_()
        self.counted = 0
        return means

    def scores(self) -> list[Scored]:
        """Every run on its target's held-out texts."""
        found = [self._scores_of(target) for target in range(len(self.targets))]
        return [
            Scored(of_target.nats[prompt], of_target.correct[prompt], of_target.num_targets)
            for prompt in range(len(self.tokens))
            for of_target in found
        ]

    def _scores_of(self, target: int) -> PromptScores:
        which = slice(target, None, len(self.targets))
        with torch.no_grad():
            return score_prompts(
                self.model,
                lambda conditions: self._vectors(conditions[None], which),
                self.tokens,
                self.held_out[target],
            )

    def generated(self) -> list[dict[str, int]]:
        """For every run, the target's counts over completions of its held-out prompts, generated under the wanted
        conditions; empty if the target does not judge."""
        found = [self._generated_of(target) for target in range(len(self.targets))]
        return [of_target[prompt] for prompt in range(len(self.tokens)) for of_target in found]

    def _generated_of(self, target: int) -> list[dict[str, int]]:
        judged, position = self.targets[target].judged, self.runs[0].prompt.position
        if judged is None:
            return [{} for _ in self.tokens]
        # without a prompt there is no position: texts are read whole
        texts = texts_to_continue(judged.prompts, position if int(self.tokens.max()) else "start").to(self.device)
        conditions = torch.tensor([[judged.conditions]], device=self.device)
        with torch.no_grad():
            prompts = self._vectors(conditions, slice(target, None, len(self.targets)))
        longest = texts.before.shape[1] + texts.after.shape[1] + int(self.tokens.max()) + judged.max_tokens
        completions: list[list[np.ndarray]] = [[] for _ in self.tokens]
        chunk = max(1, SCORED_TOKENS // (longest * len(self.tokens)))
        for index in torch.arange(len(texts), device=self.device).split(chunk):
            part = generate(self.model, prompts, self.tokens, texts.take(index), judged.max_tokens, judged.end)
            for of_prompt, more in zip(completions, part, strict=True):
                of_prompt.extend(more)
        counts = [Counter({"trials": len(of_prompt)}) for of_prompt in completions]
        for count, of_prompt in zip(counts, completions, strict=True):
            for prompt, completion in zip(judged.prompts, of_prompt, strict=True):
                count.update(judged.judge(prompt, completion))
        return [dict(count) for count in counts]

    def norms(self) -> list[float]:
        """Root mean square of each prompt's numbers, at its target's first conditions, in units of the embeddings'."""
        first = torch.stack([texts.conditions[:1] for texts in self.held_out])
        squares = self._vectors(first.repeat(len(self.tokens), 1, 1)).detach().square().sum((1, 2, 3))
        numbers = self.batch.tokens * self.runs[0].start.shape[1]
        return (squares / numbers).sqrt().div(self.batch.scale).tolist()

    def _prompts(self, texts: Texts) -> Tensor:
        """(prompts, texts or 1, longest, width), for texts target by target."""
        targets = len(self.targets)
        conditions = texts.conditions.unflatten(0, (targets, -1))
        found = self._vectors(conditions.repeat(len(self.tokens), 1, 1))
        if targets == 1:
            return found
        found = found.expand(-1, conditions.shape[1], -1, -1)
        return found.unflatten(0, (-1, targets)).flatten(1, 2)

    def _vectors(self, conditions: Tensor, which: slice = slice(None)) -> Tensor:
        """(runs, texts or 1, longest, width) from conditions (runs or 1, texts, m)."""
        return self.batch.vectors(conditions if self.conditional else None, which)


def _order(texts: int, config: FitConfig, target: str) -> np.ndarray:
    """(steps, batch): the examples of each step, epoch after epoch, each in an order of its own. Depends on the seed
    and the target alone, so all runs of a target see the same examples."""
    batch = min(config.batch, texts)
    epochs = -(-config.steps * batch // texts)
    drawn = [generator(config.seed, "prompt batch", target, epoch).permutation(texts) for epoch in range(epochs)]
    return np.concatenate(drawn)[: config.steps * batch].reshape(config.steps, batch)


def _prefill_all(model: Model, texts: Texts, device: torch.device) -> KVCache | None:
    """Keys and values of all texts; None if nothing precedes the prompts, or the cache would be too large."""
    budget = float(CPU_CACHE_BYTES)
    if device.type == "cuda":
        budget = GPU_ACTIVATION_SHARE * torch.cuda.get_device_properties(device).total_memory
    if not texts.before.shape[1]:
        return None
    parts: list[KVCache] = []
    with torch.no_grad():
        for index in torch.arange(len(texts), device=device).split(16):
            lengths = texts.before_lengths[index]
            parts.append(model.prefill(model.embed(texts.before[index]), lengths)[1])
            if parts[0].bytes / parts[0].texts * len(texts) > budget:
                return None
    return joined(parts)
