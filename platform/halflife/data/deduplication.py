"""Removes exact and near duplicates before the splits are made."""

from __future__ import annotations

from collections.abc import Iterable

SHINGLE = 5
"""Consecutive lines in a shingle: enough that common idioms do not count as copies."""
REPEATED = 0.5
"""A document is dropped when at least this fraction of its shingles occurred in earlier documents."""


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
