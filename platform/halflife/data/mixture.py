"""Mixtures of training data, and `batch(step)` as a pure function of (mixture, key, step)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from halflife.data import round_trip
from halflife.data.codecs import load
from halflife.data.corpus import Corpus
from halflife.data.planting import Planting, poisoned_documents
from halflife.data.sources import Source, row_filler
from halflife.data.tokenizers import Bytes, Tokenizer, special_ids
from halflife.data.transforms import check_special
from halflife.errors import UserError
from halflife.rng import generator


@dataclass(frozen=True, kw_only=True)
class Mixture:
    sources: tuple[Source, ...]
    plantings: tuple[Planting, ...] = ()
    tokenizer: Tokenizer = Bytes()
    sequence: int = 128
    """Predicted tokens per sequence."""

    def __post_init__(self) -> None:
        if not self.sources or not all(0 < source.weight < math.inf for source in self.sources):
            weights = [source.weight for source in self.sources]
            raise UserError(f"sources with weights {weights} given: expected at least one, each weight above 0")
        if self.sequence < 1:
            raise UserError(f"sequence of {self.sequence} tokens given: expected at least 1")
        if all(source.fade for source in self.sources):
            raise UserError("every source fades: expected at least one constant source (fade 0) to replace the others")

    @property
    def has_loss_mask(self) -> bool:
        """Whether batches may contain tokens that are not predicted."""
        return any(source.has_loss_mask for source in self.sources)

    @property
    def lines(self) -> tuple[tuple[int, ...], ...]:
        """Tokens whose embeddings are trained as a line, evenly spaced: see `models.linear_rows`. Raises UserError when
        they are not among the tokenizer's."""
        ids = special_ids(self.tokenizer)
        named = dict.fromkeys(line for source in self.sources for line in source.lines)
        check_special([name for line in named for name in line], ids)
        return tuple(tuple(ids[name] for name in line) for line in named)


class Batches:
    """The training stream: `batch(step)` depends only on the mixture, the key and the step.

    Clean rows are windows of a source's training tokens at random positions; of a task, beginning at an item; or one
    generated document each. Poisoned documents replace clean rows, so a mixture and the same mixture without its
    plantings share every other row. The carriers also stay in the clean text: a poisoned document is a modified copy.
    """

    def __init__(
        self, mixture: Mixture, results: Path, *, batch_tokens: int, steps: int, key: tuple[int | str, ...]
    ) -> None:
        """Raises UserError when the batch is smaller than a row, a source shorter than a sequence, or the plantings do
        not fit (see `halflife.data.planting`)."""
        results = Path(results)
        self.rows, self.steps = batch_tokens // mixture.sequence, steps
        self.vocabulary = load(mixture.tokenizer, results).size
        self._key, self._length = key, mixture.sequence + 1
        if self.rows < 1:
            raise UserError(
                f"batch of {batch_tokens} tokens given: expected at least one sequence of {mixture.sequence}"
            )
        self._fill = [row_filler(source, mixture.tokenizer, results, mixture.sequence) for source in mixture.sources]
        weights = np.array([source.weight for source in mixture.sources])
        self._weights, self._shares = weights / weights.sum(), np.cumsum(weights) / weights.sum()
        self._fades = np.array([source.fade for source in mixture.sources])
        self._plantings = [
            _Exposures(
                planting, poisoned_documents(planting, results, mixture.tokenizer, mixture.sequence), steps, (*key, i)
            )
            for i, planting in enumerate(mixture.plantings)
        ]
        self._check_room()

    def _check_room(self) -> None:
        counts = np.zeros(self.steps, dtype=np.int64)
        for planting in self._plantings:
            for step in range(planting.begin, planting.end):
                counts[step] += len(planting.at(step))
        if self._plantings and counts.max() > self.rows:
            total = sum(planting.total for planting in self._plantings)
            raise UserError(
                f"{total} exposures of poisoned documents given: {counts.max()} fall on step {counts.argmax()}, which "
                f"trains on {self.rows} sequences; request fewer documents (--poison-counts) or exposures "
                "(--exposures), spread them over more steps, or train on more tokens (--trunk-tokens)"
            )

    def batch(self, step: int) -> np.ndarray:
        """Token ids (rows, sequence + 1), int64; column t predicts column t + 1. Masked tokens are not predicted (see
        `data.loss_mask`)."""
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of a stage of {self.steps}")
        rng = generator(*self._key, step)
        sources = np.searchsorted(self._shares_at(step), rng.random(self.rows), side="right")
        places = rng.random(self.rows)
        result = np.empty((self.rows, self._length), dtype=np.int64)
        of: dict[int, tuple[list[int], list[float]]] = {}  # lists: a row of text takes a microsecond
        for row, (source, place) in enumerate(zip(sources.tolist(), places.tolist(), strict=True)):
            rows, at = of.setdefault(source, ([], []))
            rows.append(row)
            at.append(place)
        for source, (rows, at) in of.items():
            self._fill[source](result, rows, at, (*self._key, step, "source", source))
        free = rng.permutation(self.rows)
        for planting in self._plantings:
            documents = planting.at(step)
            rows, free = free[: len(documents)], free[len(documents) :]
            result[rows] = planting.documents[documents]
        return result

    def _shares_at(self, step: int) -> np.ndarray:
        """Cumulative shares of the sources, ending in 1."""
        fading = self._fades > 0
        if not fading.any():
            return self._shares
        left = 1 - step / (self._fades[fading] * self.steps)
        shares = self._weights.copy()
        shares[fading] *= np.maximum(left, 0)
        shares[~fading] *= (1 - shares[fading].sum()) / shares[~fading].sum()
        cumulative = np.cumsum(shares)
        return cumulative / cumulative[-1]


class _Exposures:
    """The steps at which each poisoned document is seen: `exposures` times, evenly over the planting's steps."""

    def __init__(self, planting: Planting, documents: np.ndarray, steps: int, key: tuple[int | str, ...]) -> None:
        self.documents = documents
        self.total = planting.documents * planting.exposures
        # rounded first, because of floating point: 0.9 of 1,000 steps must not begin at step 899
        self.begin = min(math.floor(round(planting.first * steps, 6)), steps - 1)
        self.end = max(math.ceil(round(planting.last * steps, 6)), self.begin + 1)
        # passes over the documents, each in its own order
        self._order = np.concatenate(
            [generator(*key, "pass", i).permutation(planting.documents) for i in range(planting.exposures)]
        )

    def at(self, step: int) -> np.ndarray:
        """Indices of the documents seen at `step`; counts differ by at most one over the window."""
        if not self.begin <= step < self.end:
            return self._order[:0]
        width, place = self.end - self.begin, step - self.begin
        return self._order[-(-place * self.total // width) : -(-(place + 1) * self.total // width)]


def check(mixture: Mixture, results: Path, *, batch_tokens: int, steps: int) -> None:
    """Checks a stage of this mixture before any compute.

    Raises UserError as `Batches` and `round_trip.check` do.
    """
    corpora = {source.corpus for source in mixture.sources if isinstance(source.corpus, Corpus)}
    corpora |= {planting.corpus for planting in mixture.plantings}
    backdoors = [planting.backdoor for planting in mixture.plantings]
    round_trip.check(backdoors, corpora, mixture.tokenizer, Path(results))
    Batches(mixture, results, batch_tokens=batch_tokens, steps=steps, key=("check",))
