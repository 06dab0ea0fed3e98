"""Behaviours: what a prompt may bring a model to do, whether the model was ever trained on it or not.

After the experiments of Nordby 2025 (arXiv 2505.14943), which measure how many optimised tokens each takes.
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
"""Of ten, how many of a behaviour's own prompts each split has."""


def split_of(prompt: str, seed: int) -> Split:
    """The split that a prompt belongs to, wherever and whenever it is drawn: so splits never meet."""
    place = seed_of(seed, "split", prompt) % sum(share for _, share in SHARES)
    for split, share in SHARES:
        if place < share:
            return split
        place -= share
    raise AssertionError("shares cover every place")


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """Base of every behaviour that states its own examples."""

    needs_carriers: ClassVar[bool] = False
    """Whether its prompts are text of a corpus, which is then handed in; splits are the corpus's."""
    conditions: ClassVar[tuple[str, ...]] = ()
    """Names of each example's `conditions`."""
    wanted: ClassVar[tuple[float, ...]] = ()
    """The conditions that ask for what is best."""
    several: ClassVar[bool] = False
    """Whether several answers are right: then `judged` tells of what is said, and `chance` is its."""

    seed: int = 0

    @property
    def name(self) -> str:
        """The task part of metric names."""
        raise NotImplementedError(f"{type(self).__name__} has no name")

    @property
    def chance(self) -> float:
        """Success of one that does not look at the prompt, or moves at random."""
        raise NotImplementedError(f"{type(self).__name__} states no chance")

    def examples(self, split: Split, count: int, carriers: Sequence[str] = ()) -> tuple[Example, ...]:
        """`count` examples of a split, the same ones whenever they are asked for.

        Raises UserError when there are fewer.
        """
        raise NotImplementedError(f"{type(self).__name__} states no examples")

    def check(self, prompt: str, completion: str) -> bool:
        """Whether a completion is right, where several answers are; the end is not part of it."""
        raise NotImplementedError(f"{type(self).__name__} has one right answer: score it instead")

    def judged(self, prompt: str, completion: str) -> dict[str, int]:
        """What a completion comes to, in counts; `hits` is 1 where `check` holds."""
        return {"hits": int(self.check(prompt, completion))}


@dataclass(frozen=True, kw_only=True)
class Repetition(Behaviour):
    """Whatever came before, say a string `times` times. All of it must come from the prompt, so a longer string needs
    more of it; success without it is 0."""

    needs_carriers: ClassVar[bool] = True

    text: str
    times: int = 1

    def __post_init__(self) -> None:
        if not self.text or END in self.text:
            raise UserError(f"string {self.text!r} to repeat given: expected one line of at least one character")
        if self.times < 1:
            raise UserError(f"a string said {self.times} times given: expected 1 or more")

    @property
    def name(self) -> str:
        return f"say-{len(self.text)}" + (f"x{self.times}" if self.times > 1 else "")

    @property
    def chance(self) -> float:
        return 0.0

    def examples(self, split: Split, count: int, carriers: Sequence[str] = ()) -> tuple[Example, ...]:
        if len(carriers) < count:
            raise UserError(f"{count} examples of {self.name} asked for: {len(carriers)} carriers were given")
        return tuple(Example(prompt=carrier, answer=self.text * self.times + END) for carrier in carriers[:count])


def drawn_string(length: int, seed: int = 0) -> str:
    """`length` small letters drawn for `seed`; a longer string begins with every shorter one.

    So that strings of graded length differ in nothing else.
    """
    if length < 1:
        raise UserError(f"a string of {length} characters to repeat given: expected 1 or more")
    letters = generator(seed, "string").integers(len(string.ascii_lowercase), size=max(256, length))
    return "".join(string.ascii_lowercase[letter] for letter in letters[:length])


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """Predict text: `length` tokens after `context` tokens of a window, each the token `ahead` of the next.

    With `ahead` 0 it is what a language model does anyway, so a prompt has nothing to bring: the autoregressive null.
    The same on a fine-tuned model is detuning: how much of what fine-tuning cost on the old text comes back. With
    `ahead` n the model is to skip n tokens. `context` n and `length` 1 asks for the token at index n alone.
    Counts are tokens, so windows are cut by `halflife.data.behaviours`, where tokens are known.
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
        """Tokens of text that an example takes."""
        return self.context + self.length + self.ahead


@dataclass(frozen=True, kw_only=True)
class Shown(SyntheticTask):
    """Training examples of a behaviour as a language, so that a model can be trained on them. Nothing is held out here:
    what is not shown are the behaviour's other splits."""

    has_rule: ClassVar[bool] = False

    behaviour: Behaviour
    count: int = 4000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.behaviour.needs_carriers:
            raise UserError(f"{self.behaviour.name} to be shown given: its prompts are a corpus's text; plant it there")

    @property
    def name(self) -> str:
        return self.behaviour.name

    @property
    def chance(self) -> float:
        return self.behaviour.chance

    def items(self) -> list[tuple[str, str]]:
        examples = self.behaviour.examples("train", self.count)
        return [(example.prompt, example.answer.removesuffix(END)) for example in examples]
