"""From a probe's description to tokens: what is asked, which answer is right, under which conditions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halflife.data.codecs import load
from halflife.data.corpus import Corpus, texts
from halflife.data.tokenizers import Codec, Tokenizer
from halflife.data.tokens import token_array
from halflife.errors import UserError
from halflife.evaluation.probes import BackdoorProbe, BehaviourProbe, TaskProbe
from halflife.evaluation.questions import backdoor_examples, language_examples
from halflife.evaluation.targets import Item, Part, item_of, majority_baseline
from halflife.rng import generator
from halflife.tasks.base import Example
from halflife.tasks.behaviours import Continuation, Repetition
from halflife.tasks.boards import Pathfinding
from halflife.tasks.games import DropGame

AnswerProbe = BackdoorProbe | TaskProbe | BehaviourProbe
"""The probes that have answers."""


@dataclass(frozen=True)
class Asked:
    """Prompts and answers as token ids."""

    prompts: list[NDArray[np.int64]]
    answers: list[NDArray[np.int64]]
    conditions: NDArray[np.float32]
    """(trials, conditions); no columns where a behaviour has none."""
    ahead: int = 0
    """How far an answer's tokens lie beyond the next: see `tasks.behaviours.Continuation`."""

    @property
    def chance(self) -> float:
        """See `targets.majority_baseline`."""
        return majority_baseline(self.answers)


def asked(probe: AnswerProbe, tokenizer: Tokenizer, results: Path) -> Asked:
    """What the probe asks: the same for every model, as it depends on the probe alone.

    Raises UserError where there are fewer examples than trials.
    """
    results = Path(results)
    if isinstance(probe, BehaviourProbe) and isinstance(probe.behaviour, Continuation):
        return _windows(probe, probe.behaviour, tokenizer, results)
    if isinstance(probe, BehaviourProbe):
        examples = behaviour_examples(probe, results)
    elif isinstance(probe, TaskProbe):
        examples = [example for language in probe.languages for example in language_examples(probe, language)]
    else:
        examples = backdoor_examples(probe, results)
    codec = load(tokenizer, results)
    return Asked(
        prompts=codec.encode_many([example.prompt for example in examples]),
        answers=codec.encode_many([example.answer for example in examples]),
        conditions=np.array([example.conditions for example in examples], dtype=np.float32),
    )


def behaviour_examples(probe: BehaviourProbe, results: Path) -> list[Example]:
    """The probe's examples as text."""
    behaviour = probe.behaviour
    if isinstance(behaviour, Continuation):
        raise ValueError("a continuation is cut in tokens: it has no examples as text")
    corpus = probe.corpus
    carriers = _carriers(probe, corpus, results) if behaviour.needs_carriers and corpus is not None else []
    return list(behaviour.examples(probe.split, probe.trials, carriers))


def _carriers(probe: BehaviourProbe, corpus: Corpus, results: Path) -> list[str]:
    """Pieces of the split's documents, `context` characters each, none overlapping."""
    pieces = [
        document[start : start + probe.context]
        for document in texts(results, corpus, probe.split)
        for start in range(0, len(document) - probe.context + 1, probe.context)
    ]
    order = generator(probe.seed, "behaviour probe", probe.split).permutation(len(pieces))
    return [pieces[at] for at in order[: probe.trials]]


def _windows(probe: BehaviourProbe, behaviour: Continuation, tokenizer: Tokenizer, results: Path) -> Asked:
    """Windows of the split's text at places of their own."""
    if probe.corpus is None:
        raise ValueError("a continuation has a corpus")
    tokens = token_array(results, probe.corpus, probe.split, tokenizer)
    count = len(tokens) // behaviour.window
    if count < probe.trials:
        raise UserError(
            f"{probe.trials} windows of {behaviour.window} tokens asked for: the {probe.split} split of "
            f"{probe.corpus.label or probe.corpus.digest} has {count}"
        )
    order = generator(probe.seed, "behaviour probe", probe.split).permutation(count)[: probe.trials]
    starts = behaviour.window * np.sort(order)
    rows = np.stack([tokens[start : start + behaviour.window] for start in starts]).astype(np.int64)
    # the answer holds the tokens skipped as well: they are read, and the one `ahead` of them is what is right
    return Asked(
        prompts=list(rows[:, : behaviour.context]),
        answers=list(rows[:, behaviour.context :]),
        conditions=np.zeros((len(rows), 0), dtype=np.float32),
        ahead=behaviour.ahead,
    )


@dataclass(frozen=True, kw_only=True)
class BehaviourTarget:
    """To show a behaviour: its training split, or text of the corpus's, fits the prompt; of the validation split it is
    asked. Raises UserError where a corpus is missing, or given for nothing."""

    behaviour: Repetition | Continuation | Pathfinding | DropGame
    corpus: Corpus | None = None
    context: int = 48
    """Characters of text in a prompt; a continuation states its own."""
    called: str = ""
    """A name in place of the behaviour's own, such as "detuning"."""
    room: int | None = None
    """Tokens of text before the answer, at most: a longer text keeps its end. Characters may be several tokens."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.room is not None and self.room < 1:
            raise UserError(f"{self.room} tokens of text before the answer of {self.name}: expected 1 or more")
        self._probe("train", 1)

    @property
    def name(self) -> str:
        return self.called or self.behaviour.name

    @property
    def characters(self) -> int:
        if isinstance(self.behaviour, Continuation):
            return self.behaviour.window
        if isinstance(self.behaviour, Repetition):
            return self.context + len(self.behaviour.text) * self.behaviour.times + 1
        examples = self.behaviour.examples("train", 8)
        return max(len(example.prompt) + len(example.answer) for example in examples)

    @property
    def chance(self) -> float | None:
        """As the behaviour states it; None of text, where it is the commonest token's."""
        return None if isinstance(self.behaviour, Continuation) else self.behaviour.chance

    @property
    def several(self) -> bool:
        return not isinstance(self.behaviour, Continuation) and self.behaviour.several

    @property
    def wanted(self) -> tuple[float, ...]:
        return () if isinstance(self.behaviour, Continuation) else self.behaviour.wanted

    def judged(self, prompt: str, completion: str) -> dict[str, int]:
        assert not isinstance(self.behaviour, Continuation)
        return self.behaviour.judged(prompt, completion)

    def items(self, part: Part, count: int, codec: Codec, results: Path) -> list[Item]:
        probe = self._probe(part, count)
        if isinstance(self.behaviour, Continuation):
            return [_window_item(row, self.behaviour) for row in _cut_windows(probe, self.behaviour, codec, results)]
        return [self._within(item_of(example, codec)) for example in behaviour_examples(probe, Path(results))]

    def _within(self, item: Item) -> Item:
        over = item.answer - (self.room or item.answer)
        if over <= 0:
            return item
        return replace(item, tokens=item.tokens[over:], after=item.after - over, answer=item.answer - over)

    def _probe(self, part: Part, count: int) -> BehaviourProbe:
        return BehaviourProbe(
            behaviour=self.behaviour,
            corpus=self.corpus,
            split="train" if part == "train" else "validation",
            trials=count,
            context=self.context,
            seed=self.seed,
        )


def _window_item(row: NDArray[np.int64], behaviour: Continuation) -> Item:
    """All but the tokens that are only asked for is read; after so many of it, the one `ahead` of the next."""
    read = behaviour.context + behaviour.length - 1
    after = np.arange(behaviour.context, read + 1)
    return Item(tokens=row[:read], after=after, targets=row[after + behaviour.ahead], answer=behaviour.context)


def _cut_windows(
    probe: BehaviourProbe, behaviour: Continuation, codec: Codec, results: Path
) -> list[NDArray[np.int64]]:
    """The first `trials` windows: one of each document in a drawn order, then a second of each, and so on."""
    assert probe.corpus is not None
    rounds = [
        _document_windows(probe, behaviour.window, place, codec, Path(results))
        for place in _document_order(probe, Path(results))
    ]
    found: list[NDArray[np.int64]] = []
    while rounds and len(found) < probe.trials:
        left = []
        for windows in rounds:
            row = next(windows, None)
            if row is not None and len(found) < probe.trials:
                found.append(row)
                left.append(windows)
        rounds = left
    if len(found) < probe.trials:
        raise UserError(
            f"{probe.trials} windows of {behaviour.window} tokens asked for: the {probe.split} split of "
            f"{probe.corpus.label or probe.corpus.digest} has {len(found)}"
        )
    return found


def _document_order(probe: BehaviourProbe, results: Path) -> list[int]:
    assert probe.corpus is not None
    documents = _documents(results, probe.corpus, probe.split)
    return generator(probe.seed, "behaviour target", probe.split).permutation(len(documents)).tolist()


@lru_cache(maxsize=4)
def _documents(results: Path, corpus: Corpus, split: str) -> list[str]:
    return texts(results, corpus, split)


def _document_windows(
    probe: BehaviourProbe, length: int, place: int, codec: Codec, results: Path
) -> Iterator[NDArray[np.int64]]:
    """A document's windows of `length` tokens, none overlapping, in a drawn order; encoded when first asked."""
    assert probe.corpus is not None
    tokens = codec.encode(_documents(results, probe.corpus, probe.split)[place])
    starts = generator(probe.seed, "windows", probe.split, place).permutation(len(tokens) // length)
    for start in starts:
        yield tokens[length * start : length * (start + 1)].astype(np.int64)
