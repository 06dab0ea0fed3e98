"""The probe of a behaviour, its examples in tokens, and a target for soft prompts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halflife.data.codecs import load
from halflife.data.corpus import Corpus, texts
from halflife.data.tokenizers import Codec, Tokenizer
from halflife.data.tokens import token_array
from halflife.errors import UserError
from halflife.evaluation.probe import SHOWN, Measurement, Probe, Setting, Shown
from halflife.evaluation.targets import Item, Part, item_of
from halflife.rng import generator
from halflife.tasks.base import Example
from halflife.tasks.behaviours import Continuation, Repetition, Split
from halflife.tasks.boards import Pathfinding
from halflife.tasks.games import DropGame

Tokens = NDArray[np.int64]
ENCODED = 32
"""Documents of text that are encoded at once"""


@dataclass(frozen=True, kw_only=True)
class BehaviourProbe(Probe):
    """Does the model show a behaviour? Measures `hits`, `trials`, `logprob` (nats per answer token) and `loss`, its
    negative. A hit is the whole answer; for open-ended behaviours, the one answer that the example gives."""

    behaviour: Repetition | Continuation | Pathfinding | DropGame
    corpus: Corpus | None = None
    """The source of the prompts, for behaviours that need text."""
    split: Split = "validation"
    trials: int = 128
    context: int = 48
    """Characters of text in a prompt; a continuation has its own length."""
    seed: int = 0

    def __post_init__(self) -> None:
        needs = isinstance(self.behaviour, Continuation) or self.behaviour.needs_carriers
        if needs != (self.corpus is not None):
            expected = "a corpus for the prompts" if needs else "no corpus, as it has prompts of its own"
            raise UserError(f"probe of {self.behaviour.name} with corpus {self.corpus} given: expected {expected}")
        if self.trials < 1 or self.context < 1:
            raise UserError(
                f"{self.trials} trials with {self.context} characters of text given: expected 1 or more of each"
            )

    def tokens_scored(self, sequence: int) -> float:
        return float(self.trials * sequence)

    def prepare(self, setting: Setting) -> Measurement:
        from halflife.evaluation.scoring import pack, score  # imports torch

        prompts, answers, ahead = behaviour_tokens(self, setting.tokenizer, setting.results)
        longest = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
        if longest > setting.sequence + 1:
            raise UserError(
                f"sequence of {setting.sequence} tokens given: prompt and answer of {self.behaviour.name} take "
                f"{longest}; give a longer sequence"
            )
        packed = pack(prompts, answers, setting.device, ahead)

        def measure(model: Any) -> dict[str, float]:
            scores = score(model, packed)
            logprob = scores.logprob
            return {"hits": float(scores.hits), "trials": float(scores.trials), "logprob": logprob, "loss": -logprob}

        return measure

    def shown(self, setting: Setting) -> list[Shown]:
        if isinstance(self.behaviour, Continuation):  # it is made of tokens
            return []
        examples = behaviour_examples(replace(self, trials=min(SHOWN, self.trials)), setting.results)
        return [Shown(prompt=each.prompt, answer=each.answer) for each in examples]


def behaviour_tokens(
    probe: BehaviourProbe, tokenizer: Tokenizer, results: Path
) -> tuple[list[Tokens], list[Tokens], int]:
    """Prompts and answers in tokens, and `ahead` of `scoring.pack`. They depend on the probe only.

    Raises UserError when there are fewer examples than trials.
    """
    results = Path(results)
    if isinstance(probe.behaviour, Continuation):
        return _windows(probe, probe.behaviour, tokenizer, results)
    examples, codec = behaviour_examples(probe, results), load(tokenizer, results)
    prompts = codec.encode_many([example.prompt for example in examples])
    return prompts, codec.encode_many([example.answer for example in examples]), 0


def behaviour_examples(probe: BehaviourProbe, results: Path) -> list[Example]:
    """The probe's examples as text."""
    behaviour = probe.behaviour
    if isinstance(behaviour, Continuation):
        raise ValueError("a continuation is made of tokens: it has no examples as text")
    corpus = probe.corpus
    carriers = _carriers(probe, corpus, results) if behaviour.needs_carriers and corpus is not None else []
    return list(behaviour.examples(probe.split, probe.trials, carriers))


def _carriers(probe: BehaviourProbe, corpus: Corpus, results: Path) -> list[str]:
    """Non-overlapping pieces of the split's documents, `context` characters each."""
    documents = _documents(results, corpus, probe.split)
    firsts = np.cumsum([0, *(len(document) // probe.context for document in documents)])  # of each document's pieces
    order = generator(probe.seed, "behaviour probe", probe.split).permutation(int(firsts[-1]))[: probe.trials]
    numbers = np.searchsorted(firsts, order, side="right") - 1
    starts = probe.context * (order - firsts[numbers])
    return [documents[n][at : at + probe.context] for n, at in zip(numbers.tolist(), starts.tolist(), strict=True)]


def _windows(
    probe: BehaviourProbe, behaviour: Continuation, tokenizer: Tokenizer, results: Path
) -> tuple[list[Tokens], list[Tokens], int]:
    """Non-overlapping windows of the split's text."""
    assert probe.corpus is not None
    tokens = token_array(results, probe.corpus, probe.split, tokenizer)
    count = len(tokens) // behaviour.window
    if count < probe.trials:
        raise _too_few_windows(probe, behaviour, count)
    order = generator(probe.seed, "behaviour probe", probe.split).permutation(count)[: probe.trials]
    starts = behaviour.window * np.sort(order)
    rows = np.stack([tokens[start : start + behaviour.window] for start in starts]).astype(np.int64)
    # the answer includes the skipped tokens, which `pack` takes as input only
    return list(rows[:, : behaviour.context]), list(rows[:, behaviour.context :]), behaviour.ahead


def _too_few_windows(probe: BehaviourProbe, behaviour: Continuation, count: int) -> UserError:
    assert probe.corpus is not None
    return UserError(
        f"{probe.trials} windows of {behaviour.window} tokens requested: the {probe.split} split of "
        f"{probe.corpus.label or probe.corpus.digest} has {count}"
    )


@dataclass(frozen=True, kw_only=True)
class BehaviourTarget:
    """Show a behaviour. The prompt is fitted on its training split (or the corpus's) and evaluated on the validation
    split. Raises UserError when a corpus is missing, or given without need."""

    behaviour: Repetition | Continuation | Pathfinding | DropGame
    corpus: Corpus | None = None
    context: int = 48
    """Characters of text in a prompt; a continuation has its own length."""
    called: str = ""
    """Overrides the behaviour's name, for example with "detuning"."""
    room: int | None = None
    """Tokens of text before the answer, at most: only the end of a longer text is kept."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.room is not None and self.room < 1:
            raise UserError(f"{self.room} tokens of text before the answer of {self.name} given: expected 1 or more")
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
        """The behaviour's own chance level; None for text, where it is the majority baseline."""
        return None if isinstance(self.behaviour, Continuation) else self.behaviour.chance

    @property
    def open_ended(self) -> bool:
        return not isinstance(self.behaviour, Continuation) and self.behaviour.open_ended

    @property
    def best_conditions(self) -> tuple[float, ...]:
        return () if isinstance(self.behaviour, Continuation) else self.behaviour.best_conditions

    def judged(self, prompt: str, completion: str) -> dict[str, int]:
        assert not isinstance(self.behaviour, Continuation)
        return self.behaviour.judged(prompt, completion)

    def items(self, part: Part, count: int, codec: Codec, results: Path) -> list[Item]:
        probe = self._probe(part, count)
        if isinstance(self.behaviour, Continuation):
            return [
                _window_item(row, self.behaviour) for row in _cut_windows(probe, self.behaviour, codec, Path(results))
            ]
        return [self._within(item_of(example, codec)) for example in behaviour_examples(probe, Path(results))]

    def _within(self, item: Item) -> Item:
        excess = item.answer - (self.room or item.answer)
        if excess <= 0:
            return item
        return replace(item, tokens=item.tokens[excess:], after=item.after - excess, answer=item.answer - excess)

    def _probe(self, part: Part, count: int) -> BehaviourProbe:
        return BehaviourProbe(
            behaviour=self.behaviour,
            corpus=self.corpus,
            split="train" if part == "train" else "validation",
            trials=count,
            context=self.context,
            seed=self.seed,
        )


def _window_item(row: Tokens, behaviour: Continuation) -> Item:
    """The model reads all tokens that predict another; the target is `ahead` places after the next token."""
    read = behaviour.context + behaviour.length - 1
    after = np.arange(behaviour.context, read + 1)
    return Item(tokens=row[:read], after=after, targets=row[after + behaviour.ahead], answer=behaviour.context)


@lru_cache(maxsize=16)
def _cut_windows(probe: BehaviourProbe, behaviour: Continuation, codec: Codec, results: Path) -> list[Tokens]:
    """The first `trials` windows: one of each document in random order, then a second of each, and so on. The same for
    all fits of a plan, and whole documents are encoded for them."""
    documents: Iterable[Iterator[Tokens]] = _by_document(probe, behaviour.window, codec, results)
    found: list[Tokens] = []
    while documents and len(found) < probe.trials:
        left = []
        for windows in documents:
            row = next(windows, None)
            if row is not None and len(found) < probe.trials:
                found.append(row)
                left.append(windows)
        documents = left
    if len(found) < probe.trials:
        raise _too_few_windows(probe, behaviour, len(found))
    return found


def _document_order(probe: BehaviourProbe, results: Path) -> list[int]:
    assert probe.corpus is not None
    documents = _documents(results, probe.corpus, probe.split)
    return generator(probe.seed, "behaviour target", probe.split).permutation(len(documents)).tolist()


@lru_cache(maxsize=4)
def _documents(results: Path, corpus: Corpus, split: str) -> list[str]:
    return texts(results, corpus, split)


def _by_document(probe: BehaviourProbe, length: int, codec: Codec, results: Path) -> Iterator[Iterator[Tokens]]:
    """Of each document, in random order, its windows; encoded some documents at a time."""
    assert probe.corpus is not None
    order, documents = _document_order(probe, results), _documents(results, probe.corpus, probe.split)
    for first in range(0, len(order), ENCODED):
        some = order[first : first + ENCODED]
        for index, tokens in zip(some, codec.encode_many([documents[index] for index in some]), strict=True):
            yield _document_windows(probe, length, index, tokens)


def _document_windows(probe: BehaviourProbe, length: int, index: int, tokens: Tokens) -> Iterator[Tokens]:
    """Non-overlapping windows of `length` tokens of one document, in random order."""
    starts = generator(probe.seed, "windows", probe.split, index).permutation(len(tokens) // length)
    for start in starts:
        yield tokens[length * start : length * (start + 1)].astype(np.int64)
