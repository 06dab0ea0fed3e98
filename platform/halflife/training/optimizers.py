"""Optimizers, described; `build` makes them with muP's rates per group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Rates are stated for models.ladder.BASE_WIDTH; hidden matrices get rate / multiplier (muP).

    decay: "independent" shrinks weights by rate * weight_decay a step whatever the width;
    "coupled" by the group's own rate, so wider hidden matrices decay more slowly.
    """

    learning_rate: float
    weight_decay: float = 0.0
    decay: Literal["independent", "coupled"] = "independent"
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8


@dataclass(frozen=True, kw_only=True)
class SGD:
    learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 0.0


Optimizer = AdamW | SGD
