"""The rate over a stage, as a multiple of the optimizer's base rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Schedule:
    shape: Literal["constant", "cosine", "wsd", "continue"] = "constant"
    """continue: constant at the multiple that the starting checkpoint ended with."""
    warmup: float = 0.0
    """Fraction of the stage's steps over which the rate rises linearly from rate / steps."""
    decay: float = 0.2
    """wsd: fraction of the steps, at the end, over which the rate falls linearly."""
    final: float = 0.1
    """cosine and wsd: the multiple at the end."""
