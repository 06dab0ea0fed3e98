"""Paired texts: the same text under a condition and under none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from halflife.data.codecs import load
from halflife.data.tokenizers import Tokenizer
from halflife.errors import UserError
from halflife.evaluation.texts import Rows, Texts


class Pairs:
    """Base of descriptions of paired texts. One of your own is a class in a module that your study imports."""

    @property
    def shared(self) -> int:
        """Tokens at the end of each text that both have: where they are compared and interventions are made."""
        raise NotImplementedError(f"{type(self).__name__} states no shared tokens")

    @property
    def count(self) -> int:
        """Number of pairs of each part."""
        raise NotImplementedError(f"{type(self).__name__} states no count")

    def rows(self, part: str, tokenizer: Tokenizer, results: Path) -> tuple[Rows, Rows]:
        """Tokens of the texts under the condition and of the neutral ones, (count, length) each, int64; `part` is
        "train" or "held-out"."""
        raise NotImplementedError(f"{type(self).__name__} has no texts")


@dataclass(frozen=True, kw_only=True)
class Conditioned(Pairs):
    """Texts behind a condition, and the same behind a neutral prefix: `condition` + text and `neutral` + text."""

    texts: Texts
    held_out: Texts
    condition: str
    neutral: str = ""

    def __post_init__(self) -> None:
        if (self.texts.count, self.texts.length) != (self.held_out.count, self.held_out.length):
            raise UserError("pairs of unequal parts given: expected as many texts of one length in both")
        if self.condition == self.neutral:
            raise UserError(f"condition {self.condition!r} given: expected another than the neutral prefix")

    @property
    def shared(self) -> int:
        return self.texts.length

    @property
    def count(self) -> int:
        return self.texts.count

    def rows(self, part: str, tokenizer: Tokenizer, results: Path) -> tuple[Rows, Rows]:
        codec = load(tokenizer, results)
        rows = (self.texts if part == "train" else self.held_out).rows(tokenizer, results)
        one, other = (codec.encode(prefix).astype(np.int64) for prefix in (self.condition, self.neutral))
        return _behind(one, rows), _behind(other, rows)


def _behind(prefix: Rows, rows: Rows) -> Rows:
    return np.concatenate([np.broadcast_to(prefix, (len(rows), len(prefix))), rows], axis=1)
