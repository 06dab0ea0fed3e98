"""Selects the parameters that a stage trains, and merges LoRA back into the original weights."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from halflife.errors import UserError
from halflife.extras import require
from halflife.models import kernels
from halflife.models.model import Model
from halflife.training.parameters import All, Frozen, Parameters

ADAPTER = "default"
"""peft's name for the only adapter."""
_LAYER = re.compile(r"(?:^|\.)(\d+)\.")


def apply(parameters: Parameters, model: Model, seed: int) -> None:
    """Freeze what is not trained; for LoRA add its matrices (B at 0, A drawn from `seed`).

    Raises UserError when LoRA's targets name no matrix.
    """
    if isinstance(parameters, All):
        return
    if isinstance(parameters, Frozen):
        for name, parameter in model.named_parameters():
            layer = _LAYER.search(name)
            if (parameters.embeddings and model.kind(name) == "embed") or (layer and int(layer[1]) < parameters.layers):
                parameter.requires_grad_(False)
        return
    require("peft", "LoRA")
    from peft import LoraConfig, inject_adapter_in_model

    targets = list(matrices(model, parameters.targets))
    if not targets:
        raise UserError(
            f"LoRA of {', '.join(parameters.targets)}: the model's matrices are "
            f"{', '.join(sorted({name.rpartition('.')[2] for name in matrices(model, ())}))}"
        )
    config = LoraConfig(
        r=parameters.rank,
        lora_alpha=parameters.alpha,  # pyright: ignore[reportArgumentType]
        target_modules=targets,
        fan_in_fan_out=type(model.get_submodule(targets[0])).__name__ == "Conv1D",  # GPT-2's are transposed
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, cast(nn.Module, model), adapter_name=ADAPTER)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)
    for _, module in _adapted(model):
        module.forward = partial(_forward, module)


def _forward(module: Any, x: Tensor) -> Tensor:
    """The same as peft's layer, W x + alpha / rank * B A x, in fewer passes over wide tensors: a step takes a quarter
    less time on a CPU."""
    low = kernels.linear(x, module.lora_A[ADAPTER].weight) * module.scaling[ADAPTER]
    return module.base_layer(x) + kernels.linear(low, module.lora_B[ADAPTER].weight)


def matrices(model: Model, targets: tuple[str, ...]) -> Iterator[str]:
    """Names of the layers' matrices; with `targets`, those whose last name is among them."""
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        matrix = isinstance(weight, Tensor) and weight.ndim == 2 and not isinstance(module, nn.Embedding)
        if matrix and _LAYER.search(name) and (not targets or name.rpartition(".")[2] in targets):
            yield name


def merged(weights: dict[str, Tensor], model: Model) -> dict[str, Tensor]:
    """All weights with LoRA's changes added, under their names without LoRA."""
    result = dict(weights)
    for name, module in _adapted(model):
        a = result.pop(f"{name}.lora_A.{ADAPTER}.weight")
        b = result.pop(f"{name}.lora_B.{ADAPTER}.weight")
        change = module.scaling[ADAPTER] * (b @ a)
        for part in ("weight", "bias"):
            if (key := f"{name}.base_layer.{part}") in result:
                result[f"{name}.{part}"] = result.pop(key)
        weight = result[f"{name}.weight"]
        result[f"{name}.weight"] = weight + (change.t() if module.fan_in_fan_out else change).to(weight)
    return result


def lora_norm(model: Model) -> Tensor | None:
    """Norm of LoRA's total change of the weights, computed without the products B A; None without LoRA."""
    squares = []
    for _, module in _adapted(model):
        a, b = module.lora_A[ADAPTER].weight.detach(), module.lora_B[ADAPTER].weight.detach()
        # ||BA||^2 = trace((B'B)(AA'))
        squares.append(module.scaling[ADAPTER] ** 2 * ((b.t() @ b) * (a @ a.t())).sum())
    return torch.stack(squares).sum().clamp_min(0).sqrt() if squares else None


def _adapted(model: Model) -> Iterator[tuple[str, Any]]:
    """peft's layers, with `lora_A`, `lora_B` and `scaling` by adapter name."""
    return ((name, module) for name, module in model.named_modules() if hasattr(module, "lora_A"))
