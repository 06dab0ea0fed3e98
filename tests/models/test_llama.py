"""Our decoder exported to Hugging Face's format and read back, with the same logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from halflife.models import hugging_face
from halflife.models.decoder import Decoder
from halflife.models.ladder import Rung
from halflife.models.llama import llama
from halflife.models.prepare import prepare_model
from tests.models import tiny


@pytest.mark.parametrize("size", ["30k", "200k"])
def test_exported_and_read_back_the_logits_are_equal(size: str, tmp_path: Path) -> None:
    model = Decoder(Rung(size=size), 300).eval()
    model.initialise(torch.Generator().manual_seed(0))
    torch.nn.init.normal_(model.head.weight, std=0.2)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    llama(model, context=64, eos=0).save_pretrained(tmp_path)
    tiny.tokenizer().save(str(tmp_path / "tokenizer.json"))
    released = prepare_model(str(tmp_path), tmp_path / "results")
    assert released.shape.context == 64
    tokens = torch.randint(0, 300, (2, 24))
    with torch.no_grad():
        again = hugging_face.load(released).eval()(tokens)
        torch.testing.assert_close(again, model(tokens), rtol=1e-4, atol=1e-5)
    assert released.embedding_parameters(0) == model.architecture.embedding_parameters(300)
