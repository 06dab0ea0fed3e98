"""Documents that repeat others, exactly or nearly, are left out before the splits are made."""

from __future__ import annotations

from collections.abc import Iterable

SHINGLE = 5
"""Lines in a row that are compared: long enough that common idioms are not taken for copies."""
REPEATED = 0.5
"""A document of which at least this share was seen in earlier documents is left out."""


class Seen:
    """What earlier documents held, as runs of lines. Exact, so the outcome is the same everywhere."""

    def __init__(self) -> None:
        self._lines: dict[str, int] = {}
        self._shingles: set[tuple[int, ...]] = set()

    def _shingles_of(self, text: str) -> Iterable[tuple[int, ...]]:
        numbers = [self._lines.setdefault(line, len(self._lines)) for line in map(str.strip, text.split("\n")) if line]
        if len(numbers) <= SHINGLE:
            return {tuple(numbers)}
        return set(zip(*(numbers[offset:] for offset in range(SHINGLE)), strict=False))

    def repeats(self, text: str) -> bool:
        """Whether `text` is mostly a copy of what came before; if it is not, it is remembered."""
        shingles = set(self._shingles_of(text))
        if len(shingles & self._shingles) >= REPEATED * len(shingles):
            return True
        self._shingles |= shingles
        return False
