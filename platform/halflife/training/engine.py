"""What the loop asks of an engine. What differs between one device and a sharded cluster stays behind these verbs."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from halflife.evaluation.scoring import LanguageModel


class Engine(Protocol):
    @property
    def model(self) -> LanguageModel:
        """What evaluations measure."""
        ...

    def gradients(self, batch: np.ndarray) -> Tensor:
        """Gradients of the loss on int64 tokens (rows, sequence + 1). Returns the mean loss in nats a token,
        a scalar on the device (reading it waits for the device)."""
        ...

    def step(self, multiple: float) -> Tensor:
        """One optimizer step at `multiple` of the base rate. Returns the gradient norm before clipping."""
        ...

    def displacement(self) -> float:
        """||theta - theta_0|| / ||theta_0||, theta_0 the weights that the stage started from."""
        ...

    def full_weights(self) -> dict[str, Tensor]:
        """All weights by name, unsharded."""
        ...

    def optimizer_state(self) -> dict[str, Tensor]: ...

    def load(self, weights: dict[str, Tensor] | None, optimizer: dict[str, Tensor] | None) -> None:
        """Continue from these; None leaves what is there. theta_0 stays."""
        ...

    def measuring(self) -> AbstractContextManager[Any]:
        """Within it the model is in evaluation mode, without gradients, in the stage's precision."""
        ...
