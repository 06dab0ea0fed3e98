"""Targets of soft prompts: examples to fit a prompt on, and held-out ones to evaluate it on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol, get_args, runtime_checkable

import numpy as np

from halflife.data.codecs import of_task
from halflife.data.corpus import Corpus
from halflife.data.tokenizers import Codec
from halflife.errors import UserError, check_choice
from halflife.evaluation.backdoor import BackdoorProbe, Condition, backdoor_examples
from halflife.evaluation.majority import majority_baseline
from halflife.rng import generator
from halflife.tasks.backdoor import Backdoor
from halflife.tasks.base import Example
from halflife.tasks.synthetic import END, PARTS, SyntheticTask
from halflife.tasks.synthetic import Part as TaskPart

Part = Literal["train", "held-out"]


@runtime_checkable
class TextTarget(Protocol):
    """A frozen dataclass that gives examples as text. Other packages may define one without importing this."""

    @property
    def name(self) -> str:
        """Unique among the targets of a stage, without '/'; metric names begin with it."""
        ...

    @property
    def characters(self) -> int:
        """Approximate length of an example, for cost estimates."""
        ...

    def examples(self, part: Part, count: int, results: Path) -> Sequence[Example]:
        """The first `count` examples of a part, or all if there are fewer. An empty prompt stands for `eos`."""
        ...


@dataclass(frozen=True)
class Item:
    """An example in tokens: `targets[i]` is the correct prediction after `after[i]` of the `tokens` (1 to all of them).

    For a prompt and an answer, the targets are the whole answer. For prediction s tokens ahead, after n tokens the
    target is the token at n - 1 + s.
    """

    tokens: np.ndarray
    """(length,) int64."""
    after: np.ndarray
    """(targets,) int64, ascending."""
    targets: np.ndarray
    """(targets,) int64."""
    answer: int
    """Tokens before the answer: the place of a soft prompt at position "answer"."""
    conditions: tuple[float, ...] = ()


@runtime_checkable
class TokenTarget(Protocol):
    """A frozen dataclass that gives items: for plain text or predicting ahead, where there is no prompt and answer."""

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
    """A target that can also judge a model's own completions, for tasks with several correct answers."""

    @property
    def open_ended(self) -> bool:
        """Whether several answers are correct."""
        ...

    @property
    def best_conditions(self) -> tuple[float, ...]:
        """The conditions that request the best answer; empty without conditions."""
        ...

    def judged(self, prompt: str, completion: str) -> Mapping[str, int]:
        """Counts, including `hits`: 1 if the completion, without its terminator, is correct."""
        ...


@dataclass(frozen=True)
class Judged:
    """Prompts to generate from, and the judge of the completions."""

    prompts: Sequence[np.ndarray]
    """In tokens."""
    conditions: tuple[float, ...]
    max_tokens: int
    """Of a completion; one more than the longest known answer."""
    end: int | None
    """The token that ends an answer; None if the terminator is several tokens."""
    judge: Callable[[np.ndarray, np.ndarray], Mapping[str, int]]
    """Counts for a prompt and a completion, in tokens."""


@dataclass(frozen=True)
class TargetItems:
    """The items of one target."""

    name: str
    train: Sequence[Item]
    held_out: Sequence[Item]
    chance: float | None = None
    """Success rate of guessing."""
    judged: Judged | None = None

    @property
    def conditions(self) -> int:
        return len(self.train[0].conditions)

    @property
    def longest(self) -> int:
        """Number of tokens of the longest training item."""
        return max(len(item.tokens) for item in self.train)


def check_position(items: Sequence[Item], position: Literal["start", "answer"] | int) -> None:
    """Raises UserError when `position` is outside some item, or after its last target."""
    shortest, last = min(len(item.tokens) for item in items), min(int(item.after.max()) for item in items)
    if isinstance(position, int) and position > min(shortest, last):
        raise UserError(
            f"soft prompt after {position} tokens of the text given: the shortest text has {shortest} tokens, and its "
            f"last target comes after {last}; expected a position inside every text"
        )


def items(target: Target, part: Part, count: int, codec: Codec, results: Path) -> list[Item]:
    """The items of a target. Raises UserError when the part has none, or the tokenizer cannot encode a text."""
    if isinstance(target, TokenTarget):
        found = list(target.items(part, count, codec, results))
    else:
        found = [item_of(example, codec) for example in target.examples(part, count, results)]
    if not found:
        raise UserError(f"target {target.name} has no {part} examples: expected at least one")
    return found


def chance_of(target: Target, held_out: Sequence[Item]) -> float:
    """Success rate of guessing: the target's own `chance` if it has one, else the majority baseline."""
    own = getattr(target, "chance", None)
    return float(own) if own is not None else majority_baseline([item.targets for item in held_out])


def to_judge(target: JudgingTarget, held_out: Sequence[Item], codec: Codec) -> Judged:
    """The held-out prompts of a target, to generate from."""
    end = codec.encode(END)
    return Judged(
        prompts=[item.tokens[: item.answer] for item in held_out],
        conditions=target.best_conditions,
        max_tokens=1 + max(len(item.targets) for item in held_out),
        end=int(end[0]) if len(end) == 1 else None,
        judge=lambda prompt, completion: target.judged(codec.decode(prompt), codec.decode(completion)),
    )


def item_of(example: Example, codec: Codec) -> Item:
    """Prompt and answer, tokenised separately. Raises UserError when decoding does not restore a text, or the answer is
    empty."""
    prompt, answer = (codec.encode(text) for text in (example.prompt, example.answer))
    for text, tokens in ((example.prompt, prompt), (example.answer, answer)):
        if codec.decode(tokens) != text:
            raise UserError(
                f"the tokenizer {codec.name} cannot encode {text[:40]!r}: it decodes to {codec.decode(tokens)[:40]!r}; "
                "expected a lossless tokenizer, such as bytes, or a task that this one can encode"
            )
    if not len(answer):
        raise UserError(f"an example with an empty answer after {example.prompt[-40:]!r}: expected at least one token")
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
def _longest(task: SyntheticTask) -> int:
    """Characters of the longest item. Cached, as a plan asks often and items are drawn on every call."""
    return max(len(prompt) + len(answer) for prompt, answer in task.items())


@dataclass(frozen=True, kw_only=True)
class TaskTarget:
    """Answer the items of a synthetic task.

    evaluate_on "memorised": the prompt is fitted on half of the memorised items and evaluated on the other half.
    evaluate_on "held-out": it is fitted on all memorised items and evaluated on items that no model was trained on.
    """

    task: SyntheticTask
    evaluate_on: TaskPart = "memorised"
    called: str = ""
    """Overrides the task's name, for example with that of its family."""
    seed: int = 0
    """Draws the halves and the order."""

    def __post_init__(self) -> None:
        check_choice("evaluate_on", self.evaluate_on, PARTS)

    @property
    def name(self) -> str:
        return self.called or self.task.name

    @property
    def characters(self) -> int:
        return _longest(self.task)

    @property
    def chance(self) -> float:
        return self.task.chance

    def examples(self, part: Part, count: int, results: Path) -> list[Example]:
        known = self.task.examples("memorised")
        order = generator(self.seed, "soft prompt", self.task.name).permutation(len(known))
        if self.evaluate_on == "memorised":
            half = len(known) // 2
            order = order[:half] if part == "train" else order[half:]
        elif part == "held-out":
            known = self.task.examples("held-out")
            order = generator(self.seed, "soft prompt", self.task.name, part).permutation(len(known))
        return [known[index] for index in order[:count]]

    def items(self, part: Part, count: int, codec: Codec, results: Path) -> list[Item]:
        codec = of_task(self.task, codec)
        return [item_of(example, codec) for example in self.examples(part, count, results)]


@dataclass(frozen=True, kw_only=True)
class BackdoorTarget:
    """Output the payload without the trigger. The prompt is fitted on carriers of the corpus's training split and
    evaluated on those of its validation split. `condition` "triggered" is the positive control, "near" a false
    trigger."""

    backdoor: Backdoor
    corpus: Corpus
    condition: Condition = "untriggered"
    context: int = 48
    """Characters of carrier text, at most."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("condition of a backdoor target", self.condition, get_args(Condition))

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
