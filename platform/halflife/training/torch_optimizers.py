"""Optimizers for the torch engine: muP's rates by kind of parameter (arXiv 2203.03466, table 8)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from halflife.models.decoder import Decoder
from halflife.training.optimizers import SGD, AdamW, Optimizer


def build(optimizer: Optimizer, model: Decoder) -> torch.optim.Optimizer:
    """A torch optimizer whose groups carry `rate` (the group's rate at multiple 1) and `shrink`
    (what of the weights a step at multiple 1 takes off outside the optimizer, 0 where it does so itself)."""
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        hidden = model.kind(name) == "hidden"
        groups.setdefault((hidden, parameter.ndim > 1), []).append(parameter)
    multiplier = model.rung.multiplier
    described: list[dict[str, Any]] = []
    for (hidden, matrix), parameters in groups.items():
        decay = optimizer.weight_decay if matrix else 0.0
        group: dict[str, Any] = {"params": parameters, "shrink": 0.0, "weight_decay": 0.0}
        if isinstance(optimizer, AdamW):
            scale = 1 / multiplier if hidden else 1.0
            # torch shrinks by the group's rate; dividing by its scale makes that independent of width
            group["weight_decay"] = decay / scale if optimizer.decay == "independent" else decay
        else:
            scale = 1.0 if hidden else multiplier
            group["shrink"] = optimizer.learning_rate * decay
        group["rate"] = group["lr"] = optimizer.learning_rate * scale
        described.append(group)
    if isinstance(optimizer, AdamW):
        betas = (optimizer.beta1, optimizer.beta2)
        return torch.optim.AdamW(described, lr=optimizer.learning_rate, betas=betas, eps=optimizer.epsilon, fused=True)
    if isinstance(optimizer, SGD):
        return torch.optim.SGD(described, lr=optimizer.learning_rate, momentum=optimizer.momentum, fused=True)
    raise TypeError(f"{type(optimizer).__name__} is no optimizer")


def state_tensors(optimizer: torch.optim.Optimizer, model: Decoder) -> dict[str, Tensor]:
    """The optimizer's state as named tensors: `<slot>.<parameter>`, such as `exp_avg.embed.weight`."""
    return {
        f"{slot}.{name}": value
        for name, parameter in model.named_parameters()
        for slot, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def load_state_tensors(optimizer: torch.optim.Optimizer, model: Decoder, tensors: dict[str, Tensor]) -> None:
    """Put back what `state_tensors` returned. Parameters without state begin anew."""
    named = dict(model.named_parameters())
    optimizer.state.clear()
    for key, value in tensors.items():
        slot, name = key.split(".", 1)
        parameter = named[name]
        # Adam's step counter stays where the optimizer makes it: on the device, since the optimizer is fused
        optimizer.state[parameter][slot] = value.to(parameter.device)
