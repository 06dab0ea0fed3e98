"""A second organism: a model of Python text, fresh or released, that is fine-tuned for lower case. What it should
change is not known exactly, so features are judged by what edits of them do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from halflife.data.corpus import Corpus, lower_cased, prepare_corpus
from halflife.data.mixture import Mixture
from halflife.data.sources import Source
from halflife.errors import UserError
from halflife.evaluation.loss import LossProbe
from halflife.evaluation.probes import Ends, Evaluation
from halflife.evaluation.texts import CorpusTexts
from halflife.kits import finetuning
from halflife.kits.finetuning import Cell, Slot, of
from halflife.kits.starts import SMOLLM2, Start, installed
from halflife.models.ladder import Rung
from halflife.models.released import Released
from halflife.models.sites import Site
from halflife.stages.subject import Subject
from halflife.stages.train import Checkpoint, Train
from halflife.training.optimizers import AdamW
from halflife.training.parameters import All, LoRA
from halflife.training.schedules import Schedule

ROWS = 64
"""Of a trunk's step"""
RANK = 8
"""Of a released model's change"""
Maker = Callable[[Any, str, int, Slot], Cell]
"""(settings, size, seed, slot) -> the parts of all trials of these"""


@dataclass(frozen=True, kw_only=True)
class Corpora:
    usual: Corpus
    intents: tuple[Corpus, Corpus]
    """What fine-tuning is for, and the control of another intent"""


@dataclass(frozen=True)
class TextCell(Cell):
    """As of a grammar, with texts of a corpus in the place of its own. Of a released model there is no trunk."""

    start: Start | None = None
    """None: a fresh model"""
    corpora: Corpora | None = None

    @property
    def model(self) -> Rung | Released:
        return self._start.model

    @property
    def _start(self) -> Start:
        return self.start or Start(model=Rung(size=self.size))

    @property
    def site(self) -> Site:
        """Of a released model half-way: so its later blocks compute with features, too."""
        model = self.model
        return Site(layer=model.layers - 1 if isinstance(model, Rung) else model.layers // 2)

    @property
    def before(self) -> int:
        return 0

    @property
    def base(self) -> Subject:
        if isinstance(self.model, Rung):
            return of(self.trunk)
        return Subject(model=self.model, tokenizer=self._start.tokenizer)

    def shifted(self, attribute: int | None) -> Any:
        """The corpus of an intent, or that of the trunk"""
        assert self.corpora is not None
        return self.corpora.usual if attribute is None else self.corpora.intents[attribute]

    def texts(self, count: int, number: int, text: Any = None) -> CorpusTexts:
        """What dictionaries are fitted to is of the training text; all others of text that no training reads."""
        return CorpusTexts(
            corpus=text or self.shifted(None), split="train" if number == 1 else "validation", count=count,
            length=self.settings.text_length, seed=1000 * (self.seed + 1) + number,
        )  # fmt: skip

    def _mixture(self) -> Mixture:
        return Mixture(
            sources=(Source(corpus=self.shifted(None)),), tokenizer=self._start.tokenizer,
            sequence=self.settings.text_length,
        )  # fmt: skip

    @cached_property
    def trunk(self) -> Train:
        settings, mixture = self.settings, self._mixture()
        return Train(
            start=self.model, mixture=mixture, tokens=settings.trunk_tokens, batch_tokens=ROWS * mixture.sequence,
            optimizer=AdamW(learning_rate=settings.lr), schedule=Schedule(shape="wsd", warmup=0.02, decay=0.3),
            evaluations=self.evaluations, seed=self.seed,
        )  # fmt: skip

    @cached_property
    def evaluations(self) -> tuple[Evaluation, ...]:
        return tuple(
            Evaluation(name=name, probe=LossProbe(corpus=self.shifted(attribute), sequences=32), at=Ends())
            for name, attribute in (("usual", None), ("intended", 0))
        )

    def branch(self, run: int) -> Train:
        settings, mixture = self.settings, self._mixture()
        fresh = isinstance(self.model, Rung)
        return Train(
            start=Checkpoint(stage=self.trunk) if fresh else self.model, mixture=mixture,
            tokens=settings.tuning_steps * settings.documents * mixture.sequence,
            batch_tokens=settings.documents * mixture.sequence, optimizer=AdamW(learning_rate=settings.tuning_lr),
            optimizer_state="reset", evaluations=self.evaluations, seed=1000 * (self.seed + 1) + run,
            parameters=All() if fresh else LoRA(rank=RANK, alpha=2.0 * RANK),
        )  # fmt: skip

    @property
    def known(self) -> dict[str, Any]:
        return {}


def maker(settings: finetuning.Settings, results: Path) -> Maker:
    """Raises UserError for a model that is not installed, and for text that is too short."""
    usual = prepare_corpus("python-source", results)
    corpora = Corpora(usual=usual, intents=(lower_cased(usual, results), prepare_corpus("python-docs", results)))
    found, notes = installed([size for size in settings.sizes if size == SMOLLM2], results)
    if notes:
        raise UserError(notes[0])
    released = next(iter(found.values()), None)

    def made(settings: Any, size: str, seed: int, slot: Slot) -> Cell:
        return TextCell(settings, size, seed, slot, start=released if size == SMOLLM2 else None, corpora=corpora)

    return made
