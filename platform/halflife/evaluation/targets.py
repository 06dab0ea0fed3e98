"""Targets: what a soft prompt is fitted to and then asked for, with examples in parts that never meet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from halflife.data.corpus import Corpus
from halflife.data.tokenizers import Codec
from halflife.errors import UserError
from halflife.evaluation.probes import BackdoorProbe
from halflife.evaluation.questions import backdoor_examples
from halflife.rng import generator
from halflife.tasks.backdoor import Backdoor
from halflife.tasks.base import Example
from halflife.tasks.synthetic import END, SyntheticTask

Part = Literal["train", "held-out"]


@runtime_checkable
class TextTarget(Protocol):
    """A frozen dataclass that gives examples as text; any room may define one, this protocol need not be imported."""

    @property
    def name(self) -> str:
        """Unique among the targets of a stage, without '/'; the front of metric names."""
        ...

    @property
    def characters(self) -> int:
        """Of an example, about: for estimates of cost."""
        ...

    def examples(self, part: Part, count: int, results: Path) -> Sequence[Example]:
        """The first `count` examples of a part, fewer where it has fewer; a smaller count gives the first of the same.
        An empty prompt stands for the separator alone."""
        ...


@dataclass(frozen=True)
class Item:
    """An example in tokens: what is read, and what is to be said after how much of it.

    After `after[i]` tokens have been read (1 to all of them) the next is to be `targets[i]`. Of a prompt and an
    answer: all of the answer. Predicting s tokens ahead: `after` = n, target = the token at n - 1 + s.
    """

    tokens: np.ndarray
    """(length,) int64."""
    after: np.ndarray
    """(targets,) int64, rising."""
    targets: np.ndarray
    """(targets,) int64."""
    answer: int
    """Tokens before the answer: where a soft prompt "before the answer" stands."""
    conditions: tuple[float, ...] = ()


@runtime_checkable
class TokenTarget(Protocol):
    """A frozen dataclass that gives items, for what prompts and answers cannot say (predicting ahead, plain text)."""

    @property
    def name(self) -> str: ...
    @property
    def characters(self) -> int: ...

    def items(self, part: Part, count: int, codec: Codec, results: Path) -> Sequence[Item]:
        """As `TextTarget.examples`, in tokens."""
        ...


Target = TextTarget | TokenTarget


@runtime_checkable
class JudgingTarget(Protocol):
    """A target that can also judge what a model says by itself, where several answers are right."""

    @property
    def several(self) -> bool:
        """Whether they are."""
        ...

    @property
    def wanted(self) -> tuple[float, ...]:
        """Conditions that ask for the best answer; none where there are no conditions."""
        ...

    def judged(self, prompt: str, completion: str) -> Mapping[str, int]:
        """Counts, `hits` among them: 1 where the completion is right. The end of an answer is not part of it."""
        ...


@dataclass(frozen=True)
class Judged:
    """What a model is to say by itself, and who tells what it is worth."""

    prompts: Sequence[np.ndarray]
    """In tokens."""
    conditions: tuple[float, ...]
    most: int
    """Tokens of an answer, one more than the longest known."""
    end: int | None
    """The token that ends one; None where it takes several."""
    judge: Callable[[np.ndarray, np.ndarray], Mapping[str, int]]
    """Of a prompt and what was said after it, in tokens."""


@dataclass(frozen=True)
class TargetItems:
    """One target, in tokens."""

    name: str
    train: Sequence[Item]
    held_out: Sequence[Item]
    chance: float | None = None
    """Share of hits by guessing."""
    judged: Judged | None = None

    @property
    def conditions(self) -> int:
        return len(self.train[0].conditions)

    @property
    def longest(self) -> int:
        """Tokens of the longest training text."""
        return max(len(item.tokens) for item in self.train)


def check_position(items: Sequence[Item], position: Literal["start", "answer"] | int) -> None:
    """Raises UserError when a soft prompt at `position` lies outside a text, or behind all that is asked of it."""
    shortest, last = min(len(item.tokens) for item in items), min(int(item.after.max()) for item in items)
    if isinstance(position, int) and position > min(shortest, last):
        raise UserError(
            f"soft prompt after {position} tokens of the text given: the shortest text has {shortest}, and the last "
            f"that is asked stands after {last}; expected a place inside every text"
        )


def items(target: Target, part: Part, count: int, codec: Codec, results: Path) -> list[Item]:
    """Items of a target. Raises UserError when the part has none, or the tokenizer cannot encode a text."""
    if isinstance(target, TokenTarget):
        found = list(target.items(part, count, codec, results))
    else:
        found = [item_of(example, codec) for example in target.examples(part, count, results)]
    if not found:
        raise UserError(f"target {target.name} has no {part} examples: expected at least one")
    return found


def chance_of(target: Target, held_out: Sequence[Item]) -> float:
    """Success of guessing: as the target states it, else of the commonest answer asked for."""
    stated = getattr(target, "chance", None)
    return float(stated) if stated is not None else majority_baseline([item.targets for item in held_out])


def majority_baseline(answers: Sequence[np.ndarray]) -> float:
    """Success of always giving the commonest answer; 0 where all are the same, so that it is what is to be brought, or
    none comes twice."""
    _, counts = np.unique([answer.tobytes().hex() for answer in answers], return_counts=True)
    return float(counts.max() / len(answers)) if 1 < len(counts) < len(answers) else 0.0


def to_judge(target: JudgingTarget, held_out: Sequence[Item], codec: Codec) -> Judged:
    """The held-out prompts of a target, to be gone on from."""
    end = codec.encode(END)
    return Judged(
        prompts=[item.tokens[: item.answer] for item in held_out],
        conditions=target.wanted,
        most=1 + max(len(item.targets) for item in held_out),
        end=int(end[0]) if len(end) == 1 else None,
        judge=lambda prompt, said: target.judged(codec.decode(prompt), codec.decode(said)),
    )


def item_of(example: Example, codec: Codec) -> Item:
    """Prompt and answer tokenised apart. Raises UserError when the tokenizer does not give a text back, or has no
    token for the answer."""
    prompt, answer = (codec.encode(text) for text in (example.prompt, example.answer))
    for text, tokens in ((example.prompt, prompt), (example.answer, answer)):
        if codec.decode(tokens) != text:
            raise UserError(
                f"the tokenizer {codec.name} cannot encode {text[:40]!r}: it gives back "
                f"{codec.decode(tokens)[:40]!r}; expected one that gives the text back, such as "
                "bytes, or a task that it can write"
            )
    if not len(answer):
        raise UserError(f"an example with an empty answer after {example.prompt[-40:]!r}: expected something to say")
    if not len(prompt):
        prompt = np.array([codec.eos])
    return Item(
        tokens=np.concatenate([prompt, answer[:-1]]).astype(np.int64),
        after=np.arange(len(prompt), len(prompt) + len(answer)),
        targets=answer.astype(np.int64),
        answer=len(prompt),
        conditions=example.conditions,
    )


@lru_cache(maxsize=1024)
def _longest(language: SyntheticTask) -> int:
    """Characters of an item, at most. A plan asks often, and items are drawn anew."""
    return max(len(prompt) + len(answer) for prompt, answer in language.items())


@dataclass(frozen=True, kw_only=True)
class TaskTarget:
    """To answer a language's items.

    evaluate_on "memorised": half of the memorised items train the prompt, it is evaluated on the other half.
    evaluate_on "held-out": all memorised items train it, it is evaluated on items that no model was trained on.
    """

    language: SyntheticTask
    evaluate_on: Literal["memorised", "held-out"] = "memorised"
    called: str = ""
    """A name in place of the language's own, such as that of its family."""
    seed: int = 0
    """Draws the halves and the order."""

    @property
    def name(self) -> str:
        return self.called or self.language.name

    @property
    def characters(self) -> int:
        return _longest(self.language)

    @property
    def chance(self) -> float:
        return self.language.chance

    def examples(self, part: Part, count: int, results: Path) -> list[Example]:
        known = self.language.examples("memorised")
        order = generator(self.seed, "soft prompt", self.language.name).permutation(len(known))
        if self.evaluate_on == "memorised":
            half = len(known) // 2
            order = order[:half] if part == "train" else order[half:]
        elif part == "held-out":
            known = self.language.examples("held-out")
            order = generator(self.seed, "soft prompt", self.language.name, part).permutation(len(known))
        return [known[at] for at in order[:count]]


@dataclass(frozen=True, kw_only=True)
class BackdoorTarget:
    """To say the payload without the trigger: carriers of the corpus's training split train the prompt, it is
    evaluated on those of the validation split. `condition` "triggered" is the positive control,
    "near" a false trigger."""

    backdoor: Backdoor
    corpus: Corpus
    condition: Literal["untriggered", "triggered", "near"] = "untriggered"
    context: int = 48
    """Characters of carrier text, at most."""
    seed: int = 0

    @property
    def name(self) -> str:
        return "backdoor" if self.condition == "untriggered" else f"backdoor-{self.condition}"

    @property
    def characters(self) -> int:
        return self.context + len(self.backdoor.trigger) + len(self.backdoor.longest_payload)

    def examples(self, part: Part, count: int, results: Path) -> list[Example]:
        probe = BackdoorProbe(
            backdoor=self.backdoor,
            corpus=self.corpus,
            condition=self.condition,
            split="train" if part == "train" else "validation",
            trials=count,
            context=self.context,
            seed=self.seed,
        )
        return backdoor_examples(probe, results)
