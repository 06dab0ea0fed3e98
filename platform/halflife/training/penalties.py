"""Penalties on the distance from the stage's initial weights, and losses added to the batch's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from halflife.data.tokenizers import Tokenizer
from halflife.errors import UserError
from halflife.store.execution import ENGINES
from halflife.store.stage import Context


@dataclass(frozen=True, kw_only=True)
class L2SP:
    """Pull towards the stage's initial weights, as the proximal step
    theta <- theta_0 + (theta - theta_0) / (1 + eta strength), with eta the learning rate (arXiv 1802.01483)."""

    engines: ClassVar[tuple[str, ...]] = ENGINES

    strength: float

    def __post_init__(self) -> None:
        check_strength("l2sp", self.strength)


@dataclass(frozen=True, kw_only=True)
class EWC:
    """Elastic weight consolidation (arXiv 1612.00796): L2SP with a separate strength for every weight,
    strength F_i / mean F, with F the diagonal of the Fisher information at the start. So its mean strength over the
    weights is that of L2SP. Its step is proximal as well: no strength is too large."""

    engines: ClassVar[tuple[str, ...]] = ("torch",)

    strength: float
    fisher: Any
    """The stage (`stages.fisher.Fisher`) that estimates F at the checkpoint that the Train starts from."""

    def __post_init__(self) -> None:
        check_strength("ewc", self.strength)


@dataclass(frozen=True, kw_only=True)
class KL:
    """Adds strength KL(p_0 || p) to the loss, a mean over the same tokens as the loss, with p_0 the prediction of the
    initial model on this batch (learning without forgetting at temperature 1, arXiv 1606.09282)."""

    engines: ClassVar[tuple[str, ...]] = ("torch",)

    strength: float

    def __post_init__(self) -> None:
        check_strength("kl", self.strength)


@dataclass(frozen=True, kw_only=True)
class AddedLoss:
    """Base of penalties that are a separate loss, added to the batch's at every step. A room above training declares
    one as a subclass; no other code changes."""

    engines: ClassVar[tuple[str, ...]] = ("torch",)
    """That can train with it"""

    strength: float

    @property
    def step_tokens(self) -> float:
        """Tokens per step of its forward and backward pass; an estimate, for the plan."""
        raise NotImplementedError(f"{type(self).__name__} does not state step_tokens")

    def prepare(self, context: Context, tokenizer: Tokenizer, key: tuple[int | str, ...]) -> Loss:
        """The loss as a function of the model and the step, including `strength`. Its random draws depend on `key` and
        the step alone."""
        raise NotImplementedError(f"{type(self).__name__} cannot be prepared")


Penalty = L2SP | EWC | KL | AddedLoss
Loss = Callable[[Any, int], Any]
"""(model, step) -> a scalar tensor. Untyped, as descriptions import no torch."""


def check_strength(name: str, strength: float) -> None:
    """Raises UserError when the strength is negative or not finite."""
    if not 0 <= strength < math.inf:
        raise UserError(f"{name} of strength {strength}: expected 0 or a positive number, such as 1")
