"""What training asks of its caller, which stands above it: the recipe and the stream."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from halflife.evaluation.probes import Evaluation, Threshold
from halflife.models.ladder import Rung
from halflife.models.released import Released
from halflife.training.losses import CrossEntropy
from halflife.training.optimizers import Optimizer
from halflife.training.parameters import Parameters
from halflife.training.penalties import Penalty
from halflife.training.schedules import Schedule


class SnapshotRequest(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def when(self) -> Threshold: ...


class Recipe(Protocol):
    """What the loop and the engine read of a stage; `stages.train.Train` says what each means."""

    @property
    def architecture(self) -> Rung | Released: ...
    @property
    def steps(self) -> int: ...
    @property
    def batch_tokens(self) -> int: ...
    @property
    def optimizer(self) -> Optimizer: ...
    @property
    def optimizer_state(self) -> str: ...
    @property
    def schedule(self) -> Schedule: ...
    @property
    def loss(self) -> CrossEntropy: ...
    @property
    def penalties(self) -> tuple[Penalty, ...]: ...
    @property
    def parameters(self) -> Parameters: ...
    @property
    def dropout(self) -> float: ...
    @property
    def max_grad_norm(self) -> float: ...
    @property
    def gradient_noise(self) -> float: ...
    @property
    def precision(self) -> str: ...
    @property
    def evaluations(self) -> tuple[Evaluation, ...]: ...
    @property
    def snapshots(self) -> tuple[SnapshotRequest, ...]: ...
    @property
    def until(self) -> Threshold | None: ...
    @property
    def has_loss_mask(self) -> bool: ...
    @property
    def seed(self) -> int: ...
    @property
    def depth(self) -> int: ...


class Batches(Protocol):
    vocabulary: int

    def batch(self, step: int) -> np.ndarray:
        """Tokens (rows, sequence + 1), int64, marked where they are not predicted (`data.marks`); a pure function of
        `step`."""
        ...
