"""What is minimised."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    label_smoothing: float = 0.0
