from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from halflife.errors import UserError
from halflife.prompts.generation import generate, texts_to_continue
from tests.models.test_kv_cache import FAMILIES, made
from tests.models.tiny import VOCABULARY

RNG = np.random.default_rng(0)
TEXTS = [RNG.integers(VOCABULARY, size=length) for length in (3, 6, 4)]
HARD = RNG.integers(VOCABULARY, size=(2, 4))


def greedy(model: Any, tokens: np.ndarray, most: int) -> np.ndarray:
    """Recomputed without a cache for each token."""
    row = torch.from_numpy(tokens)[None]
    with torch.no_grad():
        for _ in range(most):
            row = torch.cat([row, model(row)[:, -1:].argmax(-1)], dim=1)
    return row[0, len(tokens) :].numpy()


@pytest.mark.parametrize("position", ["start", "answer", 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_behind_an_embedded_text_it_generates_what_follows_the_text(family: str, position: Any) -> None:
    model = made(family)
    ks = [4, 2]
    prompts = model.embed(torch.from_numpy(HARD))[:, None]
    found = generate(model, prompts, torch.tensor(ks), texts_to_continue(TEXTS, position), most=5)
    for hard, k, of_prompt in zip(HARD, ks, found, strict=True):
        for text, generated in zip(TEXTS, of_prompt, strict=True):
            place = {"start": 0, "answer": len(text)}.get(position, position)
            whole = np.concatenate([text[:place], hard[:k], text[place:]])
            assert generated.tolist() == greedy(model, whole, 5).tolist()


def test_generation_stops_before_the_end_token() -> None:
    model = made("decoder")
    prompts, one = model.embed(torch.from_numpy(HARD[:1]))[:, None], torch.tensor([4])
    ((free,),) = generate(model, prompts, one, texts_to_continue(TEXTS[:1], "start"), most=6)
    ((ended,),) = generate(model, prompts, one, texts_to_continue(TEXTS[:1], "start"), most=6, end=int(free[3]))
    assert ended.tolist() == free[: free.tolist().index(free[3])].tolist()


def test_a_position_outside_the_text_is_refused() -> None:
    with pytest.raises(UserError, match="after 4 tokens of the text given: the shortest text has 3"):
        texts_to_continue(TEXTS, 4)
