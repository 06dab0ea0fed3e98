"""Compiled layers and activation checkpointing: faster or smaller training with the same results.

Both apply to the layers of any decoder, ours or a released one: the members of its largest list of modules.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from halflife.models.hooks import layers
from halflife.models.model import Model
from halflife.store.execution import Execution

MOST_GRAPHS = 64
"""Limit on compiled versions of one function in a long-lived process, which needs a few for every size it trains."""


def accelerate(model: Model, execution: Execution) -> None:
    """Compile or checkpoint every layer as the execution says, in place; parameters and their names are unchanged.

    Layers are compiled one by one: they are identical, so all share one graph and compiling takes as long as one layer.
    A checkpointed layer stores its input and recomputes the rest in the backward pass (arXiv 1604.06174), with the same
    random numbers, so the gradients are bit-identical.
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
    """`function` compiled, with one graph per shape in training (a stage has one or two)."""
    torch._dynamo.config.recompile_limit = MOST_GRAPHS
    return torch.compile(function, dynamic=False)


def eagerly(execution: Execution) -> AbstractContextManager[Any]:
    """Context in which compiled layers run eagerly, since evaluations have many shapes, each of them rare."""
    return torch.compiler.set_stance("force_eager") if execution.compile else nullcontext()
