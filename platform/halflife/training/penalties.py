"""Penalties: on the way from the weights that the stage started from, and for what attacks bring the model to say."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from halflife.errors import UserError
from halflife.evaluation.targets import TextTarget


@dataclass(frozen=True, kw_only=True)
class L2SP:
    """Pull towards the weights that the stage started from, as the proximal step
    theta <- theta_0 + (theta - theta_0) / (1 + eta strength), eta the base rate (arXiv 1802.01483)."""

    strength: float

    def __post_init__(self) -> None:
        check_strength("l2sp", self.strength)


@dataclass(frozen=True, kw_only=True)
class EWC:
    """Elastic weight consolidation (arXiv 1612.00796): L2SP with a strength of its own for every weight,
    strength F_i / mean F, F the diagonal of the Fisher information at the start. So at equal strength it pulls as much
    as L2SP does, where it matters. Its step is proximal as well: no strength is too large."""

    strength: float
    fisher: Any
    """The stage (`stages.fisher.Fisher`) that estimates F at the checkpoint that the Train starts from."""

    def __post_init__(self) -> None:
        check_strength("ewc", self.strength)


@dataclass(frozen=True, kw_only=True)
class KL:
    """Adds strength KL(p_0 || p) to the loss, a mean over the tokens that the loss is a mean of: p_0 is what the model
    predicted on this batch at the start (learning without forgetting at temperature 1, arXiv 1606.09282)."""

    strength: float

    def __post_init__(self) -> None:
        check_strength("kl", self.strength)


@dataclass(frozen=True, kw_only=True)
class PromptAttacks:
    """Adds strength times the loss of right answers behind soft prompts that were fitted to bring wrong ones: in each
    step those of `batch` drawn examples, in nats a token, behind one drawn prompt. Adversarial training by continuous
    attacks (arXiv 2405.15589), with the prompts of whole fits instead of a few steps of each batch's own."""

    strength: float
    attacks: tuple[Any, ...]
    """The stages (`stages.soft_prompts.FitSoftPrompts`) whose prompts are trained against."""
    target: TextTarget
    """Its training examples are what is to be said."""
    examples: int = 128
    batch: int = 16

    def __post_init__(self) -> None:
        check_strength("prompt attacks", self.strength)
        if not self.attacks or self.examples < 1 or self.batch < 1:
            raise UserError(
                f"{len(self.attacks)} prompt attacks, {self.examples} examples and a batch of {self.batch} given: "
                "expected at least 1 of each"
            )


Penalty = L2SP | EWC | KL | PromptAttacks


def check_strength(name: str, strength: float) -> None:
    """Raises UserError for a strength that is negative or not finite."""
    if not 0 <= strength < math.inf:
        raise UserError(f"{name} of strength {strength}: expected 0 or a positive number, such as 1")
