"""A tiny frozen decoder and items to fit soft prompts to."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from halflife.evaluation.targets import Item, TargetItems
from halflife.models.decoder import Decoder
from halflife.models.ladder import Rung
from halflife.models.start import freeze
from halflife.prompts.batch import scale_of
from halflife.prompts.groups import Run
from halflife.prompts.soft_prompt import FitConfig, SoftPrompt
from halflife.rng import generator

VOCABULARY = 24
CONFIG = FitConfig(steps=6, batch=3)


def frozen(vocabulary: int = VOCABULARY, seed: int = 0) -> Any:
    """An untrained decoder with a random head, so that its logits depend on the text."""
    decoder = Decoder(Rung(size="20k"), vocabulary)
    decoder.initialise(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        decoder.head.weight.normal_(std=0.125, generator=torch.Generator().manual_seed(seed + 1))
    return freeze(decoder)


def items(count: int, seed: int = 0, conditions: int = 0, longest: int = 9) -> list[Item]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        prompt, answer = rng.integers(VOCABULARY, size=rng.integers(3, longest)), rng.integers(VOCABULARY, size=3)
        found.append(
            Item(
                tokens=np.concatenate([prompt, answer[:-1]]),
                after=np.arange(len(prompt), len(prompt) + 3),
                targets=answer,
                answer=len(prompt),
                conditions=tuple(rng.standard_normal(conditions)),
            )
        )
    return found


def target(name: str = "made", conditions: int = 0, seed: int = 0, longest: int = 9) -> TargetItems:
    return TargetItems(name, items(8, seed, conditions, longest), items(5, seed + 100, conditions, longest))


def run(model: Any, prompt: SoftPrompt, of: TargetItems) -> Run:
    """A run initialized with its own noise."""
    width = model.embed.weight.shape[1]
    start = generator("start", of.name, prompt.name).standard_normal((prompt.tokens, width))
    return Run(f"{of.name}.{prompt.name}", of, prompt, torch.from_numpy(start).float())


__all__ = ["CONFIG", "VOCABULARY", "frozen", "items", "run", "scale_of", "target"]
