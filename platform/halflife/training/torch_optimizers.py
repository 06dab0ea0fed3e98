"""Optimizers for the torch engine: muP's rates by kind of parameter (arXiv 2203.03466, table 8)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from halflife.errors import UserError
from halflife.models.model import Model
from halflife.training.optimizers import MUON_SCALE, SGD, AdamW, Muon, Optimizer


class Joined(torch.optim.Optimizer):
    """Muon and AdamW, each with groups of its own, as one: with one list of groups, which DeepSpeed shortens to the one
    that it updates, and one state."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        for part in parts:
            part.state = self.state

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step of each. A closure is not taken: gradients are there already."""
        for part in self.parts:
            muon = isinstance(part, torch.optim.Muon)
            part.param_groups = [group for group in self.param_groups if group["muon"] == muon]
            part.step()
        return None


def groups(optimizer: Optimizer, model: Model) -> list[dict[str, Any]]:
    """Parameter groups: `params`; `rate`, the group's at multiple 1; `weight_decay`, by which torch shrinks times the
    group's rate; `shrink`, what of the weights a step at multiple 1 takes off outside the optimizer; `muon`, whether
    Muon is to update it (else AdamW or SGD). Parameters that need no gradient are in none."""
    sorts: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            hidden = model.kind(name) == "hidden"
            sorts.setdefault((hidden, parameter.ndim > 1), []).append(parameter)
    result: list[dict[str, Any]] = []
    for (hidden, matrix), parameters in sorts.items():
        scale = _scale(optimizer, hidden, matrix, model.architecture.multiplier)
        rate, decay = optimizer.learning_rate * scale, optimizer.weight_decay if matrix else 0.0
        group: dict[str, Any] = {"params": parameters, "rate": rate, "lr": rate, "shrink": 0.0, "weight_decay": 0.0}
        if isinstance(optimizer, SGD):
            group["shrink"] = optimizer.learning_rate * decay
        elif isinstance(optimizer, AdamW) and optimizer.decay == "coupled":
            group["weight_decay"] = decay
        else:  # torch shrinks by the group's rate; dividing by its scale makes that independent of width
            group["weight_decay"] = decay / scale
        group["muon"] = isinstance(optimizer, Muon) and hidden and matrix
        result.append(group)
    return result


def _scale(optimizer: Optimizer, hidden: bool, matrix: bool, multiplier: float) -> float:
    """The rate of a sort of parameters over the optimizer's."""
    if isinstance(optimizer, SGD):
        return 1.0 if hidden else multiplier
    if isinstance(optimizer, Muon) and hidden and matrix:
        return MUON_SCALE
    return 1 / multiplier if hidden else 1.0


def build(optimizer: Optimizer, model: Model, muon: type[torch.optim.Muon] = torch.optim.Muon) -> torch.optim.Optimizer:
    """A torch optimizer with the `groups` of the model. Raises UserError for Muon without a matrix to train."""
    described, rate = groups(optimizer, model), optimizer.learning_rate
    if isinstance(optimizer, SGD):
        return torch.optim.SGD(described, lr=rate, momentum=optimizer.momentum, fused=True)
    parts: list[torch.optim.Optimizer] = []
    if isinstance(optimizer, Muon):
        hidden = [group for group in described if group["muon"]]
        if not hidden:
            raise UserError("Muon was asked for, and no hidden matrix is trained: use AdamW")
        # the adjustment is sqrt(max(1, rows / columns)): see optimizers.Muon
        parts.append(muon(hidden, lr=rate, momentum=optimizer.momentum, adjust_lr_fn="original"))
    if others := [group for group in described if not group["muon"]]:
        betas = (optimizer.beta1, optimizer.beta2)
        parts.append(torch.optim.AdamW(others, lr=rate, betas=betas, eps=optimizer.epsilon, fused=True))
    return parts[0] if len(parts) == 1 else Joined(*parts)


def state_tensors(optimizer: torch.optim.Optimizer, model: Model) -> dict[str, Tensor]:
    """The optimizer's state as named tensors: `<slot>.<parameter>`, such as `exp_avg.embed.weight`."""
    return {
        f"{slot}.{name}": value
        for name, parameter in model.named_parameters()
        for slot, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def load_state_tensors(optimizer: torch.optim.Optimizer, model: Model, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `state_tensors` returned. Parameters without state begin anew."""
    named = dict(model.named_parameters())
    optimizer.state.clear()
    for key, value in tensors.items():
        slot, name = key.split(".", 1)
        parameter = named[name]
        # Adam's step counter stays where the optimizer makes it: on the device, since the optimizer is fused
        optimizer.state[parameter][slot] = value.to(parameter.device)
