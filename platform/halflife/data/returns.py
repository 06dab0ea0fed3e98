"""Documents with their return: how probable it is that each has some values, as a level that a tag can tell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from halflife.data.attributes import AttributeText
from halflife.data.documents import Documents, Draw, Generated
from halflife.data.tokenizers import Tokenizer
from halflife.errors import UserError
from halflife.rng import generator

DOCUMENTS = 4096
"""From which the bounds between levels are found"""


@dataclass(frozen=True, kw_only=True)
class Returns(Generated):
    """An attribute grammar's documents, whose one value is the level of their return, as a decision transformer's
    (arXiv 2106.01345). The return is the exact log-probability of the values `told` at the document's end; levels are
    equally frequent, and the last is the highest."""

    text: AttributeText
    told: tuple[int, ...]
    """One for each attribute; UNTOLD: any"""
    levels: int = 8

    def __post_init__(self) -> None:
        if self.levels < 2:
            raise UserError(f"{self.levels} levels of a return given: expected at least 2")

    @property
    def name(self) -> str:
        return f"{self.text.name} by return"

    @property
    def choices(self) -> tuple[int, ...]:
        return (self.levels,)

    def prepare(self, tokenizer: Tokenizer, results: Path) -> Draw:
        draw, score = self.text.prepare(tokenizer, results), self.text.classifier(self.told, tokenizer, results)
        bounds: dict[int, np.ndarray] = {}  # by the room that documents have, which is one in a mixture

        def drawn(rng: np.random.Generator, count: int, room: int) -> Documents:
            found = draw(rng, count, room)
            if room not in bounds:
                seen = draw(generator(self.text.grammar.seed, "returns", room), DOCUMENTS, room)
                bounds[room] = np.quantile(score(seen.tokens), np.arange(1, self.levels) / self.levels)
            level = np.searchsorted(bounds[room], score(found.tokens), side="right")
            return Documents(tokens=found.tokens, values=level[:, None], choices=self.choices)

        return drawn
