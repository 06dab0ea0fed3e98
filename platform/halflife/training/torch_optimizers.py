"""Optimizers with muP's learning rates by kind of parameter (arXiv 2203.03466, table 8)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from halflife.errors import UserError
from halflife.models.model import Model
from halflife.training.companion import PREFIX
from halflife.training.optimizers import MUON_SCALE, SGD, AdamW, Muon, Optimizer


class Joined(torch.optim.Optimizer):
    """Muon and AdamW as one optimizer, with one state and one list of groups, which DeepSpeed reduces to the group that
    it updates."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        for part in parts:
            part.state = self.state

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Step both. A closure is not called: the gradients are already computed."""
        for part in self.parts:
            muon = isinstance(part, torch.optim.Muon)
            part.param_groups = [group for group in self.param_groups if group["muon"] == muon]
            part.step()
        return None


def groups(optimizer: Optimizer, model: Model) -> list[dict[str, Any]]:
    """Parameter groups of the trained parameters: `params`; `base_lr`, the group's learning rate at multiplier 1;
    `weight_decay`, which torch multiplies by the group's learning rate; `shrink`, the fraction of the weights that a
    step at multiplier 1 subtracts outside the optimizer; `muon`, whether Muon updates the group (otherwise AdamW or
    SGD)."""
    kinds: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            hidden = model.kind(name) == "hidden"
            kinds.setdefault((hidden, parameter.ndim > 1), []).append(parameter)
    result: list[dict[str, Any]] = []
    for (hidden, matrix), parameters in kinds.items():
        scale = _scale(optimizer, hidden, matrix, model.architecture.multiplier)
        lr, decay = optimizer.learning_rate * scale, optimizer.weight_decay if matrix else 0.0
        group: dict[str, Any] = {"params": parameters, "base_lr": lr, "lr": lr, "shrink": 0.0, "weight_decay": 0.0}
        if isinstance(optimizer, SGD):
            group["shrink"] = optimizer.learning_rate * decay
        elif isinstance(optimizer, AdamW) and optimizer.decay == "coupled":
            group["weight_decay"] = decay
        else:  # torch multiplies by the group's learning rate; dividing by the scale makes decay independent of width
            group["weight_decay"] = decay / scale
        group["muon"] = isinstance(optimizer, Muon) and hidden and matrix
        result.append(group)
    return result


def _scale(optimizer: Optimizer, hidden: bool, matrix: bool, multiplier: float) -> float:
    """The learning rate of a kind of parameter over the optimizer's."""
    if isinstance(optimizer, SGD):
        return 1.0 if hidden else multiplier
    if isinstance(optimizer, Muon) and hidden and matrix:
        return MUON_SCALE
    return 1 / multiplier if hidden else 1.0


def build(optimizer: Optimizer, model: Model, muon: type[torch.optim.Muon] = torch.optim.Muon) -> torch.optim.Optimizer:
    """A torch optimizer with the `groups` of the model. Raises UserError for Muon without a matrix to train."""
    described, lr = groups(optimizer, model), optimizer.learning_rate
    if isinstance(optimizer, SGD):
        return torch.optim.SGD(described, lr=lr, momentum=optimizer.momentum, fused=True)
    parts: list[torch.optim.Optimizer] = []
    if isinstance(optimizer, Muon):
        hidden = [group for group in described if group["muon"]]
        if not hidden:
            raise UserError("Muon given, but no hidden matrix is trained: use AdamW")
        # the adjustment is sqrt(max(1, rows / columns)): see optimizers.Muon
        parts.append(muon(hidden, lr=lr, momentum=optimizer.momentum, adjust_lr_fn="original"))
    if others := [group for group in described if not group["muon"]]:
        betas = (optimizer.beta1, optimizer.beta2)
        parts.append(torch.optim.AdamW(others, lr=lr, betas=betas, eps=optimizer.epsilon, fused=True))
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
    """Restore what `state_tensors` returned. Parameters without state start without any; of other tensors, such as a
    companion's, nothing is read."""
    named = dict(model.named_parameters())
    optimizer.state.clear()
    for key, value in tensors.items():
        slot, name = key.split(".", 1)
        if name.startswith(PREFIX):
            continue
        parameter = named[name]
        # Adam's step counter is on the device too, since the optimizer is fused
        optimizer.state[parameter][slot] = value.to(parameter.device)
