from __future__ import annotations

from typing import Any

import pytest
import torch

from halflife.models.decoder import Decoder
from halflife.models.hugging_face import HuggingFaceModel
from halflife.models.kv_cache import KVCache, joined
from halflife.models.ladder import Rung
from tests.models import tiny

FAMILIES = ("decoder", *tiny.FAMILIES)


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Any:
    return made(request.param)


def made(family: str) -> Any:
    if family == "decoder":
        decoder = Decoder(Rung(size="20k"), tiny.VOCABULARY)
        decoder.initialise(torch.Generator().manual_seed(0))
        with torch.no_grad():  # a fresh head is zero, and every token as likely as another
            decoder.head.weight.normal_(generator=torch.Generator().manual_seed(1))
        return decoder.requires_grad_(False).eval()
    pytest.importorskip("transformers")
    architecture: Any = None
    return HuggingFaceModel(tiny.model(family), architecture).requires_grad_(False).eval()


def tokens(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(tiny.VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def continued(model: Any, x: torch.Tensor, past: KVCache) -> torch.Tensor:
    """The residual stream at every position of `x` after `past`."""
    return model.hidden_at(x, torch.arange(x.shape[1]).expand(len(x), -1), past)


def test_a_continuation_of_a_cached_text_equals_the_whole(model: Any) -> None:
    lengths, after = [5, 9, 7], 4
    before = tokens(3, max(lengths))
    _, past = model.prefill(model.embed(before), torch.tensor(lengths))
    further = tokens(6, after, seed=1)
    found = continued(model, model.embed(further), past)
    for row in range(6):
        whole = torch.cat([before[row % 3, : lengths[row % 3]], further[row]])[None]
        expected = model.hidden(model.embed(whole))[0, -after:]
        torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-5)


def test_gradients_through_a_shared_cache_equal_those_of_the_whole_pass(model: Any) -> None:
    before, further = model.embed(tokens(1, 6)), model.embed(tokens(2, 3, seed=1)).clone().requires_grad_()
    _, past = model.prefill(before, torch.tensor([6]))
    continued(model, further, past).square().sum().backward()
    found, further.grad = further.grad, None
    model.hidden(torch.cat([before.expand(2, -1, -1), further], dim=1))[:, 6:].square().sum().backward()
    torch.testing.assert_close(found, further.grad, rtol=1e-4, atol=1e-4)


def test_a_cache_grows_token_by_token(model: Any) -> None:
    lengths, further = torch.tensor([2, 4]), tokens(2, 3, seed=1)
    before = tokens(2, 4)
    _, past = model.prefill(model.embed(before), lengths)
    hidden = before
    for at in range(3):
        hidden, past = model.prefill(model.embed(further[:, at : at + 1]), torch.ones(2, dtype=torch.long), past)
    for row, length in enumerate(lengths):
        whole = torch.cat([before[row, :length], further[row]])[None]
        torch.testing.assert_close(hidden[row, -1], model.hidden(model.embed(whole))[0, -1], rtol=1e-4, atol=1e-5)


def test_texts_are_taken_and_joined(model: Any) -> None:
    _, past = model.prefill(model.embed(tokens(4, 6)), torch.tensor([6, 2, 3, 1]))
    again = joined([past.take(torch.tensor([at]), 6) for at in range(4)])
    assert all(torch.equal(a, b) for a, b in zip(past.keys + past.values, again.keys + again.values, strict=True))
    short = past.take(torch.tensor([3, 1]), 2)
    assert (short.texts, short.length, short.lengths.tolist()) == (2, 2, [1, 2])


@pytest.mark.parametrize("before", [0, 3])
def test_the_residual_stream_at_some_positions_equals_that_of_the_whole_pass(model: Any, before: int) -> None:
    past = model.prefill(model.embed(tokens(2, before)), torch.tensor([before, 1]))[1] if before else None
    x, columns = model.embed(tokens(4, 6, seed=1)), torch.tensor([[0, 5, 2], [4, 4, 1], [5, 0, 0], [3, 2, 1]])
    found, whole = model.hidden_at(x, columns, past), continued(model, x, past) if past else model.hidden(x)
    torch.testing.assert_close(found, whole[torch.arange(4)[:, None], columns], rtol=1e-5, atol=1e-5)
