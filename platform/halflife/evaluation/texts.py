"""Texts on which distributions of next tokens are compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halflife.data.corpus import Corpus
from halflife.data.loss_mask import read
from halflife.data.mixture import Batches, Mixture
from halflife.data.tokenizers import Tokenizer
from halflife.data.tokens import token_array
from halflife.errors import UserError
from halflife.rng import generator
from halflife.tasks.behaviours import Split

Rows = NDArray[np.int64]


class Texts:
    """Base of descriptions of texts: frozen dataclasses. One of your own is a class in a module that your study
    imports."""

    count: int
    """Number of texts"""
    length: int
    """Tokens of each text"""

    def rows(self, tokenizer: Tokenizer, results: Path) -> Rows:
        """(count, length) tokens, int64; a function of the description only."""
        raise NotImplementedError(f"{type(self).__name__} has no texts")

    def conditional(self, rows: Rows, tokenizer: Tokenizer, results: Path) -> NDArray[np.float64] | None:
        """The exact distribution of the token after each one, (count, length, vocabulary), where the data have one; not
        a number after positions at which it is unknown."""
        return None


@dataclass(frozen=True, kw_only=True)
class CorpusTexts(Texts):
    """Windows of a corpus's split that do not overlap."""

    corpus: Corpus
    split: Split = "validation"
    count: int = 64
    length: int = 64
    seed: int = 0

    def rows(self, tokenizer: Tokenizer, results: Path) -> Rows:
        """Raises UserError when the split is too short."""
        tokens = token_array(results, self.corpus, self.split, tokenizer)
        windows = len(tokens) // self.length
        if windows < self.count:
            raise UserError(
                f"{self.count} texts of {self.length} tokens given: the {self.split} split of "
                f"{self.corpus.label or self.corpus.digest} has {windows}"
            )
        starts = np.sort(generator(self.seed, "texts", self.split).permutation(windows)[: self.count]) * self.length
        return np.stack([tokens[start : start + self.length] for start in starts]).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class MixtureTexts(Texts):
    """What training on a mixture would read: `count` sequences, in batches of `batch_rows`.

    Windows of a corpus are at random positions and may overlap.
    """

    mixture: Mixture
    count: int = 64
    batch_rows: int = 64
    """Sequences of one step; plantings are spread over the steps."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1 or self.batch_rows < 1:
            raise UserError(f"{self.count} texts in batches of {self.batch_rows} given: expected at least 1 of each")

    @property
    def length(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.mixture.sequence

    def rows(self, tokenizer: Tokenizer, results: Path) -> Rows:
        """Raises UserError when the tokenizer is not the mixture's, and as `data.mixture.Batches` does."""
        if tokenizer != self.mixture.tokenizer:
            raise UserError(
                f"a mixture tokenized by {self.mixture.tokenizer} for a model with the tokenizer {tokenizer} given: "
                "expected the same"
            )
        steps = -(-self.count // self.batch_rows)
        batches = Batches(
            self.mixture, results, batch_tokens=self.batch_rows * self.length, steps=steps, key=(self.seed, "texts")
        )
        found = [read(batches.batch(step))[:, : self.length] for step in range(steps)]
        return np.concatenate(found)[: self.count]
