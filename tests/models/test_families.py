"""Families of released models: described, loaded and continued alike, whatever their attention, names or logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from halflife.models import hugging_face
from halflife.models.kv_cache import KVCache
from halflife.models.model import Model
from halflife.models.prepare import prepare_model
from tests.models import tiny

EACH = [
    *(pytest.param(family, id=family) for family in (*tiny.WINDOWED, *tiny.NAMED)),
    *(pytest.param(family, id=family, marks=pytest.mark.slow) for family in tiny.PLAIN),
]


@pytest.mark.parametrize("family", EACH)
def test_a_family_is_counted_loaded_and_continued_as_transformers_has_it(
    family: str, results: Path, tmp_path: Path
) -> None:
    theirs = tiny.configured(family)
    released = prepare_model(str(tiny.folder(tmp_path / "model", family)), results)
    assert released.parameters + released.embedding_parameters(0) == sum(map(torch.numel, theirs.parameters()))
    assert (released.depth, released.width) == (2, 32)
    ours = hugging_face.load(released).eval()
    tokens = torch.randint(tiny.VOCABULARY, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens, use_cache=False).logits, rtol=1e-6, atol=1e-6)
        embedded = ours.embed(tokens)
        whole = ours.hidden(embedded)
        residuals = ours.residuals(embedded)
        assert len(residuals) == released.depth + 1
        assert torch.equal(residuals[-1], whole)
        _, past = ours.prefill(embedded[:, :25], torch.tensor([25, 20]))
        found = continued(ours, torch.stack([embedded[0, 25:40], embedded[1, 20:35]]), past)
        expected = torch.stack([whole[0, 25:40], whole[1, 20:35]])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def continued(model: Model, x: torch.Tensor, past: KVCache) -> torch.Tensor:
    return model.hidden_at(x, torch.arange(x.shape[1]).expand(len(x), -1), past)


@pytest.mark.parametrize("family", ["mistral", "gpt_neo"])
def test_text_longer_than_the_window_is_generated_as_the_whole_is_read(family: str, results: Path, tmp_path: Path):
    """Padding in the text and then in the prompt, followed by single tokens, as in generation behind soft prompts."""
    model = hugging_face.load(prepare_model(str(tiny.folder(tmp_path / "model", family)), results)).eval()
    x = model.embed(torch.randint(tiny.VOCABULARY, (2, 30), generator=torch.Generator().manual_seed(2)))
    parts = torch.tensor([[12, 3, 1, 1], [9, 5, 1, 1]])
    ends = parts.cumsum(1)
    past = None
    with torch.no_grad():
        for lengths, end in zip(parts.T, ends.T, strict=True):
            rows = [row[stop - length : stop] for row, length, stop in zip(x, lengths, end, strict=True)]
            hidden, past = model.prefill(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths, past)
            for row, (length, stop) in enumerate(zip(lengths, end, strict=True)):
                whole = model.hidden(x[row : row + 1, :stop])[0, -1]
                torch.testing.assert_close(hidden[row, length - 1], whole, rtol=1e-5, atol=1e-5)
