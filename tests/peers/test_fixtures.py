"""halflife against small files that other tools wrote: test_NAME.py here, run by `make test-peers`, writes them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from halflife.interpret import sae_lens
from halflife.models.hugging_face import load
from halflife.models.prepare import prepare_model
from tests.models import tiny

FOLDER = Path(__file__).parent


def test_logits_behind_a_soft_prompt_are_those_of_peft(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tests.peers.llama import TOKENS, model

    model().save_pretrained(tmp_path / "model")
    tiny.tokenizer().save(str(tmp_path / "model" / "tokenizer.json"))
    ours = load(prepare_model(str(tmp_path / "model"), tmp_path / "results")).eval()
    vectors = load_file(FOLDER / "peft" / "adapter_model.safetensors")["prompt_embeddings"]
    assert vectors.shape == (3, 32)
    with torch.no_grad():
        rows = torch.cat([vectors, ours.embed(torch.tensor(TOKENS))])[None]
        found = ours.logits(ours.hidden(rows))[0]
    expected = json.loads((FOLDER / "peft" / "logits.json").read_text())
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["topk", "topk-rescaled", "jumprelu", "standard"])
def test_codes_and_reconstructions_of_a_dictionary_are_those_of_sae_lens(kind: str) -> None:
    folder = FOLDER / "sae_lens" / kind
    expected = json.loads((folder / "expected.json").read_text())
    dictionary = sae_lens.read(folder)
    codes, normal = dictionary.codes(torch.tensor(expected["vectors"]))
    assert 0 < int((codes > 0).sum()) < codes.numel()
    np.testing.assert_allclose(codes.numpy(), expected["codes"], rtol=1e-5, atol=1e-5)
    rebuilt = dictionary.decoded(codes, normal)
    np.testing.assert_allclose(rebuilt.numpy(), expected["reconstructions"], rtol=1e-5, atol=1e-5)
