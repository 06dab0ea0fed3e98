"""Optimizers, described; `torch_optimizers.build` makes them with muP's learning rates per group."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from halflife.errors import UserError
from halflife.models.ladder import BASE_WIDTH


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """The learning rate is that at models.ladder.BASE_WIDTH; hidden matrices get lr / multiplier (muP).

    decay: "independent" shrinks weights by lr * weight_decay per step at every width; "coupled" by the group's own
    learning rate, so wider hidden matrices decay more slowly. All matrices decay, including the embedding and the head;
    norm gains do not.
    """

    learning_rate: float
    weight_decay: float = 0.0
    decay: Literal["independent", "coupled"] = "independent"
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        check_lr(self.learning_rate, self.weight_decay)


@dataclass(frozen=True, kw_only=True)
class SGD:
    """The learning rate is that at models.ladder.BASE_WIDTH; embedding, gains and head get lr * multiplier (muP).

    Matrices shrink by lr * weight_decay per step at every width, outside the momentum.
    """

    learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_lr(self.learning_rate, self.weight_decay)


@dataclass(frozen=True, kw_only=True)
class Muon:
    """Muon for the hidden matrices (Keller Jordan 2024, kellerjordan.github.io/posts/muon; torch.optim.Muon), AdamW
    for embedding, head and gains.

    A step moves a hidden matrix by a near-orthogonal one of spectral norm
    learning_rate * MUON_SCALE * sqrt(max(1, rows / columns)), which transfers across widths unchanged (the spectral
    condition, arXiv 2310.17813); at models.ladder.BASE_WIDTH it has the root mean square of Moonlight's Muon, which
    uses AdamW's learning rates (arXiv 2502.16982, equation 4). AdamW's part uses learning_rate unchanged. All matrices
    shrink by lr * weight_decay per step at every width. Matrices that the model fuses (query, key and value; gate and
    up) are orthogonalized as one.
    """

    learning_rate: float
    weight_decay: float = 0.0
    momentum: float = 0.95
    """Muon's, Nesterov."""
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        check_lr(self.learning_rate, self.weight_decay)
        if not 0 <= self.momentum < 1:
            raise UserError(f"Muon's momentum {self.momentum}: expected a number from 0 to below 1, such as 0.95")


MUON_SCALE = 0.2 * math.sqrt(BASE_WIDTH)
"""A matrix of BASE_WIDTH columns moves by 0.2 * lr, root mean square."""

Optimizer = AdamW | SGD | Muon


def check_lr(learning_rate: float, weight_decay: float) -> None:
    """Raises UserError when the learning rate is not positive, the decay is negative, or their product is 1 or more, at
    which a step would shrink weights to nothing."""
    if not learning_rate > 0:
        raise UserError(f"learning rate {learning_rate}: expected a positive number, such as 0.003")
    if not weight_decay >= 0:
        raise UserError(f"weight decay {weight_decay}: expected 0 or a positive number, such as 0.1")
    if not learning_rate * weight_decay < 1:
        raise UserError(f"weight decay {weight_decay} at learning rate {learning_rate}: expected a product below 1")
