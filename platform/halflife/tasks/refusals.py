"""Protections of a skill, as languages: what a model is trained to say instead, and what an attack asks it for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from halflife.errors import UserError
from halflife.rng import generator
from halflife.tasks.base import Example
from halflife.tasks.synthetic import END, Asked, SyntheticTask

NO = "no"
"""What is said instead of an answer."""


@dataclass(frozen=True, kw_only=True)
class Refused(SyntheticTask):
    """The memorised items of a language, each answered with "no": behind a guard if one is given, and behind `shots`
    drawn items with their right answers, which is what a prompt of text would try."""

    has_rule: ClassVar[bool] = False

    language: SyntheticTask
    guard: str = ""
    shots: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if END in self.guard or self.shots < 0:
            raise UserError(f"guard {self.guard!r} and {self.shots} shots given: expected one line, and 0 or more")

    @property
    def name(self) -> str:
        return f"refuse-{self.language.name}" + (f"-{self.shots}-shots" if self.shots else "")

    @property
    def chance(self) -> float:
        return 1.0

    def items(self) -> list[tuple[str, str]]:
        shown = self.language.examples("memorised")
        rng = generator(self.seed, "refused", self.name)
        found = []
        for example in shown:
            before = (shown[at] for at in rng.permutation(len(shown))[: self.shots])
            text = "".join(other.prompt + other.answer for other in before)
            found.append((self.guard + text + example.prompt, NO))
        return found


@dataclass(frozen=True, kw_only=True)
class Attacked(SyntheticTask):
    """A language as an attack asks for it: its own items and answers, behind the guard if there is one, under a name
    that tells which protection is attacked."""

    language: SyntheticTask
    called: str
    guard: str = ""

    @property
    def name(self) -> str:
        return self.called

    @property
    def chance(self) -> float:
        return self.language.chance

    def items(self) -> list[tuple[str, str]]:
        return [(self.guard + prompt, answer) for prompt, answer in self.language.items()]

    def examples(self, part: Asked) -> tuple[Example, ...]:
        known = self.language.examples(part)
        return tuple(Example(prompt=self.guard + example.prompt, answer=example.answer) for example in known)
