"""AdamW for many prompts at once, each with its own learning rate, gradient norm and moments (arXiv 1711.05101)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

BETA1, BETA2, EPSILON = 0.9, 0.99, 1e-9
"""The loss has small gradients where the model barely attends to its prompt, whose numbers are of size 1: hence the
epsilon."""


class PromptAdam:
    """Updates stacked parameters in place; the first axis of each indexes the prompts."""

    def __init__(
        self, parameters: Mapping[str, Tensor], lrs: Tensor, *, weight_decay: float, max_grad_norm: float
    ) -> None:
        """`lrs` (prompts,); weights shrink by lr * weight_decay per step; each prompt's gradient, over all of its
        parameters, is clipped to the norm `max_grad_norm`."""
        self.parameters, self.lrs = dict(parameters), lrs
        self.weight_decay, self.max_grad_norm = weight_decay, max_grad_norm
        self.step_count = 0
        self.first = {name: torch.zeros_like(value) for name, value in parameters.items()}
        self.second = {name: torch.zeros_like(value) for name, value in parameters.items()}

    def step(self, lr_multiplier: float) -> None:
        """One step at `lr_multiplier` times the learning rates, from the gradients, which are then cleared."""
        self.step_count += 1
        gradients = {name: value.grad for name, value in self.parameters.items() if value.grad is not None}
        squares = [gradient.flatten(1).square().sum(1) for gradient in gradients.values()]
        norm = torch.stack(squares).sum(0).sqrt()
        scale = (self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        correction = (1 - BETA2**self.step_count) ** 0.5
        lr = self.lrs * lr_multiplier
        for name, gradient in gradients.items():
            value, first, second = self.parameters[name].data, self.first[name], self.second[name]
            per_prompt = (-1, *[1] * (value.ndim - 1))
            gradient = gradient * scale.view(per_prompt)
            first.lerp_(gradient, 1 - BETA1)
            second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
            if self.weight_decay:
                value.mul_(1 - (lr * self.weight_decay).view(per_prompt))
            change = first / second.sqrt().div_(correction).add_(EPSILON)
            value.sub_(change.mul_((lr / (1 - BETA1**self.step_count)).view(per_prompt)))
            self.parameters[name].grad = None

    def state(self) -> dict[str, Tensor]:
        """The moments, named `first.<parameter>` and `second.<parameter>`."""
        moments = (("first", self.first), ("second", self.second))
        return {f"{slot}.{name}": value for slot, values in moments for name, value in values.items()}

    def load(self, state: Mapping[str, Tensor], step_count: int) -> None:
        self.step_count = step_count
        for slot, values in (("first", self.first), ("second", self.second)):
            for name, value in values.items():
                value.copy_(state[f"{slot}.{name}"])
