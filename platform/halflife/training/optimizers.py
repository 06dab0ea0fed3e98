"""Optimizers, described; `torch_optimizers.build` makes them with muP's rates per group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from halflife.errors import UserError


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Rates are stated for models.ladder.BASE_WIDTH; hidden matrices get rate / multiplier (muP).

    decay: "independent" shrinks weights by rate * weight_decay a step whatever the width;
    "coupled" by the group's own rate, so wider hidden matrices decay more slowly.
    All matrices decay, the embedding and the head too; norm gains do not.
    """

    learning_rate: float
    weight_decay: float = 0.0
    decay: Literal["independent", "coupled"] = "independent"
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        check_rate(self.learning_rate, self.weight_decay)


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Rates are stated for models.ladder.BASE_WIDTH; embedding, gains and head get rate * multiplier (muP).

    Matrices shrink by rate * weight_decay a step whatever the width, apart from the momentum.
    """

    learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_rate(self.learning_rate, self.weight_decay)


Optimizer = AdamW | SGD


def check_rate(learning_rate: float, weight_decay: float) -> None:
    """Raises UserError for a rate that is not positive or a decay that is negative."""
    if not learning_rate > 0:
        raise UserError(f"learning rate {learning_rate}: expected a positive number, such as 0.003")
    if not weight_decay >= 0:
        raise UserError(f"weight decay {weight_decay}: expected 0 or a positive number, such as 0.1")
