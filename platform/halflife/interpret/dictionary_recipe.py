"""How dictionaries are trained on stored activations, and measured."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from halflife.errors import UserError
from halflife.evaluation.cadence import Cadence, Ends, due
from halflife.interpret.dictionary import Dictionary
from halflife.models.sites import Site
from halflife.training.schedules import Schedule

PCA_ROWS = 50_000
"""Training vectors per site from which principal components are found, at most"""
THRESHOLD_VALUES = 2**24
"""Pre-activations from which a threshold is set, at most"""


@dataclass(frozen=True, kw_only=True)
class DictionaryRecipe:
    """All of a `FitDictionary` but where the activations come from."""

    dictionaries: tuple[Dictionary, ...]
    steps: int = 500
    rows: int = 2048
    """Tokens per step; a shared dictionary sees the vectors of all sites at each"""
    learning_rate: float = 2e-3
    schedule: Schedule = Schedule(shape="wsd", warmup=0.05, decay=0.2)
    max_grad_norm: float = 1.0
    """Of each dictionary"""
    dead_after: int = 30_000
    """Tokens without firing after which a latent is dead, and trained by the auxiliary loss only"""
    auxiliary: float = 1 / 32
    """Weight of that loss (AuxK, arXiv 2406.04093)"""
    at: Cadence = Ends()
    held_out_rows: int = 20_000
    """Held-out vectors per site that are read, at most"""
    texts: int = 64
    """Held-out texts on which the loss is measured, at most"""
    seed: int = 0
    """Of the order of the vectors"""

    def __post_init__(self) -> None:
        """Raises UserError when the fields contradict one another."""
        for name in ("steps", "rows", "dead_after", "held_out_rows", "texts"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} = {getattr(self, name)} of a dictionary's fit given: expected at least 1")
        if not self.learning_rate > 0:
            raise UserError(f"learning rate {self.learning_rate} of a dictionary's fit given: expected above 0")
        if not self.dictionaries:
            raise UserError("a fit of no dictionary given: expected at least one")
        again = [name for name, count in Counter(each.name for each in self.dictionaries).items() if count > 1]
        if again:
            raise UserError(f"dictionary {again[0]} given several times: expected each once")
        due(self.at, self.steps)

    @property
    def tokens(self) -> int:
        return self.steps * self.rows

    def folder(self, attempt: Path, dictionary: Dictionary, site: Site) -> Path:
        """Where a completed attempt's folder has a dictionary for a site."""
        return attempt / "final" / dictionary.name / ("" if dictionary.shared else site.name)
