"""Which attributes the texts have that a model writes, by the exact posterior of its grammar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from halflife.data.attributes import AttributeText
from halflife.data.tokenizers import special_ids
from halflife.data.transforms import check_special
from halflife.errors import UserError
from halflife.evaluation.probe import Measurement, Probe, Setting
from halflife.rng import generator


@dataclass(frozen=True, kw_only=True)
class AttributeScore(Probe):
    """Do the documents that a model writes have these values? Measures `score`, the mean over documents of the exact
    posterior probability that they have, and `documents`. The first symbol is uniform, as in the grammar's text."""

    engines: ClassVar[tuple[str, ...]] = ("torch",)

    text: AttributeText
    told: tuple[int, ...]
    """One for each attribute; UNTOLD: any"""
    count: int = 128
    length: int = 32
    """Symbols of each document"""
    before: tuple[str, ...] = ()
    """Special tokens that stand before each document"""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1 or self.length < 2:
            raise UserError(f"{self.count} documents of {self.length} symbols given: expected 1 of 2 at least")

    def tokens_scored(self, sequence: int) -> float:
        return float(self.count * (self.length + len(self.before)))

    def prepare(self, setting: Setting) -> Measurement:
        """Raises UserError for values that the text does not have, for documents longer than the model reads, and for
        special tokens that the tokenizer does not have."""
        if self.length + len(self.before) > setting.sequence:
            raise UserError(
                f"documents of {self.length} symbols given: the model reads {setting.sequence}; shorten them"
            )
        special = special_ids(setting.tokenizer)
        check_special(self.before, special)
        ids = self.text.symbol_ids(setting.tokenizer, setting.results)
        classify = self.text.classifier(self.told, setting.tokenizer, setting.results)
        rng = generator(self.seed, "attribute score")
        first = rng.integers(len(ids), size=self.count)
        draws = rng.random((1, self.count, self.length - 1))
        slots = np.tile(np.array([special[name] for name in self.before], dtype=np.int64), (self.count, 1))
        prompts = list(np.concatenate([slots, ids[first][:, None]], axis=1))

        def measure(model: Any) -> dict[str, float]:
            from halflife.evaluation.rollouts import sample  # imports torch
            from halflife.evaluation.scoring import evaluating

            with evaluating(model):
                found = sample(
                    model, prompts, np.arange(self.count), draws, temperature=1.0, vocabulary=int(ids.max()) + 1
                )
            tokens = np.concatenate([ids[first][:, None], found.tokens.cpu().numpy()], axis=1)
            return {"score": float(np.exp(classify(tokens)).mean()), "documents": float(self.count)}

        return measure
