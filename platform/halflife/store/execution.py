"""How a stage's training is carried out: engine, processes, microbatches. Recorded with a stage, never hashed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from halflife.errors import UserError

ENGINES = ("torch", "deepspeed")
ZERO_STAGES = (0, 1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class Execution:
    """torch: one process on one device. deepspeed: `workers` processes with a device each, which split the batch and,
    by ZeRO (arXiv 1910.02054), shard the optimizer state (1), the gradients (2) and the weights (3)."""

    engine: Literal["torch", "deepspeed"] = "torch"
    workers: int = 1
    zero: int = 0
    compile: bool = False
    """Run the layers through torch.compile."""
    activation_checkpointing: bool = False
    """Layers store only their input for the backward pass and recompute the rest."""
    micro_rows: int | None = None
    """Sequences per microbatch on a device, with gradient accumulation; None leaves it to the engine."""

    def __post_init__(self) -> None:
        """Raises UserError for what no engine supports."""
        if self.engine not in ENGINES:
            raise UserError(f"unknown engine {self.engine!r}: expected {' or '.join(ENGINES)}")
        if self.workers < 1:
            raise UserError(f"{self.workers} workers: expected at least 1")
        if self.zero not in ZERO_STAGES:
            raise UserError(f"ZeRO stage {self.zero}: expected 0, 1, 2 or 3")
        if self.engine == "torch" and self.workers > 1:
            raise UserError(f"{self.workers} workers with the torch engine, which uses 1: use --engine deepspeed")
        if self.engine == "torch" and self.zero:
            raise UserError(f"ZeRO stage {self.zero} with the torch engine, which cannot shard: use --engine deepspeed")


CPU_ACTIVATION_BYTES = 2 * 2**30
"""Activations of one microbatch on a CPU. A constant, not what is free now: a resumed run must use the same
microbatches."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on each device that trains a stage. The last two are estimates, and are never held at the same time."""

    parameters: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    init_weights: float = 0.0
    """The weights that the stage started from; displacement and L2-SP are relative to them."""
    activations: float = 0.0
    """Of one microbatch, with its logits, the casts of the weights under bf16, and the largest tensors that ZeRO
    reduces or gathers; or Muon's whole updates, if those are larger."""
    evaluation: float = 0.0

    @property
    def fixed(self) -> float:
        """What every step holds, independent of the microbatch."""
        return self.parameters + self.gradients + self.optimizer + self.init_weights

    @property
    def total(self) -> float:
        return self.fixed + max(self.activations, self.evaluation)
