from __future__ import annotations

import pytest
import torch

from halflife.models.decoder import Decoder


@pytest.fixture(autouse=True)
def random_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh decoder's head is 0, so no prompt could change its logits: give it a random one."""
    initialise = Decoder.initialise

    def with_random_head(model: Decoder, generator: torch.Generator) -> None:
        initialise(model, generator)
        with torch.no_grad():
            model.head.weight.normal_(std=0.125, generator=generator)

    monkeypatch.setattr(Decoder, "initialise", with_random_head)
