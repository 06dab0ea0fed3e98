"""Initial vectors of soft prompts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from halflife.data.tokenizers import Codec
from halflife.evaluation.targets import TargetItems
from halflife.models.model import Model
from halflife.prompts.batch import scale_of
from halflife.prompts.results import Fitted
from halflife.prompts.soft_prompt import (
    Initial,
    Noise,
    SoftPrompt,
    Text,
    Vocabulary,
    WarmStart,
    Words,
    words_of,
)
from halflife.rng import generator


class Initializer:
    """Draws the initial vectors of prompts for one target."""

    def __init__(
        self,
        model: Model,
        codec: Codec,
        target: TargetItems,
        seed: int,
        earlier: Mapping[str, Mapping[str, Fitted]] | None = None,
    ) -> None:
        """`earlier`: for warm starts, the fitted runs of earlier stages, by stage key and run name."""
        self.codec, self.target, self.seed, self.earlier = codec, target, seed, earlier or {}
        weight = model.embed.weight
        assert isinstance(weight, Tensor)
        self.weight, self.scale = weight.detach(), scale_of(model.embed)

    def vectors(self, prompt: SoftPrompt) -> Tensor:
        """(k, width) float32 in units of the embeddings' root mean square, on the model's device.

        They depend on the seed, the target, k, the restart and the kind of initialization alone.
        """
        key = (self.seed, "soft prompt", self.target.name, prompt.tokens, prompt.restart)
        return self._vectors(prompt.initial, prompt.tokens, key).to(self.weight.device, torch.float32)

    def _vectors(self, initial: Initial, k: int, key: tuple[int | str, ...]) -> Tensor:
        width = self.weight.shape[1]
        rng = generator(*key, type(initial).__name__)
        if isinstance(initial, Noise) or not k:
            scale = initial.scale if isinstance(initial, Noise) else 0.0
            return torch.from_numpy(scale * rng.standard_normal((k, width))).float()
        if isinstance(initial, WarmStart):
            runs = self.earlier[initial.stage.key]
            candidates = [runs[f"{self.target.name}.{name}"] for name in initial.prompts]
            known = min(candidates, key=lambda run: run.selection_loss).vectors() / self.scale
            return torch.cat([known, self._vectors(initial.rest, k, key)[len(known) :].to(known)])
        tokens = self._tokens(initial, k, rng)
        return self.weight[torch.from_numpy(tokens).to(self.weight.device)].float() / self.scale

    def _tokens(self, initial: Vocabulary | Words | Text, k: int, rng: np.random.Generator) -> np.ndarray:
        if isinstance(initial, Vocabulary):
            drawn = rng.integers(self.codec.size - self.codec.special - 1, size=k)  # no special token is drawn
            return drawn + (drawn >= self.codec.eos)
        if isinstance(initial, Text):
            return np.resize(self.codec.encode(initial.text), k)
        words = words_of(self.target, initial, self.codec)
        chosen = " ".join(words[index] for index in rng.integers(len(words), size=k))  # a word has a token or more
        return self.codec.encode(chosen)[:k]
