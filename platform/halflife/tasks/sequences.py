"""Ten unrelated trivial tasks: no rule, form or answer of one helps with another."""

from __future__ import annotations

import itertools
import string
from dataclasses import dataclass
from typing import ClassVar

from halflife.rng import generator
from halflife.tasks.synthetic import SyntheticTask


@dataclass(frozen=True, kw_only=True)
class _Drawn(SyntheticTask):
    """A task with `count` random items, whose prompts are unique."""

    count: int = 200

    def draw(self, rng) -> tuple[str, str]:
        """One random (prompt, answer)."""
        raise NotImplementedError(f"{type(self).__name__} does not draw items")

    def items(self) -> list[tuple[str, str]]:
        rng = generator(self.seed, "items", self.name)
        found: dict[str, str] = {}
        for _ in range(50 * self.count):  # a task with fewer different items gives all it has
            prompt, answer = self.draw(rng)
            found.setdefault(prompt, answer)
            if len(found) == self.count:
                break
        return list(found.items())


@dataclass(frozen=True, kw_only=True)
class Progression(_Drawn):
    """Continue x, 2x+1. Numbers are written lowest digit first, the order in which carries propagate."""

    count: int = 240
    """Nearly all possible items. Held-out accuracy at 60k and 2 million tokens: near 0.5 with 200 items, 0.54 to 0.75
    with 240."""

    @property
    def name(self) -> str:
        return "progression"

    def draw(self, rng) -> tuple[str, str]:
        x = int(rng.integers(1, 250))
        *shown, answer = (str(term)[::-1] for term in (x, 2 * x + 1, 4 * x + 3))
        return f">{'>'.join(shown)}>", answer


@dataclass(frozen=True, kw_only=True)
class Phrase(SyntheticTask):
    """Four random words repeated in a cycle: given some of them, starting anywhere, name the next one."""

    beginnings: ClassVar[tuple[str, ...]] = ("br", "p", "t", "kl", "m", "sn", "gr", "v")
    endings: ClassVar[tuple[str, ...]] = ("nk", "t", "x", "mp")

    @classmethod
    def words(cls) -> tuple[str, ...]:
        """Every word that can be drawn."""
        return tuple(one + vowel + end for one in cls.beginnings for vowel in "aiou" for end in cls.endings)

    @property
    def name(self) -> str:
        return "phrase"

    def items(self) -> list[tuple[str, str]]:
        rng = generator(self.seed, "phrase")
        words = [
            self.beginnings[i] + "".join(rng.choice(list("aiou"), 1)) + ending
            for i, ending in zip(rng.permutation(len(self.beginnings))[:4], self.endings, strict=True)
        ]
        return [
            (" ".join(words[(begin + at) % 4] for at in range(length)) + " ", words[(begin + length) % 4])
            for begin in range(4)
            for length in range(1, 9)
        ]


@dataclass(frozen=True, kw_only=True)
class Palindrome(_Drawn):
    """Four capitals, then the same backwards."""

    @property
    def name(self) -> str:
        return "palindrome"

    def draw(self, rng) -> tuple[str, str]:
        half = "".join(rng.choice(list("ABCDEFGH"), 4))
        return f"{half}|", half[::-1]


@dataclass(frozen=True, kw_only=True)
class Sorting(_Drawn):
    """Four different lower-case letters, then the same letters sorted."""

    @property
    def name(self) -> str:
        return "sorting"

    def draw(self, rng) -> tuple[str, str]:
        letters = "".join(rng.choice(list("jklmnopqrs"), 4, replace=False))
        return f"sort {letters} ", "".join(sorted(letters))


@dataclass(frozen=True, kw_only=True)
class Brackets(SyntheticTask):
    """Opening brackets, then the brackets that close them."""

    @property
    def name(self) -> str:
        return "brackets"

    def items(self) -> list[tuple[str, str]]:
        closing = dict(zip("([{<", ")]}>", strict=True))
        return [
            ("".join(opened), "".join(closing[bracket] for bracket in reversed(opened)))
            for opened in itertools.product("([{<", repeat=4)
        ]


@dataclass(frozen=True, kw_only=True)
class Lookup(_Drawn):
    """A random table. There is no rule: an unseen item cannot be answered."""

    has_rule: ClassVar[bool] = False
    count: int = 100

    @property
    def name(self) -> str:
        return "lookup"

    def draw(self, rng) -> tuple[str, str]:
        key, value = ("".join(rng.choice(list(string.ascii_lowercase), 3)) for _ in range(2))
        return f"#{key}#", value


@dataclass(frozen=True, kw_only=True)
class Alternation(_Drawn):
    """Two alternating characters: give the next one."""

    count: int = 400

    @property
    def name(self) -> str:
        return "alternation"

    def draw(self, rng) -> tuple[str, str]:
        one, other = rng.choice(list("!%*;=?^~_"), 2, replace=False)
        length = int(rng.integers(3, 9))
        return "".join(other if at % 2 else one for at in range(length)) + "/", other if length % 2 else one


@dataclass(frozen=True, kw_only=True)
class Counting(SyntheticTask):
    """Two consecutive numbers in base three: give the next one."""

    @property
    def name(self) -> str:
        return "counting"

    def items(self) -> list[tuple[str, str]]:
        def ternary(n: int) -> str:
            return "".join(str(n // 3**place % 3) for place in (4, 3, 2, 1, 0))

        return [(f"{ternary(n)},{ternary(n + 1)},", ternary(n + 2)) for n in range(3**5 - 2)]


@dataclass(frozen=True, kw_only=True)
class DelayedCopy(_Drawn):
    """Three letters, a number of dots, then the letters again."""

    @property
    def name(self) -> str:
        return "copy"

    def draw(self, rng) -> tuple[str, str]:
        letters = "".join(rng.choice(list("UVWXYZ"), 3))
        return letters + "." * int(rng.integers(2, 9)) + ":", letters


@dataclass(frozen=True, kw_only=True)
class RunLengths(_Drawn):
    """Two runs of characters, then the length of each."""

    @property
    def name(self) -> str:
        return "runs"

    def draw(self, rng) -> tuple[str, str]:
        signs = rng.choice(list("xyzw"), 2, replace=False)
        lengths = rng.integers(1, 5, size=2)
        return "".join(str(sign) * int(n) for sign, n in zip(signs, lengths, strict=True)) + "/", "".join(
            map(str, lengths)
        )


SEQUENCES: tuple[type[SyntheticTask], ...] = (
    Progression,
    Phrase,
    Palindrome,
    Sorting,
    Brackets,
    Lookup,
    Alternation,
    Counting,
    DelayedCopy,
    RunLengths,
)
