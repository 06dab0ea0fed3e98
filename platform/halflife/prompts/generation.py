"""Greedy decoding behind soft prompts: for tasks of which several answers are right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from halflife.evaluation.targets import Item
from halflife.prompts.batch import insert
from halflife.prompts.scoring import PromptedModel, Texts, cut, remember


def openings(prompts: Sequence[np.ndarray], position: Literal["start", "answer"] | int) -> Texts:
    """Prompts in tokens, to go on from behind a soft prompt at `position`; "answer" is after all of each.

    Raises UserError when the position lies outside one.
    """
    nothing = np.zeros(1, dtype=np.int64)
    return cut(
        [Item(tokens=tokens, after=np.array([len(tokens)]), targets=nothing, answer=len(tokens)) for tokens in prompts],
        position,
    )


def generate(
    model: PromptedModel, prompts: Tensor, tokens: Tensor, texts: Texts, most: int, end: int | None = None
) -> list[list[np.ndarray]]:
    """For every prompt and text, the tokens that the model finds likeliest, one after another: `most`, or up to the
    token `end`, which is left out.

    `prompts` (prompts, texts or 1, longest, width), of which each has `tokens` (prompts,); `texts` of `openings`. What
    has been read is kept as keys and values, so that every further token costs one position. The model is to be in
    evaluation mode.
    """
    count = len(prompts)
    with torch.no_grad():
        past = remember(model, texts)
        after = model.embed(texts.after)
        rows = insert(prompts.to(after.dtype), tokens, after)
        lengths = (tokens[:, None] + texts.after_lengths).flatten()
        hidden, past = model.prefill(rows, lengths, past.repeated(count) if past else None)
        last = hidden[torch.arange(len(rows), device=rows.device), lengths - 1]
        one, said = torch.ones_like(lengths), []
        ended = torch.zeros_like(lengths, dtype=torch.bool)
        for at in range(most):
            said.append(model.logits(last).argmax(-1))
            if end is not None:
                ended |= said[-1] == end
            if at + 1 == most or bool(ended.all()):
                break
            hidden, past = model.prefill(model.embed(said[-1])[:, None], one, past)
            last = hidden[:, 0]
    found = torch.stack(said, dim=1).cpu().numpy().reshape(count, len(texts), -1)
    return [[_until(row, end) for row in of_prompt] for of_prompt in found]


def _until(row: np.ndarray, end: int | None) -> np.ndarray:
    return row if end is None or end not in row else row[: row.tolist().index(end)]
