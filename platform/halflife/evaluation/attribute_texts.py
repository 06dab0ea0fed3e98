"""Texts of an attribute grammar, with the exact distribution of the next token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halflife.data.attributes import AttributeText, symbols_of
from halflife.data.loss_mask import read
from halflife.data.sources import Source, row_filler
from halflife.data.tokenizers import Tokenizer, special_ids, vocabulary_of
from halflife.data.transforms import Tags, Transform, tag
from halflife.evaluation.texts import Rows, Texts
from halflife.tasks.attributes import UNTOLD, normalised


@dataclass(frozen=True, kw_only=True)
class AttributeTexts(Texts):
    """Documents as a mixture's source with the same grammar and transforms makes them, if `length` is the mixture's
    `sequence`."""

    text: AttributeText
    transforms: tuple[Transform, ...] = ()
    count: int = 256
    length: int = 32
    seed: int = 0

    def rows(self, tokenizer: Tokenizer, results: Path) -> Rows:
        """Raises UserError as a mixture's source does."""
        return self._documents(tokenizer, results)[:, :-1]

    def _documents(self, tokenizer: Tokenizer, results: Path) -> Rows:
        source = Source(corpus=self.text, transforms=self.transforms)
        fill = row_filler(source, tokenizer, results, self.length)
        documents = np.empty((self.count, self.length + 1), dtype=np.int64)
        fill(documents, list(range(self.count)), [0.0] * self.count, (self.seed, "attribute texts"))
        return read(documents)

    def conditional(self, rows: Rows, tokenizer: Tokenizer, results: Path) -> NDArray[np.float64] | None:
        """Bayes' rule over all classes, given the tags and symbols so far, for `rows` or others of their layout. Not a
        number where the next token is neither a symbol nor a tag that is always told, in a fixed order.

        None if a transform changes what the grammar knows of the text, or two tell of one attribute: their tags are the
        same tokens, of which each may be wrong with another probability.
        """
        if not all(transform.exact for transform in self.transforms):
            return None
        ids = self.text.symbol_ids(tokenizer, results)
        slots = [slot for transform in self.transforms for slot in _slots(transform, self.text, tokenizer)]
        if len({slot.attribute for slot in slots}) < len(slots):
            return None
        following = np.concatenate([rows[:, 1:], self._documents(tokenizer, results)[: len(rows), -1:]], axis=1)
        found = np.full((*rows.shape, vocabulary_of(tokenizer)), np.nan)
        for part in self.text.grammar.chunks(*rows.shape):
            self._write(found[part], rows[part], following[part], ids, slots)
        return found

    def _write(self, found: NDArray[np.float64], rows: Rows, following: Rows, ids: Rows, slots: list[_Slot]) -> None:
        grammar, symbols = self.text.grammar, symbols_of(rows, ids)
        weights = grammar.log_weights(symbols, self.text.evidence)
        for slot in slots:
            told = np.full((*rows.shape, grammar.attributes), UNTOLD)
            told[..., slot.attribute] = slot.values_of(rows)
            weights += grammar.evidence(told, slot.tags.wrong).cumsum(1)
        weights = normalised(weights)
        _put(found, symbols_of(following, ids) != UNTOLD, ids, grammar.next_symbol(weights, symbols))
        for slot in slots:
            if slot.is_always_told:
                right = grammar.marginals(weights)[:, :, slot.attribute]
                told = right * (1 - slot.tags.wrong) + (1 - right) * slot.tags.wrong / (grammar.values - 1)
                each = np.repeat(told / slot.tags.synonyms, slot.tags.synonyms, axis=2)
                _put(found, slot.values_of(following) != UNTOLD, slot.ids.ravel(), each)


@dataclass(frozen=True, kw_only=True)
class _Slot:
    tags: Tags
    attribute: int
    ids: Rows
    """(values, synonyms)"""

    def values_of(self, tokens: Rows) -> Rows:
        """The value that each token tells; UNTOLD of all others."""
        return symbols_of(tokens, self.ids.ravel()) // self.tags.synonyms  # UNTOLD, -1, stays -1

    @property
    def is_always_told(self) -> bool:
        tags = self.tags
        return tags.told == 1 and not tags.silent and tags.fixed is None and not tags.any_order


def _slots(transform: Transform, text: AttributeText, tokenizer: Tokenizer) -> list[_Slot]:
    if not isinstance(transform, Tags):
        return []
    ids = special_ids(tokenizer)
    tables = {
        attribute: [
            [ids[tag(attribute, value, of)] for of in range(transform.synonyms)] for value in range(text.grammar.values)
        ]
        for attribute in transform.slots(text.choices)
    }
    return [_Slot(tags=transform, attribute=attribute, ids=np.array(table)) for attribute, table in tables.items()]


def _put(table: NDArray[np.float64], here: NDArray[np.bool_], ids: Rows, probabilities: NDArray[np.float64]) -> None:
    """Writes (..., ids) into (..., vocabulary) at the positions `here`, and 0 for all other tokens."""
    whole = np.zeros((int(here.sum()), table.shape[-1]))
    whole[:, ids] = probabilities[here]
    table[here] = whole
