"""Rungs of any width at a fixed depth, for checks of muP; on the ladder, depth depends on width."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from halflife.models.ladder import Rung


@dataclass(frozen=True, kw_only=True)
class Wide(Rung):
    """Layers of a given width, two by default; `size` is not read."""

    size: str = "100k"
    of: int
    deep: int = 2

    @cached_property
    def layers(self) -> int:
        return self.deep

    @cached_property
    def width(self) -> int:
        return self.of

    @cached_property
    def feedforward(self) -> int:
        return 2 * self.of


@dataclass(frozen=True, kw_only=True)
class Standard(Wide):
    """The same without muP: every width is treated as the base width."""

    @property
    def multiplier(self) -> float:
        return 1.0
