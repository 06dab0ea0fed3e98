"""Which tokens' embeddings a prompt may begin at."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from halflife.data.codecs import load
from halflife.data.tokenizers import Characters
from halflife.prompts.initialization import Initializer
from halflife.prompts.soft_prompt import SoftPrompt, Vocabulary


def test_random_tokens_are_of_text_and_neither_special_nor_the_end_of_a_document() -> None:
    codec = load(Characters(alphabet="abc", special=("<0=0>", "<0=1>")), Path())
    embed = nn.Embedding.from_pretrained(torch.eye(codec.size))
    parts: Any = SimpleNamespace(embed=embed), SimpleNamespace(name="target")
    model, target = parts
    vectors = Initializer(model, codec, target, 0).vectors(SoftPrompt(tokens=100, initial=Vocabulary()))
    assert set(vectors.argmax(1).tolist()) == {0, 1, 2}
