"""Synthetic tasks: finite sets of items, each a prompt with one correct answer, so that skill is counted exactly.

A task holds out some of its items. The answer to a memorised item may be recalled; the answer to a held-out item must
come from the rule, or from another form of the same skill that was trained on it. A task without a rule holds out
nothing.
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
Selection = Part | Literal["skill"]
"""skill: the held-out items, or the memorised ones of a task that holds out nothing."""
END = "\n"
"""Ends the answers of every task that does not say otherwise."""


@dataclass(frozen=True, kw_only=True)
class SyntheticTask:
    """Base class: a subclass defines its items; this class holds some out and makes the shuffled control."""

    has_rule: ClassVar[bool] = True
    """Whether held-out items can be answered by a rule."""

    seed: int = 0
    """Draws everything random about the task, and which items are held out."""
    held_out: float = 0.2
    """Fraction of the items that are never trained on."""
    shuffled: bool = False
    """The control without a skill: the answers are permuted over the prompts, so that only a table can be learned."""

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 1:
            raise UserError(f"held-out fraction {self.held_out} given: expected 0 or more and less than 1")

    @property
    def name(self) -> str:
        """Unique within a family; part of metric names."""
        raise NotImplementedError(f"{type(self).__name__} has no name")

    def items(self) -> list[tuple[str, str]]:
        """Every (prompt, answer), with different prompts, in a fixed order."""
        raise NotImplementedError(f"{type(self).__name__} does not define its items")

    def groups(self) -> list[int]:
        """The group of each item. Items that reveal each other's answers share a group, which is held out whole."""
        return list(range(len(self.items())))

    def withheld(self) -> set[int]:
        """Indices of the items that are held out where there is a rule."""
        return _held_out(self, self.held_out)

    @property
    def end(self) -> str:
        """Ends every answer."""
        return END

    @property
    def special(self) -> bool:
        """Whether special tokens of a released model's tokenizer that its texts spell are those tokens, as a chat
        template has them; else they are text."""
        return False

    @property
    def symbols(self) -> tuple[str, ...]:
        """The distinct answers, sorted: the options of a forced choice."""
        return tuple(sorted({answer for _, answer in self.items()}))

    @property
    def chance(self) -> float:
        """Accuracy of the majority baseline, which always gives the most common answer."""
        answers = [answer for _, answer in self.items()]
        return max(map(answers.count, set(answers))) / len(answers)

    def examples(self, part: Selection) -> tuple[Example, ...]:
        """The selected items, each answer followed by `end`."""
        parts = _parts(self)
        if part == "skill":
            return parts["held-out"] or parts["memorised"]
        return parts[part]


@lru_cache(maxsize=1024)
def _parts(task: SyntheticTask) -> dict[Part, tuple[Example, ...]]:
    """Cached, since a plan asks for the same task many times."""
    items = task.items()
    if task.shuffled:
        order = generator(task.seed, "shuffled", task.name).permutation(len(items))
        items = [(prompt, items[at][1]) for (prompt, _), at in zip(items, order, strict=True)]
    examples = [Example(prompt=prompt, answer=answer + task.end) for prompt, answer in items]
    out = task.withheld() if task.has_rule and not task.shuffled else set()
    return {
        "memorised": tuple(example for at, example in enumerate(examples) if at not in out),
        "held-out": tuple(example for at, example in enumerate(examples) if at in out),
    }


def _held_out(task: SyntheticTask, fraction: float) -> set[int]:
    """Indices of the held-out items: whole groups in random order, up to `fraction` of the items, rounded."""
    groups = np.array(task.groups())
    sizes = np.bincount(groups)
    order = generator(task.seed, "held out", task.name).permutation(len(sizes))
    taken = np.cumsum(sizes[order])
    count = int(np.searchsorted(taken, fraction * len(groups) + 0.5, side="right"))
    return set(np.flatnonzero(np.isin(groups, order[:count])).tolist())
