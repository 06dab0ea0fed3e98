"""Sources of training data, and how the rows of each are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from halflife.data.codecs import load
from halflife.data.corpus import Corpus
from halflife.data.documents import Documents, Generated, Ints, filled
from halflife.data.synthetic import task_stream
from halflife.data.tokenizers import Tokenizer, special_ids
from halflife.data.tokens import token_array
from halflife.data.transforms import Transform, added_tokens, apply, check_special, lines, special_tokens
from halflife.errors import UserError, check_choice
from halflife.rng import generator
from halflife.tasks.synthetic import SyntheticTask

Loss = Literal["all", "answers"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """The training split of a corpus, the memorised items of a synthetic task, or documents made on the fly, with its
    share of the sequences."""

    corpus: Corpus | SyntheticTask | Generated
    weight: float = 1.0
    examples: int | None = None
    """Number of memorised items of a task, drawn by its seed; a smaller number gives a subset of a larger one."""
    loss: Loss = "all"
    """Which tokens are predicted. The prompts of a task are random and contain no skill; if predicted, they take up
    most of the gradient."""
    fade: float = 0.0
    """The share falls linearly from the first step to 0 at this fraction of the stage's steps; 0 means constant. The
    freed share goes to the constant sources, in proportion to their weights."""
    transforms: tuple[Transform, ...] = ()
    """Made to every document, in this order; of a corpus, to every window"""

    def __post_init__(self) -> None:
        if not 0 <= self.fade <= 1:
            raise UserError(
                f"fade {self.fade} given: expected the fraction of the stage, 0 to 1, after which the share is 0"
            )
        check_choice("loss of a source", self.loss, get_args(Loss))
        if self.transforms and isinstance(self.corpus, SyntheticTask):
            raise UserError(f"transforms of {self.corpus.name} given: expected a corpus or generated documents")
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

    @property
    def content(self) -> tuple[Corpus | SyntheticTask | Generated, tuple[Transform, ...]]:
        """What its rows are made of: sources with the same content differ only in share and loss."""
        return self.corpus, self.transforms

    @property
    def name(self) -> str:
        return _name(self.corpus)

    @property
    def has_loss_mask(self) -> bool:
        """Whether its rows may contain tokens that are not predicted."""
        return self.loss == "answers" or bool(self.transforms) or isinstance(self.corpus, Generated)

    @property
    def lines(self) -> tuple[tuple[str, ...], ...]:
        """Special tokens whose embeddings lie on a line (`Transform.lines`)"""
        return lines(self.transforms, self.corpus.choices if isinstance(self.corpus, Generated) else ())


Key = tuple[int | str, ...]
Fill = Callable[[Ints, list[int], list[float], Key], None]
"""(batch, rows, places, key): writes these rows of the batch (rows, sequence + 1). Each has a place from 0 to 1 in the
source; all else that is random depends on the key only."""


def row_filler(source: Source, tokenizer: Tokenizer, results: Path, sequence: int) -> Fill:
    """Raises UserError when the source is shorter than a sequence, a document longer than one, or a special token not
    among the tokenizer's."""
    of = source.corpus
    if isinstance(of, Generated):
        prepared = of.prepare(tokenizer, results)

        def generate(places: list[float], key: Key, room: int) -> Documents:
            return prepared(generator(*key), len(places), room)

        return _transformed(source.transforms, generate, of.choices, of.name, tokenizer, results, sequence)
    stream, starts = _stream(source, of, tokenizer, results, sequence)
    if not source.transforms:
        return lambda batch, rows, places, key: _fill_windows(batch, rows, places, stream, starts)

    def cut(places: list[float], key: Key, room: int) -> Documents:
        windows = np.empty((len(places), room), dtype=np.int64)
        _fill_windows(windows, list(range(len(places))), places, stream, starts)
        return Documents(tokens=windows, values=np.empty((len(places), 0), dtype=np.int64))

    return _transformed(source.transforms, cut, (), _name(of), tokenizer, results, sequence)


def _name(of: Corpus | SyntheticTask | Generated) -> str:
    return of.label or of.digest if isinstance(of, Corpus) else of.name


def _fill_windows(
    batch: Ints, rows: list[int], places: list[float], stream: np.ndarray, starts: np.ndarray | None
) -> None:
    length = batch.shape[1]
    count = len(stream) - length + 1 if starts is None else len(starts)
    for row, place in zip(rows, places, strict=True):
        start = int(place * count)
        if starts is not None:
            start = starts[start]
        batch[row] = stream[start : start + length]


def _transformed(
    transforms: tuple[Transform, ...],
    draw: Callable[[list[float], Key, int], Documents],
    choices: tuple[int, ...],
    name: str,
    tokenizer: Tokenizer,
    results: Path,
    sequence: int,
) -> Fill:
    """Rows of documents that take what room the transforms leave of a row."""
    ids, eos = special_ids(tokenizer), load(tokenizer, results).eos
    check_special(special_tokens(transforms, choices), ids)
    room = sequence + 1 - added_tokens(transforms, choices)
    if room < 1:
        raise UserError(f"sequence of {sequence} tokens given: the transforms of {name} add {sequence + 1 - room}")

    def fill(batch: Ints, rows: list[int], places: list[float], key: Key) -> None:
        batch[rows] = filled(apply(transforms, draw(places, key, room), ids, key), sequence + 1, name, eos)

    fill(np.empty((1, sequence + 1), dtype=np.int64), [0], [0.0], ("check",))  # refused before any compute
    return fill


def _stream(
    source: Source, of: Corpus | SyntheticTask, tokenizer: Tokenizer, results: Path, sequence: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """The source's training tokens, and the positions where rows may begin (None: anywhere)."""
    if isinstance(of, SyntheticTask):
        answers = source.loss == "answers"
        stream, starts = task_stream(of, tokenizer, results, source.examples, answers=answers)
        longest = int(np.diff(starts, append=len(stream)).max())
        if answers and longest > sequence + 1:  # else a row might have nothing to predict
            raise UserError(
                f"sequence of {sequence} tokens given: an item of {of.name} has {longest}, and only "
                f"its answer is predicted; expected at least {longest - 1}"
            )
        starts = starts[starts + sequence < len(stream)]
        available = len(stream) if len(starts) else 0
    else:
        stream, starts = token_array(results, of, "train", tokenizer), None
        available = len(stream)
    if available <= sequence:
        raise UserError(
            f"sequence of {sequence} tokens given: the training split of {_name(of)} has {available}; "
            "shorten the sequence"
        )
    return stream, starts
