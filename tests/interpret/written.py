"""Paired texts of one's own, as a user adds them: one class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from halflife.data.tokenizers import Tokenizer
from halflife.evaluation.texts import Rows
from halflife.interpret.pairs import Pairs


@dataclass(frozen=True, kw_only=True)
class Written(Pairs):
    """Random letters behind A, and behind B."""

    seed: int = 0

    @property
    def shared(self) -> int:
        return 8

    @property
    def count(self) -> int:
        return 12

    def rows(self, part: str, tokenizer: Tokenizer, results: Path) -> tuple[Rows, Rows]:
        text = np.random.default_rng([self.seed, part == "train"]).integers(97, 123, (self.count, self.shared))
        one, other = (np.concatenate([np.full((self.count, 2), tag), text], axis=1) for tag in (65, 66))
        return one, other
