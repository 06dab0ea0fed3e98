"""Documents in tokens, before they are rows of a batch, and the base of those that are made on the fly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halflife.data.tokenizers import Tokenizer
from halflife.errors import UserError

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Documents:
    """As many documents as rows, of one length."""

    tokens: Ints
    """(count, length); one that is not predicted is marked (`data.loss_mask`)"""
    values: Ints
    """(count, attributes): what tags may tell of each; text of a corpus has no attributes"""
    choices: tuple[int, ...] = ()
    """Number of values of each attribute"""
    prompt: int = 0
    """The first tokens of each that are a prompt of the rest"""


Draw = Callable[[np.random.Generator, int, int], Documents]
"""(rng, count, room) -> so many documents of at most `room` tokens; a pure function of the generator's state."""


class Generated:
    """Base of descriptions of documents that are made on the fly. One of your own is a frozen dataclass in a module
    that your study imports."""

    @property
    def name(self) -> str:
        """In messages and reports"""
        raise NotImplementedError(f"{type(self).__name__} has no name")

    @property
    def choices(self) -> tuple[int, ...]:
        """Number of values of each attribute of the documents"""
        return ()

    def prepare(self, tokenizer: Tokenizer, results: Path) -> Draw:
        """Raises UserError for a tokenizer that cannot write the documents."""
        raise NotImplementedError(f"{type(self).__name__} makes no documents")


def filled(documents: Documents, length: int, name: str, eos: int) -> Ints:
    """Rows (count, length): shorter documents end in `eos`, which is not predicted. Raises UserError when they are
    longer."""
    count, given = documents.tokens.shape
    if given > length:
        raise UserError(
            f"sequence of {length - 1} tokens given: the documents of {name} take {given - 1}; lengthen the sequence"
        )
    return np.concatenate([documents.tokens, np.full((count, length - given), ~eos)], axis=1)
