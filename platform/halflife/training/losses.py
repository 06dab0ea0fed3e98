"""Training losses, described."""

from __future__ import annotations

from dataclasses import dataclass

from halflife.errors import UserError


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """Next-token cross-entropy, a mean over the scored tokens of the global batch."""

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing <= 1:
            raise UserError(f"label smoothing {self.label_smoothing}: expected a fraction from 0 to 1, such as 0.1")
