"""Mixtures of training data, and `batch(step)` as a pure function of (mixture, key, step)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from halflife.data import round_trip
from halflife.data.codecs import load
from halflife.data.corpus import Corpus
from halflife.data.planting import Planting, poisoned_documents
from halflife.data.synthetic import task_stream
from halflife.data.tokenizers import Bytes, Tokenizer
from halflife.data.tokens import token_array
from halflife.errors import UserError, check_choice
from halflife.rng import generator
from halflife.tasks.synthetic import SyntheticTask

Loss = Literal["all", "answers"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """The training split of a corpus, or the memorised items of a synthetic task, with its share of the sequences."""

    corpus: Corpus | SyntheticTask
    weight: float = 1.0
    examples: int | None = None
    """Number of memorised items of a task, drawn by its seed; a smaller number gives a subset of a larger one."""
    loss: Loss = "all"
    """Which tokens are predicted. The prompts of a task are random and contain no skill; if predicted, they take up
    most of the gradient."""
    fade: float = 0.0
    """The share falls linearly from the first step to 0 at this fraction of the stage's steps; 0 means constant. The
    freed share goes to the constant sources, in proportion to their weights."""

    def __post_init__(self) -> None:
        if not 0 <= self.fade <= 1:
            raise UserError(
                f"fade {self.fade} given: expected the fraction of the stage, 0 to 1, after which the share is 0"
            )
        check_choice("loss of a source", self.loss, get_args(Loss))
        if self.loss == "answers" and not isinstance(self.corpus, SyntheticTask):
            raise UserError("loss on the answers of a corpus given: expected a synthetic task, which has answers")
        if self.examples is None:
            return
        if not isinstance(self.corpus, SyntheticTask):
            raise UserError(f"{self.examples} examples of a corpus given: expected a synthetic task, which has items")
        available = len(self.corpus.examples("memorised"))
        if not 1 <= self.examples <= available:
            raise UserError(
                f"{self.examples} examples of {self.corpus.name} given: expected 1 to {available}, the number of its "
                "memorised items"
            )


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
        """Whether batches contain tokens that are not predicted."""
        return any(source.loss == "answers" for source in self.sources)


class Batches:
    """The training stream: `batch(step)` depends only on the mixture, the key and the step.

    Clean rows are windows of a source's training tokens at random positions; of a task, beginning at an item. Poisoned
    documents replace clean rows, so a mixture and the same mixture without its plantings share every other row. The
    carriers also stay in the clean text: a poisoned document is a modified copy.
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
        self._streams = [_stream(source, mixture, results) for source in mixture.sources]
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
                f"trains on {self.rows} sequences; request fewer documents or exposures, spread them over more steps, "
                f"or train on more tokens"
            )

    def batch(self, step: int) -> np.ndarray:
        """Token ids (rows, sequence + 1), int64; column t predicts column t + 1. Masked tokens are not predicted (see
        `data.loss_mask`)."""
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of a stage of {self.steps}")
        rng = generator(*self._key, step)
        sources = np.searchsorted(self._shares_at(step), rng.random(self.rows), side="right")
        positions = rng.random(self.rows)
        result = np.empty((self.rows, self._length), dtype=np.int64)
        for row, (source, position) in enumerate(zip(sources, positions, strict=True)):
            stream, starts = self._streams[source]
            if starts is None:
                start = int(position * (len(stream) - self._length + 1))
            else:
                start = starts[int(position * len(starts))]
            result[row] = stream[start : start + self._length]
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


def _stream(source: Source, mixture: Mixture, results: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The source's training tokens, and the positions where rows may begin (None: anywhere)."""
    if isinstance(source.corpus, SyntheticTask):
        answers = source.loss == "answers"
        stream, starts = task_stream(source.corpus, mixture.tokenizer, results, source.examples, answers=answers)
        longest = int(np.diff(starts, append=len(stream)).max())
        if answers and longest > mixture.sequence + 1:  # else a row might have nothing to predict
            raise UserError(
                f"sequence of {mixture.sequence} tokens given: an item of {source.corpus.name} has {longest}, and only "
                f"its answer is predicted; expected at least {longest - 1}"
            )
        starts = starts[starts + mixture.sequence < len(stream)]
        available, name = len(stream) if len(starts) else 0, source.corpus.name
    else:
        stream, starts = token_array(results, source.corpus, "train", mixture.tokenizer), None
        available, name = len(stream), source.corpus.label or source.corpus.digest
    if available <= mixture.sequence:
        raise UserError(
            f"sequence of {mixture.sequence} tokens given: the training split of {name} has {available}; "
            "shorten the sequence"
        )
    return stream, starts


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
