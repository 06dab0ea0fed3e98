"""Behaviours that a soft prompt may elicit from a model, whether or not it was trained on them.

After Nordby 2025 (arXiv 2505.14943), which measures how many optimised tokens each one takes.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from halflife.errors import UserError
from halflife.rng import generator, seed_of
from halflife.tasks.base import Example
from halflife.tasks.synthetic import END, SyntheticTask

Split = Literal["train", "validation", "test"]
SHARES: tuple[tuple[Split, int], ...] = (("train", 8), ("validation", 1), ("test", 1))
"""How many in ten of a behaviour's own prompts go to each split."""


def split_of(prompt: str, seed: int) -> Split:
    """The split of a prompt, by its hash, so that splits never overlap."""
    bucket = seed_of(seed, "split", prompt) % sum(share for _, share in SHARES)
    for split, share in SHARES:
        if bucket < share:
            return split
        bucket -= share
    raise AssertionError("the shares cover every bucket")


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """Base class of behaviours that define their own examples."""

    needs_carriers: ClassVar[bool] = False
    """Whether its prompts are text from a corpus, passed to `examples`; the splits are then the corpus's."""
    best_conditions: ClassVar[tuple[float, ...]] = ()
    """The conditions that request the best answer."""
    open_ended: ClassVar[bool] = False
    """Whether several answers are correct. `judged` then scores a completion, and `chance` refers to its hits."""

    seed: int = 0

    @property
    def name(self) -> str:
        """Part of metric names."""
        raise NotImplementedError(f"{type(self).__name__} has no name")

    @property
    def chance(self) -> float:
        """Success rate of random play, or of a model that ignores the prompt."""
        raise NotImplementedError(f"{type(self).__name__} has no chance level")

    def examples(self, split: Split, count: int, carriers: Sequence[str] = ()) -> tuple[Example, ...]:
        """The first `count` examples of a split, the same on every call.

        Raises UserError when there are fewer.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define its examples")

    def check(self, prompt: str, completion: str) -> bool:
        """Whether a completion, without its terminator, is one of several correct answers."""
        raise NotImplementedError(f"{type(self).__name__} has one correct answer: score it instead")

    def judged(self, prompt: str, completion: str) -> dict[str, int]:
        """Counts for a completion; `hits` is 1 if `check` holds, else 0."""
        return {"hits": int(self.check(prompt, completion))}


@dataclass(frozen=True, kw_only=True)
class Repetition(Behaviour):
    """Output a fixed string `times` times after any text. All of its information must come from the soft prompt, so a
    longer string needs more tokens; without a prompt, success is 0."""

    needs_carriers: ClassVar[bool] = True

    text: str
    times: int = 1

    def __post_init__(self) -> None:
        if not self.text or END in self.text:
            raise UserError(f"string {self.text!r} to repeat given: expected one line of at least one character")
        if self.times < 1:
            raise UserError(f"string to repeat {self.times} times given: expected 1 or more")

    @property
    def name(self) -> str:
        return f"say-{len(self.text)}" + (f"x{self.times}" if self.times > 1 else "")

    @property
    def chance(self) -> float:
        return 0.0

    def examples(self, split: Split, count: int, carriers: Sequence[str] = ()) -> tuple[Example, ...]:
        if len(carriers) < count:
            raise UserError(f"{count} examples of {self.name} requested: {len(carriers)} carriers were given")
        return tuple(Example(prompt=carrier, answer=self.text * self.times + END) for carrier in carriers[:count])


def drawn_string(length: int, seed: int = 0) -> str:
    """`length` random lower-case letters. A longer string begins with every shorter one, so that they differ only in
    length."""
    if length < 1:
        raise UserError(f"string of {length} characters to repeat given: expected 1 or more")
    letters = generator(seed, "string").integers(len(string.ascii_lowercase), size=max(256, length))
    return "".join(string.ascii_lowercase[letter] for letter in letters[:length])


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """Predict text: `length` tokens after `context` tokens of a window, each the token `ahead` places after the next.

    With `ahead` 0 this is what a language model does anyway, so a prompt adds nothing: the autoregressive null. On a
    fine-tuned model it is detuning: how much of the loss that fine-tuning caused on the old text is recovered. With
    `ahead` n the model must skip n tokens. With `context` n and `length` 1 only the token at index n is predicted.
    All counts are in tokens, so windows are cut in `halflife.evaluation.behaviours`, where the tokenizer is known.
    """

    context: int = 32
    length: int = 32
    ahead: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("context", 1), ("length", 1), ("ahead", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} of {getattr(self, name)} tokens given: expected {least} or more")

    @property
    def name(self) -> str:
        if self.ahead:
            return f"skip-{self.ahead}"
        return f"index-{self.context}" if self.length == 1 else "continuation"

    @property
    def window(self) -> int:
        """Tokens of text in an example."""
        return self.context + self.length + self.ahead


@dataclass(frozen=True, kw_only=True)
class Shown(SyntheticTask):
    """The training split of a behaviour as a synthetic task, to train a model on. Nothing is held out here; the
    behaviour has other splits."""

    has_rule: ClassVar[bool] = False

    behaviour: Behaviour
    count: int = 4000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.behaviour.needs_carriers:
            raise UserError(
                f"training examples of {self.behaviour.name} given: its prompts are a corpus's text; expected a "
                "behaviour with prompts of its own"
            )

    @property
    def name(self) -> str:
        return self.behaviour.name

    @property
    def chance(self) -> float:
        return self.behaviour.chance

    def items(self) -> list[tuple[str, str]]:
        examples = self.behaviour.examples("train", self.count)
        return [(example.prompt, example.answer.removesuffix(END)) for example in examples]
