"""Who carries out a stage's training: the engine and its processes. Recorded with a stage, never hashed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from halflife.errors import UserError

ENGINES = ("torch", "deepspeed")
ZERO_STAGES = (0, 1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class Execution:
    """torch: one process, one device. deepspeed: `workers` processes with a device each, which share the batch and,
    by ZeRO (arXiv 1910.02054), the optimizer's state (1), the gradients (2) and the weights (3)."""

    engine: Literal["torch", "deepspeed"] = "torch"
    workers: int = 1
    zero: int = 0
    compile: bool = False
    """Layers through torch.compile."""
    activation_checkpointing: bool = False
    """Layers keep their input alone for the backward pass, and compute the rest again."""
    micro_rows: int | None = None
    """Sequences a device takes at once, gradients accumulating over the batch's; None leaves it to the engine."""

    def __post_init__(self) -> None:
        """Raises UserError for what no engine can do."""
        if self.engine not in ENGINES:
            raise UserError(f"unknown engine {self.engine!r}: expected {' or '.join(ENGINES)}")
        if self.workers < 1:
            raise UserError(f"{self.workers} workers were asked for: expected at least 1")
        if self.zero not in ZERO_STAGES:
            raise UserError(f"ZeRO stage {self.zero} was asked for: expected 0, 1, 2 or 3")
        if self.engine == "torch" and self.workers > 1:
            raise UserError(
                f"{self.workers} workers were asked for: the torch engine trains a stage with 1; use --engine deepspeed"
            )
        if self.engine == "torch" and self.zero:
            raise UserError(
                f"ZeRO stage {self.zero} was asked for: the torch engine shards nothing; use --engine deepspeed"
            )


CPU_ACTIVATION_BYTES = 2 * 2**30
"""Activations of one microbatch on a CPU. A constant, not what is free now: a resumed run must cut batches alike."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on each device that trains a stage. The last two are estimates, and never held at the same time."""

    parameters: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    init_weights: float = 0.0
    """The weights that the stage started from, which displacement and L2-SP look back at."""
    activations: float = 0.0
    """Of one microbatch, with its logits, under bf16 the weights' casts, and under ZeRO what is reduced or gathered at
    a time; or, if that is more, the updates that Muon makes whole."""
    evaluation: float = 0.0

    @property
    def fixed(self) -> float:
        """What every step holds whatever the microbatch."""
        return self.parameters + self.gradients + self.optimizer + self.init_weights

    @property
    def total(self) -> float:
        return self.fixed + max(self.activations, self.evaluation)
