"""Protections of a skill as synthetic tasks: refusals to train on, and the skill as an attack requests it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from halflife.errors import UserError
from halflife.rng import generator
from halflife.tasks.base import Example
from halflife.tasks.synthetic import END, Selection, SyntheticTask

NO = "no"
"""The answer of a refusal."""


@dataclass(frozen=True, kw_only=True)
class Refused(SyntheticTask):
    """The memorised items of a task, each answered with "no": after a guard if one is given, and after `shots` random
    items with their correct answers, as a few-shot text prompt would have them."""

    has_rule: ClassVar[bool] = False

    task: SyntheticTask
    guard: str = ""
    shots: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if END in self.guard or self.shots < 0:
            raise UserError(f"guard {self.guard!r} and {self.shots} shots given: expected one line, and 0 or more")

    @property
    def name(self) -> str:
        return f"refuse-{self.task.name}" + (f"-{self.shots}-shots" if self.shots else "")

    @property
    def chance(self) -> float:
        return 1.0

    def items(self) -> list[tuple[str, str]]:
        shown = self.task.examples("memorised")
        rng = generator(self.seed, "refused", self.name)
        found = []
        for example in shown:
            before = (shown[at] for at in rng.permutation(len(shown))[: self.shots])
            text = "".join(other.prompt + other.answer for other in before)
            found.append((self.guard + text + example.prompt, NO))
        return found


@dataclass(frozen=True, kw_only=True)
class Attacked(SyntheticTask):
    """A task as an attack requests it: its own items and answers, after the guard if there is one, named after the
    attacked protection."""

    task: SyntheticTask
    called: str
    guard: str = ""

    @property
    def name(self) -> str:
        return self.called

    @property
    def chance(self) -> float:
        return self.task.chance

    def items(self) -> list[tuple[str, str]]:
        return [(self.guard + prompt, answer) for prompt, answer in self.task.items()]

    def examples(self, part: Selection) -> tuple[Example, ...]:
        known = self.task.examples(part)
        return tuple(Example(prompt=self.guard + example.prompt, answer=example.answer) for example in known)
