"""Scores of a frozen model behind soft prompts: log-probabilities of the targets, for every prompt and text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from halflife.evaluation import SCORED_TOKENS
from halflife.evaluation.targets import Item, check_position
from halflife.models.kv_cache import KVCache
from halflife.models.model import Model
from halflife.prompts.batch import insert


@dataclass(frozen=True)
class Texts:
    """Items cut at the soft prompt's position: the tokens before and after it, and the targets after it."""

    before: Tensor
    """(items, longest) int64, right-padded; of length 0 for prompts at the start."""
    before_lengths: Tensor
    after: Tensor
    """(items, longest) int64, right-padded."""
    after_lengths: Tensor
    target_positions: Tensor
    """(items, most) int64: each target follows this many tokens of `after`; -1 pads items with fewer targets."""
    targets: Tensor
    """(items, most) int64: the correct tokens there."""
    conditions: Tensor
    """(items, m) float32."""

    def take(self, index: Tensor) -> Texts:
        """The items at `index`, cut to the longest among them."""
        before, after = self.before_lengths[index], self.after_lengths[index]
        positions = self.target_positions[index]
        most = int((positions >= 0).sum(1).max())
        return Texts(
            self.before[index][:, : int(before.max())],
            before,
            self.after[index][:, : int(after.max())],
            after,
            positions[:, :most],
            self.targets[index][:, :most],
            self.conditions[index],
        )

    def to(self, device: torch.device | str) -> Texts:
        return Texts(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))

    def __len__(self) -> int:
        return len(self.after)


def cut(items: Sequence[Item], position: Literal["start", "answer"] | int, *, baseline: bool = False) -> Texts:
    """Items for prompts at `position`. Targets before it are left out, since no prompt can change them.

    `baseline`, for k = 0: the same targets, of whole texts. Raises UserError when the position lies outside a text or
    no target follows it.
    """
    places = [0 if position == "start" else item.answer if position == "answer" else int(position) for item in items]
    check_position(items, position)
    after_counts = [item.after[item.after >= place] for item, place in zip(items, places, strict=True)]
    targets = [item.targets[item.after >= place] for item, place in zip(items, places, strict=True)]
    if baseline:
        places = [0] * len(items)
    conditions = np.array([item.conditions for item in items], dtype=np.float32).reshape(len(items), -1)
    before = [item.tokens[:place] for item, place in zip(items, places, strict=True)]
    after = [item.tokens[place:] for item, place in zip(items, places, strict=True)]
    return Texts(
        _padded(before, 0),
        torch.tensor([len(part) for part in before]),
        _padded(after, 0),
        torch.tensor([len(part) for part in after]),
        _padded([counts - place for counts, place in zip(after_counts, places, strict=True)], -1),
        _padded(targets, 0),
        torch.from_numpy(conditions),
    )


def _padded(rows: Sequence[np.ndarray], fill: int) -> Tensor:
    result = np.full((len(rows), max(map(len, rows))), fill, dtype=np.int64)
    for index, row in enumerate(rows):
        result[index, : len(row)] = row
    return torch.from_numpy(result)


def prefill(model: Model, texts: Texts) -> KVCache | None:
    """Keys and values of the tokens before the prompts, without gradients; None if there are none."""
    if not texts.before.shape[1]:
        return None
    with torch.no_grad():
        return model.prefill(model.embed(texts.before), texts.before_lengths)[1]


@dataclass(frozen=True)
class TargetScores:
    """For every prompt, the targets of all texts one after another."""

    nats: Tensor
    """(prompts, targets): minus the log-probability of the correct token; differentiable."""
    correct: Tensor
    """(prompts, targets) bool: the correct token is the argmax."""
    text: Tensor
    """(targets,): index of the text."""


def score_targets(
    model: Model, prompts: Tensor, tokens: Tensor, texts: Texts, past: KVCache | None = None
) -> TargetScores:
    """Score every text behind every prompt: prompts (prompts, texts or 1, longest, width), of which each has `tokens`
    (prompts,).

    `past` is `prefill(model, texts)`.
    """
    after = model.embed(texts.after)
    rows = insert(prompts.to(after.dtype), tokens, after)
    positions = texts.target_positions
    columns = (tokens[:, None, None] + positions - 1).masked_fill(positions < 0, 0).flatten(0, 1)
    hidden = model.hidden_at(rows, columns, past).unflatten(0, (len(prompts), len(texts)))
    text, which = (positions >= 0).nonzero(as_tuple=True)
    logits = model.logits(hidden[:, text, which]).float()
    targets = texts.targets[text, which].expand(len(prompts), -1)
    nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
    return TargetScores(nats, logits.argmax(-1) == targets, text)


@dataclass(frozen=True)
class PromptScores:
    """For every prompt and text."""

    nats: np.ndarray
    """(prompts, texts) float64: minus the log-probability of all targets of a text."""
    correct: np.ndarray
    """(prompts, texts) bool: every target is the argmax."""
    num_targets: np.ndarray
    """(texts,) tokens scored."""

    @property
    def losses(self) -> np.ndarray:
        """(prompts,) nats per target token, over all texts together."""
        return self.nats.sum(1) / self.num_targets.sum()


def score_prompts(model: Model, prompts: Callable[[Tensor], Tensor], tokens: Tensor, texts: Texts) -> PromptScores:
    """Score every prompt on every text, without gradients, in chunks of texts.

    `prompts` gives (prompts, texts or 1, longest, width) from the conditions (texts, m) of a chunk; each has `tokens`
    (prompts,). The model must be in evaluation mode.
    """
    longest = max(1, texts.before.shape[1] + texts.after.shape[1] + int(tokens.max()))
    chunk = max(1, SCORED_TOKENS // (longest * len(tokens)))
    nats, wrong, num_targets = [], [], []
    with torch.no_grad():
        for index in torch.arange(len(texts), device=tokens.device).split(chunk):
            part = texts.take(index)
            found = score_targets(model, prompts(part.conditions), tokens, part, prefill(model, part))
            zero = found.nats.new_zeros(len(tokens), len(index))
            nats.append(zero.index_add(1, found.text, found.nats))
            wrong.append(zero.index_add(1, found.text, (~found.correct).float()))
            num_targets.append((part.target_positions >= 0).sum(1))
    return PromptScores(
        torch.cat(nats, dim=1).double().cpu().numpy(),
        (torch.cat(wrong, dim=1) == 0).cpu().numpy(),
        torch.cat(num_targets).cpu().numpy(),
    )
