"""Known concepts: what is true of each token of a text, as labels that features can be compared with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halflife.data.attributes import AttributeText, symbols_of
from halflife.data.tokenizers import Tokenizer
from halflife.errors import UserError
from halflife.evaluation.texts import Rows

Labels = NDArray[np.bool_]


class Concepts:
    """Base of descriptions of concepts: frozen dataclasses. One of your own is a class in a module that your study
    imports."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        raise NotImplementedError(f"{type(self).__name__} names no concepts")

    def labels(self, rows: Rows, tokenizer: Tokenizer, results: Path) -> Labels:
        """Texts (count, length) of tokens -> whether each concept holds at each token, (count, length, concepts)."""
        raise NotImplementedError(f"{type(self).__name__} labels no tokens")


@dataclass(frozen=True, kw_only=True)
class AttributeConcepts(Concepts):
    """Of an attribute grammar's text: the current symbol, the one before, both together, and each value of each
    attribute, where the exact posterior of the text so far is at least `certainty`."""

    text: AttributeText
    certainty: float = 0.9

    def __post_init__(self) -> None:
        """Raises UserError for a certainty out of range: of two values, one is always above 0.5."""
        if not 0.5 < self.certainty < 1:
            raise UserError(f"certainty {self.certainty} of a concept given: expected between 0.5 and 1")

    @cached_property
    def names(self) -> tuple[str, ...]:
        grammar = self.text.grammar
        letters = grammar.alphabet
        return (
            *letters,
            *(f"after {letter}" for letter in letters),
            *(f"{before}{now}" for before, now in product(letters, repeat=2)),
            *(f"attribute {a} is {v}" for a in range(grammar.attributes) for v in range(grammar.values)),
        )

    def labels(self, rows: Rows, tokenizer: Tokenizer, results: Path) -> Labels:
        grammar = self.text.grammar
        symbols = symbols_of(rows, self.text.symbol_ids(tokenizer, results))
        now = symbols[..., None] == np.arange(grammar.symbols)
        before = np.zeros_like(now)
        before[:, 1:] = now[:, :-1]
        pairs = (before[..., :, None] & now[..., None, :]).reshape(*symbols.shape, -1)
        values = np.empty((*symbols.shape, grammar.attributes * grammar.values), dtype=bool)
        for part in grammar.chunks(*symbols.shape):
            known = grammar.marginals(grammar.posterior(symbols[part])) >= self.certainty
            values[part] = known.reshape(*known.shape[:2], -1)
        return np.concatenate([now, before, pairs, values], axis=-1)
