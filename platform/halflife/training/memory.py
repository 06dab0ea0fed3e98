"""Memory of training, by part, from shapes alone, so that a stage that cannot fit is refused before it starts.

Weights take 4 bytes each at either precision (bf16 is autocast). Under ZeRO (arXiv 1910.02054) each of W workers holds
1/W of what the ZeRO stage shards.
"""

from __future__ import annotations

from halflife.evaluation import SCORED_TOKENS
from halflife.models.ladder import Rung
from halflife.models.released import Released
from halflife.store.execution import CPU_ACTIVATION_BYTES, Execution, Memory
from halflife.training.optimizers import SGD, Muon, Optimizer
from halflife.training.parameters import Frozen, LoRA, Parameters

GPU_ACTIVATION_SHARE = 0.25
"""Fraction of the device's memory, which several small trials may share."""
BUCKET = 100_000_000
"""Maximum number of elements that DeepSpeed reduces at once."""
LIVE = 10
"""Maximum number of gathered elements under ZeRO 3, in buckets."""
RECOMPUTED = 1.5
"""A layer's activations and the gradients passing back through it, over its activations alone."""
BF16_SHARE = 0.75
"""Activations under bf16 autocast over those in fp32: the residual stream and the loss stay fp32."""


def of_training(
    architecture: Rung | Released,
    optimizer: Optimizer,
    execution: Execution,
    *,
    vocabulary: int,
    rows: int,
    sequence: int,
    precision: str = "fp32",
    trained: int,
    scored: float = 0.0,
    activation_budget: float = CPU_ACTIVATION_BYTES,
) -> Memory:
    """Bytes on each device.

    `rows` and `sequence` are the global batch's; `trained` parameters have gradients; the largest evaluation scores
    `scored` tokens; `activation_budget` limits a microbatch unless the execution sets its rows.
    """
    embeddings = architecture.embedding_parameters(vocabulary)
    whole = architecture.parameters + embeddings
    zero, workers = execution.zero, execution.workers
    shard = trained / workers if zero else float(trained)
    moments = _moments(optimizer, architecture.parameters, embeddings) / whole * shard
    # A bucket of gradients during reduction, which ZeRO 3 keeps, and under ZeRO 3 the gathered weights.
    bucket = min(BUCKET, whole) if zero else 0
    # Gradients are copied into a layout by worker before they are reduced.
    passing = min(whole, LIVE * bucket) + bucket if zero == 3 else bucket
    updates = 2.0 * architecture.parameters / workers if zero and isinstance(optimizer, Muon) else 0.0
    own = -(-rows // workers)
    micro = min(own, execution.micro_rows or rows_within(architecture, vocabulary, sequence, activation_budget))
    held = held_bytes(architecture, vocabulary, precision, execution.activation_checkpointing)
    casts = 2.0 * whole if precision == "bf16" else 0.0
    return Memory(
        parameters=4.0 * (whole / workers if zero == 3 else whole),
        gradients=4.0 * (shard if zero >= 2 else trained) + (4.0 * bucket if zero == 3 else 0.0),
        optimizer=4.0 * (moments + (shard if zero else 0.0)),  # DeepSpeed updates a copy of its shard
        init_weights=4.0 * shard,
        activations=max(micro * sequence * held + casts + 4.0 * passing, 4.0 * updates),
        evaluation=scoring_bytes(architecture, vocabulary, scored) + casts,
    )


def scoring_bytes(architecture: Rung | Released, vocabulary: int, tokens: float) -> float:
    """Of a forward pass without gradients over so many tokens, of which some are scored at once."""
    # a layer's tensors are freed as it proceeds: half of them at a time
    each = _layer_bytes(architecture, vocabulary) / 2 + _logit_bytes(vocabulary)
    return min(tokens, SCORED_TOKENS) * each


def trained_parameters(parameters: Parameters, architecture: Rung | Released, vocabulary: int) -> int:
    """Number of parameters with gradients; for LoRA about the maximum."""
    embeddings = architecture.embedding_parameters(vocabulary)
    if isinstance(parameters, LoRA):
        named = len(parameters.targets or architecture.matrices)
        return architecture.layers * named * parameters.rank * 5 * architecture.width  # width + 4 width
    if isinstance(parameters, Frozen):
        frozen = min(embeddings, vocabulary * architecture.width) if parameters.embeddings else 0
        return architecture.parameters * (architecture.layers - parameters.layers) // architecture.layers + (
            embeddings - frozen
        )
    return architecture.parameters + embeddings


def rows_within(architecture: Rung | Released, vocabulary: int, sequence: int, budget: float) -> int:
    """Rows of a microbatch whose activations stay within `budget` bytes, at least 1. Depends on the shape and device
    but not the precision, so that a stage always has the same microbatches."""
    return max(1, int(budget / (architecture.activation_bytes(vocabulary) * sequence)))


def held_bytes(architecture: Rung | Released, vocabulary: int, precision: str, checkpointing: bool) -> float:
    """Estimate of the bytes held per token between the forward and the backward pass.

    With checkpointing (arXiv 1604.06174): every layer's input, and the larger of the logits and one layer.
    """
    share = BF16_SHARE if precision == "bf16" else 1.0
    if not checkpointing:
        return share * architecture.activation_bytes(vocabulary)
    inside = max(_logit_bytes(vocabulary), RECOMPUTED * _layer_bytes(architecture, vocabulary))
    return share * inside + 4.0 * architecture.layers * architecture.width


def _layer_bytes(architecture: Rung | Released, vocabulary: int) -> float:
    return (architecture.activation_bytes(vocabulary) - _logit_bytes(vocabulary)) / architecture.layers


def _logit_bytes(vocabulary: int) -> float:
    """A token's logits, their log-softmax and their gradient."""
    return 4.0 * 3 * vocabulary


def divergence_bytes(vocabulary: int) -> float:
    """Of a token's divergence from another prediction: its logits, both log-softmaxes, the terms, and gradients of two;
    measured."""
    return 4.0 * 6 * vocabulary


def _moments(optimizer: Optimizer, hidden: int, others: int) -> float:
    """Number of optimizer moments over all parameters."""
    if isinstance(optimizer, SGD):
        return float(hidden + others) if optimizer.momentum else 0.0
    if isinstance(optimizer, Muon):
        return float(hidden + 2 * others)
    return 2.0 * (hidden + others)
