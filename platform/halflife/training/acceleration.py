"""What makes training faster or smaller without changing what it computes: compiled layers, activation checkpointing.

Both take the layers as they stand in any decoder, ours or a released one: the members of its largest list of modules.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from halflife.models.model import Model
from halflife.store.execution import Execution

MOST_GRAPHS = 64
"""Compiled versions of one function that a long-lived process keeps: a few for every size that it trains."""


def layers(model: Model | nn.Module) -> list[nn.Module]:
    """The repeated layers of a model. Raises ValueError when it has none."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    if not lists:
        raise ValueError(f"{type(model).__name__} has no list of layers")
    return list(max(lists, key=lambda found: sum(parameter.numel() for parameter in found.parameters())))


def accelerate(model: Model, execution: Execution) -> None:
    """Make every layer's forward pass what the execution says, in place; parameters and their names stay.

    Layers are compiled one by one: they are alike, so all share one graph and compiling takes as long as one layer.
    A checkpointed layer keeps its input and computes the rest again in the backward pass (arXiv 1604.06174), with the
    random numbers of the first time, so the gradients are the same bits.
    """
    if not (execution.compile or execution.activation_checkpointing):
        return
    for layer in layers(model):
        forward: Callable[..., Any] = layer.forward
        if execution.compile:
            forward = compiled(forward)
        if execution.activation_checkpointing:
            forward = partial(checkpoint, forward, use_reentrant=False)
        layer.forward = forward


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` by torch.compile, a graph for each shape that training gives it (a stage has one, or two)."""
    torch._dynamo.config.recompile_limit = MOST_GRAPHS
    return torch.compile(function, dynamic=False)


def eagerly(execution: Execution) -> AbstractContextManager[Any]:
    """Within it compiled layers run as they were written: evaluations come in many shapes, each once in a while."""
    return torch.compiler.set_stance("force_eager") if execution.compile else nullcontext()
