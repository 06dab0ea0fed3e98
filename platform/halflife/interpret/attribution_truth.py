"""Known properties of texts, by how far each token's past speaks for them: what features may stand for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halflife.data.attributes import AttributeText, symbols_of
from halflife.data.tokenizers import Tokenizer
from halflife.errors import UserError
from halflife.evaluation.texts import Rows

LEAST = 1e-6
"""Probabilities are kept this far from 0 and 1, so that log-odds are finite."""


class Properties:
    """Base of descriptions of properties: frozen dataclasses. One of your own is a class in a module that your study
    imports."""

    @property
    def names(self) -> tuple[str, ...]:
        raise NotImplementedError(f"{type(self).__name__} names no properties")

    def values(self, rows: Rows, tokenizer: Tokenizer, results: Path) -> NDArray[np.float32]:
        """Texts (count, length) of tokens -> a number for each token and property, (count, length, properties)."""
        raise NotImplementedError(f"{type(self).__name__} has no values")


@dataclass(frozen=True, kw_only=True)
class AttributeOdds(Properties):
    """Of an attribute grammar's text: the exact log-odds that an attribute has a value, given the text so far."""

    text: AttributeText
    wanted: tuple[tuple[int, int], ...]
    """(attribute, value), each a property"""

    def __post_init__(self) -> None:
        """Raises UserError for an attribute or a value that the text does not have."""
        grammar = self.text.grammar
        for attribute, value in self.wanted:
            if not (0 <= attribute < grammar.attributes and 0 <= value < grammar.values):
                raise UserError(
                    f"attribute {attribute} with value {value} given: the text has {grammar.attributes} attributes of "
                    f"{grammar.values} values"
                )

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"attribute {attribute} is {value}" for attribute, value in self.wanted)

    def values(self, rows: Rows, tokenizer: Tokenizer, results: Path) -> NDArray[np.float32]:
        grammar = self.text.grammar
        symbols = symbols_of(rows, self.text.symbol_ids(tokenizer, results))
        found = np.empty((*rows.shape, len(self.wanted)), dtype=np.float32)
        for part in grammar.chunks(*rows.shape):
            known = grammar.marginals(grammar.posterior(symbols[part]))
            chosen = np.stack([known[..., attribute, value] for attribute, value in self.wanted], axis=-1)
            chosen = chosen.clip(LEAST, 1 - LEAST)
            found[part] = np.log(chosen) - np.log1p(-chosen)
        return found
