"""Languages: finite sets of items, each a prompt with one right answer, so that skill is counted exactly.

A language holds out some of its items: an answer to a memorised item may be recalled, one to a held-out item comes from
the rule, or from another form of the same skill that was trained on it. A language without a rule holds out nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal, get_args

import numpy as np

from halflife.errors import UserError
from halflife.rng import generator
from halflife.tasks.base import Example

Part = Literal["memorised", "held-out"]
PARTS: tuple[Part, ...] = get_args(Part)
Asked = Part | Literal["skill"]
"""skill: the held-out items, or the memorised ones of a language that holds out nothing."""
END = "\n"
"""Ends every answer."""


@dataclass(frozen=True, kw_only=True)
class SyntheticTask:
    """Base of every language: a subclass states its items; which of them are held out, and the control, are here."""

    has_rule: ClassVar[bool] = True
    """Whether held-out items can be answered at all."""

    seed: int = 0
    """Draws what the language leaves open, and which items are held out."""
    held_out: float = 0.2
    """Share of the items that are never trained on."""
    shuffled: bool = False
    """The control without a skill: the same prompts and answers, dealt anew, so that there is only a table to learn."""

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 1:
            raise UserError(f"held-out share {self.held_out} given: expected 0 or more and less than 1")

    @property
    def name(self) -> str:
        """Unique in a family; the task part of metric names."""
        raise NotImplementedError(f"{type(self).__name__} has no name")

    def items(self) -> list[tuple[str, str]]:
        """Every (prompt, answer), in an order that never changes; prompts differ."""
        raise NotImplementedError(f"{type(self).__name__} states no items")

    def groups(self) -> list[int]:
        """By item, the group that it is in: a group is held out whole, where its items answer one another."""
        return list(range(len(self.items())))

    @property
    def symbols(self) -> tuple[str, ...]:
        """The different answers, sorted: what a forced choice chooses from."""
        return tuple(sorted({answer for _, answer in self.items()}))

    @property
    def chance(self) -> float:
        """Success of always giving the commonest answer."""
        answers = [answer for _, answer in self.items()]
        return max(map(answers.count, set(answers))) / len(answers)

    def examples(self, part: Asked) -> tuple[Example, ...]:
        """The items of one part, answers ended."""
        parts = _parts(self)
        if part == "skill":
            return parts["held-out"] or parts["memorised"]
        return parts[part]


@lru_cache(maxsize=1024)
def _parts(language: SyntheticTask) -> dict[Part, tuple[Example, ...]]:
    """Kept, as a plan describes the same language many times."""
    items = language.items()
    if language.shuffled:
        order = generator(language.seed, "shuffled", language.name).permutation(len(items))
        items = [(prompt, items[at][1]) for (prompt, _), at in zip(items, order, strict=True)]
    examples = [Example(prompt=prompt, answer=answer + END) for prompt, answer in items]
    share = language.held_out if language.has_rule and not language.shuffled else 0.0
    out = _held_out(language, share)
    return {
        "memorised": tuple(example for at, example in enumerate(examples) if at not in out),
        "held-out": tuple(example for at, example in enumerate(examples) if at in out),
    }


def _held_out(language: SyntheticTask, share: float) -> set[int]:
    """Places of the items that are held out: of groups in a drawn order as many as come nearest to `share`."""
    groups = np.array(language.groups())
    sizes = np.bincount(groups)
    order = generator(language.seed, "held out", language.name).permutation(len(sizes))
    taken = np.cumsum(sizes[order])
    count = int(np.searchsorted(taken, share * len(groups) + 0.5, side="right"))
    return set(np.flatnonzero(np.isin(groups, order[:count])).tolist())
