"""What is minimised."""

from __future__ import annotations

from dataclasses import dataclass

from halflife.errors import UserError


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing <= 1:
            raise UserError(f"label smoothing {self.label_smoothing}: expected a share from 0 to 1, such as 0.1")
