"""Families of released models: described, loaded and continued alike, whatever their attention, names or logits."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from halflife.errors import UserError
from halflife.models import hugging_face
from halflife.models.changes import Add, At
from halflife.models.hooks import edited, tapped
from halflife.models.kv_cache import KVCache
from halflife.models.model import Model
from halflife.models.prepare import prepare_model
from halflife.models.sites import Site
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
    assert (released.layers, released.width) == (2, 32)
    ours = hugging_face.load(released).eval()
    tokens = torch.randint(tiny.VOCABULARY, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens, use_cache=False).logits, rtol=1e-6, atol=1e-6)
        embedded = ours.embed(tokens)
        whole = ours.hidden(embedded)
        residuals = ours.residuals(embedded)
        assert len(residuals) == released.layers + 1
        assert torch.equal(residuals[-1], whole)
        _, past = ours.prefill(embedded[:, :25], torch.tensor([25, 20]))
        found = continued(ours, torch.stack([embedded[0, 25:40], embedded[1, 20:35]]), past)
        expected = torch.stack([whole[0, 25:40], whole[1, 20:35]])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


WHOLE = ("falcon", "falcon with alibi", "bloom", "mpt", "granite", "hyperclovax", "opt, narrow embedding")
"""Blocks of these add their parts to the stream inside of the parts, scale them, or project the sum."""


@pytest.mark.parametrize("family", EACH)
def test_activations_of_a_family_are_read_and_changed_as_the_decoders(family: str, results: Path, tmp_path: Path):
    model = hugging_face.load(prepare_model(str(tiny.folder(tmp_path / "model", family)), results)).eval()
    model.requires_grad_(False)
    x = model.embed(torch.randint(tiny.VOCABULARY, (2, 20), generator=torch.Generator().manual_seed(3)))
    theirs = model.model.base_model(inputs_embeds=x, use_cache=False, output_hidden_states=True).hidden_states
    sites = [Site(layer=layer) for layer in range(3)]
    if family in WHOLE:
        with pytest.raises(UserError, match="expected the part 'residual'"):
            model.hook_point(Site(layer=1, part="mlp"))
    else:
        sites += [Site(layer=2, part="attention"), Site(layer=1, part="mlp"), Site(layer=1, part="attention")]
    with tapped(model, sites) as taps:
        whole = model.hidden(x)
    for layer in (0, 1):
        assert torch.equal(taps[Site(layer=layer)], theirs[layer])
    if family not in WHOLE:
        added = taps[Site(layer=1, part="attention")] + taps[Site(layer=1, part="mlp")]
        torch.testing.assert_close(taps[Site(layer=0)] + added, taps[Site(layer=1)], rtol=1e-5, atol=1e-5)
    for site in sites:
        vector = torch.linspace(-1, 1, taps[site].shape[-1])
        with edited(model, {site: At((0, 5, 11), Add(vector))}):
            changed = model.hidden(x)
            _, past = model.prefill(x[:, :7], torch.tensor([7, 7]))
            torch.testing.assert_close(continued(model, x[:, 7:], past), changed[:, 7:], rtol=1e-5, atol=1e-5)
        assert float((changed - whole).abs().max()) > 0.1, site
    assert torch.equal(model.hidden(x), whole)


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


def test_a_family_that_places_tokens_by_column_is_refused_by_name() -> None:
    """Bart's decoder numbers positions by the length of the cache, padding included."""
    from transformers import BartConfig, BartForCausalLM

    architecture: Any = SimpleNamespace(name="tiny", shape=SimpleNamespace(family="bart"))
    config = BartConfig(d_model=32, decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=48, vocab_size=99)
    model = hugging_face.HuggingFaceModel(BartForCausalLM(config), architecture).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    for _ in range(2):
        with pytest.raises(UserError, match="family bart does not continue a text") as refused:
            model.prefill(model.embed(torch.tensor([[1, 2, 3]])), torch.tensor([3]))
        assert "\n" not in str(refused.value)
