"""Finds exact and near duplicates: before splits are made, and between splits that a dataset brings along."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

SHINGLE = 5
"""Consecutive lines in a shingle: enough that common idioms do not count as copies."""
REPEATED = 0.5
"""A document is dropped when at least this fraction of its shingles occurred in earlier documents, or of a held-out
document's in it."""
WINDOW = 32
"""Bytes of a shingle of a held-out text, about six words: texts between splits are often a single line."""
SKETCH = 32
"""Shingles that a held-out text is known by: those with the smallest hashes (Broder 1997, "On the resemblance and
containment of documents")."""
COMMON = 5
"""A shingle of more held-out texts than this is a template's and does not count."""


class Seen:
    """The shingles of earlier documents. Exact, so the result is the same on every machine."""

    def __init__(self) -> None:
        self._lines: dict[str, int] = {}
        self._shingles: set[tuple[int, ...]] = set()

    def _shingles_of(self, text: str) -> Iterable[tuple[int, ...]]:
        numbers = [self._lines.setdefault(line, len(self._lines)) for line in map(str.strip, text.split("\n")) if line]
        if len(numbers) <= SHINGLE:
            return {tuple(numbers)}
        return set(zip(*(numbers[offset:] for offset in range(SHINGLE)), strict=False))

    def repeats(self, text: str) -> bool:
        """Whether `text` is mostly a copy of earlier documents; if not, it is added to them."""
        shingles = set(self._shingles_of(text))
        if len(shingles & self._shingles) >= REPEATED * len(shingles):
            return True
        self._shingles |= shingles
        return False


class HeldOut:
    """Held-out texts, to be found again in other splits, regardless of case and spaces. The same on every machine.

    A near copy holds at least half of the shingles that one held-out text is known by, so a longer text around a
    held-out one is found, too.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        normal = [_normal(text) for text in texts]
        self._copies = {_digest(text) for text in normal}
        sketches = [np.unique(_shingles(text))[:SKETCH] for text in normal]
        keys = np.concatenate([*sketches, np.zeros(0, np.uint64)])
        owners = np.repeat(np.arange(len(sketches)), [len(sketch) for sketch in sketches])
        _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
        own = counts[inverse] <= COMMON
        order = np.argsort(keys[own], kind="stable")
        self._keys, self._owners = keys[own][order], owners[own][order]
        self._sizes = np.bincount(self._owners, minlength=len(sketches))
        # most shingles of other texts are in no sketch, and a table of bits says so faster than a search
        self._mask = np.uint64(2 ** max(16, (8 * len(self._keys)).bit_length()) - 1)
        self._table = np.zeros(int(self._mask) + 1, dtype=bool)
        self._table[self._keys & self._mask] = True

    def find(self, text: str) -> Literal["copies", "near copies"] | None:
        """Whether the text is a copy of a held-out one, or nearly one."""
        normal = _normal(text)
        if _digest(normal) in self._copies:
            return "copies"
        shingles = _shingles(normal)
        shingles = shingles[self._table[shingles & self._mask]]
        first = np.searchsorted(self._keys, shingles, side="left")
        last = np.searchsorted(self._keys, shingles, side="right")
        found = {(int(a), int(b)) for a, b in zip(first[first < last], last[first < last], strict=True)}
        if not found:
            return None
        owners, counts = np.unique(np.concatenate([self._owners[a:b] for a, b in found]), return_counts=True)
        return "near copies" if (counts >= REPEATED * self._sizes[owners]).any() else None


def _normal(text: str) -> bytes:
    return " ".join(text.casefold().split()).encode()


def _digest(normal: bytes) -> bytes:
    return hashlib.sha256(normal).digest()[:12]


def _shingles(normal: bytes) -> np.ndarray:
    """Hashes (uint64) of all windows of WINDOW bytes: polynomials modulo 2**64 by doubling, then mixed."""
    hashes, width, factor = np.frombuffer(normal, dtype=np.uint8).astype(np.uint64), 1, 0x9E3779B97F4A7C15
    while width < WINDOW:
        if len(hashes) <= width:
            return hashes[:0]
        hashes = hashes[:-width] * np.uint64(factor) + hashes[width:]
        width, factor = 2 * width, factor * factor % 2**64
    hashes ^= hashes >> np.uint64(29)
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    return hashes ^ (hashes >> np.uint64(32))
