"""A frozen model asked behind soft prompts: how unlikely each token of the answers is, for every prompt and text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from halflife.evaluation import SCORED_TOKENS
from halflife.evaluation.scoring import LanguageModel
from halflife.evaluation.targets import Item, check_position
from halflife.models.kv_cache import KVCache
from halflife.prompts.batch import insert


class PromptedModel(LanguageModel, Protocol):
    """A language model that can go on from texts that it has read."""

    def hidden_at(self, x: Tensor, columns: Tensor, past: KVCache | None = None) -> Tensor: ...
    def prefill(self, x: Tensor, lengths: Tensor, past: KVCache | None = None) -> tuple[Tensor, KVCache]: ...


@dataclass(frozen=True)
class Texts:
    """Items cut where the soft prompt stands: what is before it, what is after it, and what is asked there."""

    before: Tensor
    """(items, longest) int64, right-padded; of length 0 where prompts stand at the start."""
    before_lengths: Tensor
    after: Tensor
    """(items, longest) int64, right-padded."""
    after_lengths: Tensor
    asked: Tensor
    """(items, most) int64: after so many tokens of `after`; -1 where an item asks for less than others."""
    targets: Tensor
    """(items, most) int64: what is to be said there."""
    conditions: Tensor
    """(items, m) float32."""

    def take(self, at: Tensor) -> Texts:
        """Those items, cut to the longest among them."""
        before, after = self.before_lengths[at], self.after_lengths[at]
        asked = self.asked[at]
        most = int((asked >= 0).sum(1).max())
        return Texts(
            self.before[at][:, : int(before.max())],
            before,
            self.after[at][:, : int(after.max())],
            after,
            asked[:, :most],
            self.targets[at][:, :most],
            self.conditions[at],
        )

    def to(self, device: torch.device | str) -> Texts:
        return Texts(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))

    def __len__(self) -> int:
        return len(self.after)


def cut(items: Sequence[Item], position: Literal["start", "answer"] | int, *, baseline: bool = False) -> Texts:
    """Items for prompts at `position`. What is asked before that place is left out, as no prompt can change it.

    `baseline`: for k = 0: the same is asked, of whole texts. Raises UserError when the position lies outside a text,
    or nothing is asked after it.
    """
    at = [0 if position == "start" else item.answer if position == "answer" else int(position) for item in items]
    check_position(items, position)
    asked = [item.after[item.after >= place] for item, place in zip(items, at, strict=True)]
    targets = [item.targets[item.after >= place] for item, place in zip(items, at, strict=True)]
    if baseline:
        at = [0] * len(items)
    conditions = np.array([item.conditions for item in items], dtype=np.float32).reshape(len(items), -1)
    before = [item.tokens[:place] for item, place in zip(items, at, strict=True)]
    after = [item.tokens[place:] for item, place in zip(items, at, strict=True)]
    return Texts(
        _padded(before, 0),
        torch.tensor([len(part) for part in before]),
        _padded(after, 0),
        torch.tensor([len(part) for part in after]),
        _padded([part - place for part, place in zip(asked, at, strict=True)], -1),
        _padded(targets, 0),
        torch.from_numpy(conditions),
    )


def _padded(rows: Sequence[np.ndarray], filling: int) -> Tensor:
    result = np.full((len(rows), max(map(len, rows))), filling, dtype=np.int64)
    for at, row in enumerate(rows):
        result[at, : len(row)] = row
    return torch.from_numpy(result)


def remember(model: PromptedModel, texts: Texts) -> KVCache | None:
    """Keys and values of what stands before the prompts, without gradients; None where nothing does."""
    if not texts.before.shape[1]:
        return None
    with torch.no_grad():
        return model.prefill(model.embed(texts.before), texts.before_lengths)[1]


@dataclass(frozen=True)
class Answers:
    """For every prompt, the tokens asked of all texts one after another."""

    nats: Tensor
    """(prompts, asked): minus the log-probability of the right token; differentiable."""
    right: Tensor
    """(prompts, asked) bool: it is the model's first choice."""
    text: Tensor
    """(asked,): which text asks."""


def answer(model: PromptedModel, prompts: Tensor, tokens: Tensor, texts: Texts, past: KVCache | None = None) -> Answers:
    """Ask every text behind every prompt: prompts (prompts, texts or 1, longest, width) of which each has `tokens`.

    `past` is `remember(model, texts)`.
    """
    after = model.embed(texts.after)
    rows = insert(prompts.to(after.dtype), tokens, after)
    columns = (tokens[:, None, None] + texts.asked - 1).masked_fill(texts.asked < 0, 0).flatten(0, 1)
    hidden = model.hidden_at(rows, columns, past).unflatten(0, (len(prompts), len(texts)))
    text, which = (texts.asked >= 0).nonzero(as_tuple=True)
    logits = model.logits(hidden[:, text, which]).float()
    targets = texts.targets[text, which].expand(len(prompts), -1)
    nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
    return Answers(nats, logits.argmax(-1) == targets, text)


@dataclass(frozen=True)
class PromptScores:
    """For every prompt and text."""

    nats: np.ndarray
    """(prompts, texts) float64: minus the log-probability of all that is asked of a text."""
    correct: np.ndarray
    """(prompts, texts) bool: all of it is the model's first choice."""
    asked: np.ndarray
    """(texts,) tokens asked."""

    @property
    def losses(self) -> np.ndarray:
        """(prompts,) nats a token asked, over all texts together."""
        return self.nats.sum(1) / self.asked.sum()


def score_prompts(
    model: PromptedModel, prompts: Callable[[Tensor], Tensor], tokens: Tensor, texts: Texts
) -> PromptScores:
    """Score every prompt on every text, without gradients, some texts at once.

    `prompts` gives (prompts, texts or 1, longest, width) from the conditions (texts, m) of some texts; each has
    `tokens` (prompts,). The model is to be in evaluation mode.
    """
    longest = max(1, texts.before.shape[1] + texts.after.shape[1] + int(tokens.max()))
    some = max(1, SCORED_TOKENS // (longest * len(tokens)))
    nats, wrong, asked = [], [], []
    with torch.no_grad():
        for at in torch.arange(len(texts), device=tokens.device).split(some):
            part = texts.take(at)
            found = answer(model, prompts(part.conditions), tokens, part, remember(model, part))
            zero = found.nats.new_zeros(len(tokens), len(at))
            nats.append(zero.index_add(1, found.text, found.nats))
            wrong.append(zero.index_add(1, found.text, (~found.right).float()))
            asked.append((part.asked >= 0).sum(1))
    together = torch.cat(nats, dim=1).double().cpu().numpy()
    correct = (torch.cat(wrong, dim=1) == 0).cpu().numpy()
    return PromptScores(together, correct, torch.cat(asked).cpu().numpy())
