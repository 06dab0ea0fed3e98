"""Rollouts: completions sampled from a model, with keys and values kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from halflife.models.model import Model


@dataclass(frozen=True)
class Rollouts:
    """`group` completions of each of some prompts: row c * prompts + p is the c-th completion of prompt p."""

    inputs: Tensor
    """(rows, longest) int64: prompt and completion, right-padded, without the completion's last column"""
    columns: Tensor
    """(rows, length) int64: the columns of `inputs` that predict the completion's tokens"""
    tokens: Tensor
    """(rows, length) int64: the completions"""
    valid: Tensor
    """(rows, length) bool: up to the token that ends the completion, which is among them"""
    items: Tensor
    """(rows,) int64: which item each row continues"""
    group: int

    def by_group(self, values: Tensor) -> Tensor:
        """(rows, ...) -> (group, prompts, ...)."""
        return values.unflatten(0, (self.group, -1))

    def chosen(self, rows: Tensor) -> Rollouts:
        """Some of the rows, which are no groups any more."""
        parts = (each[rows] for each in (self.inputs, self.columns, self.tokens, self.valid, self.items))
        return Rollouts(*parts, group=1)

    def at_end(self, values: Tensor) -> Tensor:
        """From one value for each row, (rows,), to (rows, length): that value at the last valid token, else 0."""
        result = torch.zeros(self.tokens.shape, dtype=torch.float32, device=self.tokens.device)
        last = self.valid.sum(1) - 1
        return result.scatter(1, last[:, None], values.float()[:, None])


def sample(
    model: Model,
    prompts: Sequence[np.ndarray],
    items: np.ndarray,
    draws: np.ndarray,
    *,
    temperature: float,
    vocabulary: int,
    end: int | None = None,
) -> Rollouts:
    """Complete the prompts of `items` (prompts,) by as many tokens as `draws` has columns.

    `draws` (group, prompts, length), uniform on [0, 1): every token is read off its distribution's cumulative sum, so
    that a rollout depends on weights and draws alone. Only tokens below `vocabulary` are sampled. The model must be in
    evaluation mode, and gradients off.
    """
    device = next(iter(model.parameters())).device
    group, count, length = draws.shape
    chosen = [prompts[item] for item in items]
    lengths = torch.tensor([len(prompt) for prompt in chosen], device=device)
    longest = int(lengths.max())
    rows = torch.zeros(count, longest, dtype=torch.int64, device=device)
    for row, prompt in enumerate(chosen):
        rows[row, : len(prompt)] = torch.from_numpy(prompt)
    hidden, past = model.prefill(model.embed(rows), lengths)
    last = hidden[torch.arange(count, device=device), lengths - 1].repeat(group, 1)
    past = past.repeated(group)
    uniform = torch.from_numpy(draws.reshape(group * count, length)).to(device)
    one = torch.ones(group * count, dtype=torch.int64, device=device)
    ended = torch.zeros(group * count, dtype=torch.bool, device=device)
    tokens, valid = [], []
    for step in range(length):
        chances = (model.logits(last)[:, :vocabulary].double() / temperature).softmax(-1).cumsum(-1)
        token = torch.searchsorted(chances, uniform[:, step, None] * chances[:, -1:], right=True)[:, 0]
        tokens.append(token.clamp_max(vocabulary - 1))
        valid.append(~ended)
        if end is not None:
            ended = ended | (tokens[-1] == end)
        if step + 1 < length and not bool(ended.all()):
            hidden, past = model.prefill(model.embed(tokens[-1])[:, None], one, past)
            last = hidden[:, 0]
        else:
            break
    completions, lengths = torch.stack(tokens, 1), lengths.repeat(group)
    columns = lengths[:, None] - 1 + torch.arange(completions.shape[1], device=device)
    inputs = torch.zeros(len(completions), longest + completions.shape[1] - 1, dtype=torch.int64, device=device)
    inputs[:, :longest] = rows.repeat(group, 1)
    inputs.scatter_(1, columns[:, 1:], completions[:, :-1])
    return Rollouts(
        inputs=inputs,
        columns=columns,
        tokens=completions,
        valid=torch.stack(valid, 1),
        items=torch.from_numpy(items).to(device).repeat(group),
        group=group,
    )


def log_probabilities(model: Model, rollouts: Rollouts, *, temperature: float, vocabulary: int) -> Tensor:
    """(rows, length, vocabulary), float32: of the policy, the model at this temperature, at each of the tokens."""
    hidden = model.hidden_at(model.embed(rollouts.inputs), rollouts.columns)
    return (model.logits(hidden)[..., :vocabulary].float() / temperature).log_softmax(-1)
