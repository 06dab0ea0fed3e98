"""Activations: what a subject computes at sites of its forward pass, stored once for many fits."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np

from halflife.data import activations
from halflife.data.activations import DTYPES, Layout, Stored, StoredActivations, is_held_out
from halflife.errors import UserError, check_choice
from halflife.evaluation import SCORED_TOKENS
from halflife.evaluation.texts import Rows, Texts
from halflife.fields import recorded
from halflife.models.sites import Site
from halflife.stages.subject import Precision, Subject
from halflife.store.stage import Context, Cost, Stage


@dataclass(frozen=True, kw_only=True)
class Activations(Stage):
    """The activations of every token of `texts` at `sites`, as `data.activations` describes, in `final/`.

    A stage that has this one among its fields reads them, at any of the sites, as
    `ActivationBatches(stage.open(context.parent(stage)), rows=4096, key=(seed, "fit"))`.

    The point `<site>/rms` at step 0 is the root mean square of an element, over the training texts.
    """

    kind: ClassVar[str] = "activations"

    subject: Subject
    texts: Texts
    """A corpus's windows, or `MixtureTexts` of a mixture"""
    sites: tuple[Site, ...]
    held_out: float = 0.1
    """Share of the different texts that no fit trains on. Windows of a mixture may overlap across the two parts; those
    of `CorpusTexts` never do."""
    stored: Stored = "fp32"
    """Type of the files. bf16 has the range of fp32 and 8 bits of precision, fp16 11 bits and numbers up to 65,504."""
    precision: Precision = "fp32"
    """Of the forward pass"""
    max_bytes: float = recorded(10e9)
    """Refuse to store more than this."""
    seed: int = 0
    """Of the choice of held-out texts"""

    def __post_init__(self) -> None:
        """Raises UserError when the fields contradict one another, or the activations exceed `max_bytes`."""
        check_choice("type of stored activations", self.stored, get_args(Stored))
        if not self.sites:
            raise UserError("activations at no site given: expected at least one")
        again = [site for site, count in Counter(self.sites).items() if count > 1]
        if again:
            raise UserError(f"{again[0].name} given several times: expected each site once")
        for site in self.sites:
            site.check(self.subject.architecture)
        if not 0 <= self.held_out < 1:
            raise UserError(f"held_out {self.held_out} given: expected a share from 0 to below 1")
        longest = self.subject.context_length
        if longest is not None and self.texts.length > longest:
            raise UserError(
                f"texts of {self.texts.length} tokens given: {self.subject.size} reads at most {longest}; shorten them"
            )
        if self.bytes > self.max_bytes:
            raise UserError(
                f"activations of {self.bytes / 1e9:.3g} GB given ({self.tokens:,} tokens at {len(self.sites)} sites in "
                f"{self.stored}): at most {self.max_bytes / 1e9:.3g} GB are allowed; store fewer texts or sites, use "
                "stored='fp16', or raise max_bytes"
            )

    @property
    def tokens(self) -> int:
        return self.texts.count * self.texts.length

    @property
    def bytes(self) -> int:
        """Of the files: activations and tokens."""
        return self.tokens * (self._stored_bytes + 4)

    @property
    def _stored_bytes(self) -> int:
        """Of the activations of one token."""
        return len(self.sites) * self.subject.architecture.width * np.dtype(DTYPES[self.stored]).itemsize

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        return tuple(site.name for site in self.sites)

    @property
    def label(self) -> str:
        return f"activations of {self.subject.size}"

    def check(self, results: Path) -> None:
        """Read the texts as `run` will. Raises the same UserErrors, before any compute."""
        self.rows(results)

    def rows(self, results: Path) -> tuple[Rows, int]:
        """The texts, (count, length) tokens, those to train on first; and the number of these."""
        rows = self.texts.rows(self.subject.codec, results)
        held_out = is_held_out(rows, self.held_out, self.seed)
        return np.concatenate([rows[~held_out], rows[held_out]]), int((~held_out).sum())

    def layout(self, training_texts: int) -> Layout:
        length = self.texts.length
        each = length * self._stored_bytes
        pass_texts = max(1, min(SCORED_TOKENS // length, activations.SHARD_BYTES // each))
        return Layout(
            sites=self.tasks,
            width=self.subject.architecture.width,
            length=length,
            texts=self.texts.count,
            training_texts=training_texts,
            pass_texts=pass_texts,
            shard_texts=pass_texts * max(1, activations.SHARD_BYTES // (each * pass_texts)),
            stored=self.stored,
            first_position=self.subject.tokens_before,
        )

    @property
    def cost(self) -> Cost:
        reading, model = self.subject.reading(self.tokens, self.texts.length), self.subject.architecture
        # the texts and copies of them, what is written, and what a block of the forward pass holds
        tokens = min(self.tokens, SCORED_TOKENS)
        held = 4 * 8.0 * self.tokens + 2.0 * tokens * self._stored_bytes
        forward = tokens * model.activation_bytes(0) / model.layers
        return replace(reading, memory_bytes=reading.memory_bytes + held + forward, disk_bytes=self.bytes)

    def run(self, context: Context) -> dict[str, Any]:
        """Raises UserError for texts of which none would be left to train on, and for values beyond fp16; Diverged
        when activations are not finite."""
        # torch is imported only where a stage runs
        from halflife.stages.recording import record

        rows, training_texts = self.rows(context.results)
        layout = self.layout(training_texts)
        index = record(self.subject.load(context, self.precision), rows, self.sites, layout, context)
        context.record(0, {f"{site}/rms": index.rms(site) for site in layout.sites})
        return {
            "tokens": self.tokens,
            "texts": layout.texts,
            "training_texts": layout.training_texts,
            "bytes": self.bytes,
            "seconds_training": index.seconds,
        }

    @staticmethod
    def open(folder: Path, *sites: Site) -> StoredActivations:
        """What a completed attempt's folder holds, at these sites, by default all. Raises CorruptActivations."""
        return StoredActivations(folder / "final", [site.name for site in sites])
