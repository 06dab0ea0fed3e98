"""Proximal policy optimization, described: several clipped steps on the same completions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from halflife.errors import UserError
from halflife.training.objective import Trained
from halflife.training.policy_gradient import PolicyGradient


@dataclass(frozen=True, kw_only=True)
class ProximalPolicy(PolicyGradient):
    """A policy gradient with the clipped objective of PPO (arXiv 1707.06347), without a learned value: the baseline is
    the policy gradient's.

    A cycle of epochs x minibatches steps learns from the completions that the model wrote at its first step, each
    epoch from all of them once, in an order drawn from `order`. With r the probability of a token over that at the
    first step, a step minimizes -mean over completions of sum_t min(r_t A_t, clip(r_t, 1 - clip, 1 + clip) A_t). At
    the first step that is the policy gradient. Training is resumed at the beginning of a cycle only.
    """

    epochs: int = 4
    minibatches: int = 2
    clip: float = 0.2
    order: int = 0
    """Seed of the order of completions, beside the stage's own"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs < 1 or not 1 <= self.minibatches <= self.prompts * self.group:
            raise UserError(
                f"proximal policy with {self.epochs} epochs of {self.minibatches} minibatches given: expected at least "
                f"1 of each, and at most a minibatch for each of {self.prompts * self.group} completions"
            )
        if not 0 < self.clip < 1:
            raise UserError(f"proximal policy clipped at {self.clip}: expected above 0 and below 1, such as 0.2")

    @property
    def cycle(self) -> int:
        return self.epochs * self.minibatches

    @property
    def measures(self) -> tuple[str, ...]:
        return (*super().measures, f"{self.name}/clipped")

    def step_tokens(self, stage: Trained) -> float:
        # every completion is sampled and scored once a cycle, by the initial model as well
        return self._tokens * (1 / self.minibatches + (2 / 3 + (1 / 3 if self.beta else 0)) / self.cycle)

    def _learner(self) -> Callable[..., Any]:
        from halflife.training.reinforce import Proximal  # imports torch

        return Proximal
