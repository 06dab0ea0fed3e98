"""Greedy decoding behind soft prompts, for tasks with several right answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from halflife.evaluation.targets import Item
from halflife.models.model import Model
from halflife.prompts.batch import insert
from halflife.prompts.scoring import Texts, cut, prefill


def texts_to_continue(prompts: Sequence[np.ndarray], position: Literal["start", "answer"] | int) -> Texts:
    """Prompts in tokens, for generation with a soft prompt at `position`; "answer" is after all of each.

    Raises UserError when the position lies outside one.
    """
    nothing = np.zeros(1, dtype=np.int64)
    return cut(
        [Item(tokens=tokens, after=np.array([len(tokens)]), targets=nothing, answer=len(tokens)) for tokens in prompts],
        position,
    )


def generate(
    model: Model, prompts: Tensor, tokens: Tensor, texts: Texts, most: int, end: int | None = None
) -> list[list[np.ndarray]]:
    """For every prompt and text, up to `most` greedily decoded tokens, those before the token `end`.

    `prompts` (prompts, texts or 1, longest, width), of which each has `tokens` (prompts,); `texts` from
    `texts_to_continue`. Keys and values are cached, so every further token costs one position. The model must be in
    evaluation mode.
    """
    count = len(prompts)
    with torch.no_grad():
        past = prefill(model, texts)
        after = model.embed(texts.after)
        rows = insert(prompts.to(after.dtype), tokens, after)
        lengths = (tokens[:, None] + texts.after_lengths).flatten()
        hidden, past = model.prefill(rows, lengths, past.repeated(count) if past else None)
        last = hidden[torch.arange(len(rows), device=rows.device), lengths - 1]
        one, generated = torch.ones_like(lengths), []
        ended = torch.zeros_like(lengths, dtype=torch.bool)
        for number in range(most):
            generated.append(model.logits(last).argmax(-1))
            if end is not None:
                ended |= generated[-1] == end
            if number + 1 == most or bool(ended.all()):
                break
            hidden, past = model.prefill(model.embed(generated[-1])[:, None], one, past)
            last = hidden[:, 0]
    found = torch.stack(generated, dim=1).cpu().numpy().reshape(count, len(texts), -1)
    return [[_until(row, end) for row in of_prompt] for of_prompt in found]


def _until(row: np.ndarray, end: int | None) -> np.ndarray:
    return row if end is None or end not in row else row[: row.tolist().index(end)]
