"""One line of the bench: what was measured and what it must reach."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Figure:
    name: str
    value: float
    """Median over rounds."""
    unit: str
    target: str
    """In words; `reached` says whether it was."""
    reached: bool
    low: float | None = None
    high: float | None = None
    """Ends of a 95 % interval."""
