"""Text of an attribute grammar, one document a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from halflife.data.codecs import load
from halflife.data.documents import Documents, Draw, Generated, Ints
from halflife.data.tokenizers import Characters, Tokenizer
from halflife.data.transforms import Transform, special_tokens
from halflife.errors import UserError
from halflife.tasks.attributes import UNTOLD, AttributeGrammar, Floats


@dataclass(frozen=True, kw_only=True)
class AttributeText(Generated):
    grammar: AttributeGrammar
    length: int | None = None
    """Symbols of each document; None: as many as a row has room for"""
    fixed: tuple[int, ...] | None = None
    """The values of all documents, one for each attribute (UNTOLD: any). None: any"""

    def __post_init__(self) -> None:
        """Raises UserError for documents of no symbol, and for values that attributes do not have."""
        if self.length is not None and self.length < 1:
            raise UserError(f"documents of {self.length} symbols given: expected at least 1")
        if self.fixed is not None:
            self._check(self.fixed, "fixed")

    @property
    def name(self) -> str:
        return f"attribute grammar {self.grammar.seed}"

    @property
    def choices(self) -> tuple[int, ...]:
        return (self.grammar.values,) * self.grammar.attributes

    @property
    def evidence(self) -> Floats | None:
        """What is known of the classes before the text, (K,), as `AttributeGrammar` takes it"""
        return None if self.fixed is None else self.grammar.evidence(np.array(self.fixed))

    def tokenizer(self, *chains: Sequence[Transform]) -> Characters:
        """A token for each symbol, and the special tokens that these chains of transforms write."""
        special = dict.fromkeys(name for chain in chains for name in special_tokens(chain, self.choices))
        return Characters(alphabet=self.grammar.alphabet, special=tuple(special))

    def symbol_ids(self, tokenizer: Tokenizer, results: Path) -> Ints:
        """The token of each symbol. Raises UserError when a symbol is not one token of its own."""
        found = load(tokenizer, results).encode_many(list(self.grammar.alphabet))
        if any(len(ids) != 1 for ids in found) or len({int(ids[0]) for ids in found}) < len(found):
            raise UserError(
                f"the tokenizer has no token of its own for each of {self.grammar.alphabet!r}: give `tokenizer()` of "
                "the text, or fewer symbols"
            )
        return np.concatenate(found)

    def prepare(self, tokenizer: Tokenizer, results: Path) -> Draw:
        ids = self.symbol_ids(tokenizer, results)

        def draw(rng: np.random.Generator, count: int, room: int) -> Documents:
            values, symbols = self.grammar.sample(rng, count, self.length or room, self.evidence)
            return Documents(tokens=ids[symbols], values=values, choices=self.choices)

        return draw

    def classifier(self, told: Sequence[int], tokenizer: Tokenizer, results: Path) -> Callable[[Ints], Floats]:
        """The perfect classifier: documents (count, length), generated or not, to the log-probability (count,) that
        they have the told values, one for each attribute (UNTOLD: any). Tokens that are no symbols say nothing. Raises
        UserError for other values."""
        self._check(told, "told")
        ids, values = self.symbol_ids(tokenizer, results), np.array(told)
        return lambda tokens: self.grammar.log_posterior(symbols_of(tokens, ids), values)

    def _check(self, values: Sequence[int], what: str) -> None:
        number = self.grammar.values
        if len(values) != len(self.choices) or not all(UNTOLD <= value < number for value in values):
            raise UserError(
                f"{what} values {tuple(values)} given: expected one of 0 to {number - 1}, or UNTOLD, for each of "
                f"{len(self.choices)} attributes"
            )


def symbols_of(tokens: Ints, symbol_ids: Ints) -> Ints:
    """Tokens to symbols, UNTOLD for any other token."""
    table = np.full(int(max(tokens.max(initial=0), symbol_ids.max())) + 1, UNTOLD)
    table[symbol_ids] = np.arange(len(symbol_ids))
    return table[tokens]
