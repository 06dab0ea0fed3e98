"""Rewards of documents that a model writes, by the exact posterior of their attributes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from halflife.data.attributes import AttributeText, symbols_of
from halflife.errors import UserError
from halflife.evaluation.targets import Item, Part
from halflife.rng import generator
from halflife.tasks.base import Example
from halflife.training.rewards import Reward, RewardSetting, Score


@dataclass(frozen=True, kw_only=True)
class FirstSymbols:
    """A target whose prompts are the first symbols of documents, uniform as in the grammar's text, and whose answers
    are the rest of some document."""

    text: AttributeText
    length: int
    """Symbols of a document"""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.length < 2:
            raise UserError(f"documents of {self.length} symbols given: expected at least 2")

    @property
    def name(self) -> str:
        return "document"

    @property
    def characters(self) -> int:
        return self.length

    def examples(self, part: Part, count: int, results: Path) -> Sequence[Example]:
        grammar = self.text.grammar
        _, symbols = grammar.sample(generator(self.seed, "first symbols", part), count, self.length)
        texts = ["".join(grammar.alphabet[symbol] for symbol in row) for row in symbols]
        return [Example(prompt=text[:1], answer=text[1:]) for text in texts]


@dataclass(frozen=True, kw_only=True)
class AttributeReward(Reward):
    """The log-probability that a document has these values, in nats, at its end. With beta 1 the best policy is then
    the exact conditional (arXiv 2205.11275)."""

    text: AttributeText
    told: tuple[int, ...]
    """One for each attribute; UNTOLD: any"""
    permuted: bool = False
    """Give every document the reward of another one: the null, which rewards nothing"""

    def __post_init__(self) -> None:
        """Raises UserError for values that the text does not have."""
        replace(self.text, fixed=self.told)

    def check(self, items: Sequence[Item], *, length: int, end: int | None) -> None:
        if end is not None or len({item.answer for item in items}) > 1:
            raise UserError("reward of attributes given: expected prompts of one length, and stops=False")

    def prepare(self, setting: RewardSetting) -> Score:
        import torch  # only where a stage runs

        grammar, told = self.text.grammar, np.array(self.told)
        ids = np.concatenate(setting.codec.encode_many(list(grammar.alphabet)))

        def score(rollouts: Any) -> Any:
            documents = torch.cat([rollouts.inputs, rollouts.tokens[:, -1:]], 1).cpu().numpy()
            found = torch.from_numpy(grammar.log_posterior(symbols_of(documents, ids), told)).to(rollouts.tokens.device)
            return rollouts.at_end(found.roll(1, 0) if self.permuted else found)

        return score
