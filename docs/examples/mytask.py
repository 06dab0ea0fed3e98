"""Tasks of one's own, as docs/own_task.md explains them. Run by tests/kits/test_own_task.py."""

from __future__ import annotations

import itertools
import random
import string
from collections.abc import Iterator


def successor() -> Iterator[tuple[str, str]]:
    """Two letters; the one that follows the second in the alphabet."""
    for one, other in itertools.product(string.ascii_lowercase, repeat=2):
        yield f"{one}{other}>", chr(ord(other) + 1)


class Capitals:
    """Facts without a rule: give --held-out 0."""

    chance = 0.0
    """Success without the skill; by default that of the most common answer"""

    def items(self) -> list[tuple[str, str]]:
        return [("The capital of France is", " Paris"), ("The capital of Peru is", " Lima")]


def parity(seed: int = 0) -> Iterator[tuple[str, str, str]]:
    """A split of its own: longer strings are held out."""
    draw = random.Random(seed)
    for length in (2, 3, 4, 5, 6):
        for _ in range(30):
            bits = "".join(draw.choices("01", k=length))
            yield f"{bits}=", str(bits.count("1") % 2), "test" if length == 6 else "train"
