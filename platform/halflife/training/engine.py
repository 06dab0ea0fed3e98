"""What the loop asks of an engine. What differs between one device and a sharded cluster stays behind these verbs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from halflife.models.model import Model
from halflife.store.execution import Execution
from halflife.training.ranks import Ranks
from halflife.training.recipe import Recipe


class Engine(Protocol):
    """Where several ranks train together, every verb is called on every one of them."""

    ranks: Ranks
    parameters_total: int
    """Of the model, whatever of them is trained or kept here."""

    @property
    def model(self) -> Model:
        """What evaluations measure."""
        ...

    def gradients(self, batch: np.ndarray | Tensor) -> Tensor:
        """Gradients of the loss on int64 tokens (rows, sequence + 1), perhaps on the device already: the global batch,
        whatever the number of ranks. Returns its mean loss in nats a token, a scalar on the device (reading it waits
        for the device)."""
        ...

    def add_gradients(self, loss: Callable[[Model], Tensor]) -> None:
        """Add those of a further loss to the gradients of this step's batch."""
        ...

    def step(self, lr_multiplier: float) -> Tensor:
        """One optimizer step at `lr_multiplier` of the base rate. Returns the gradient norm before clipping.

        May raise Diverged where the gradients are not finite."""
        ...

    def set_fisher(self, importance: Mapping[str, Tensor]) -> None:
        """Take the Fisher information of each parameter by name, for elastic weight consolidation; before any step."""
        ...

    def displacement(self) -> float:
        """||theta - theta_0|| / ||theta_0||, theta_0 the weights that the stage started from."""
        ...

    def full_weights(self) -> dict[str, Tensor]:
        """All weights by name, unsharded; on ranks other than 0 none."""
        ...

    def optimizer_state(self) -> dict[str, Tensor]:
        """All of it, `<slot>.<parameter>`; on ranks other than 0 none."""
        ...

    def save(self, folder: Path) -> dict[str, str]:
        """Write what this rank keeps, for `checkpoints.read_weights` and `read_optimizer` of any number of ranks;
        returns the digests of its files."""
        ...

    def load(self, weights: Mapping[str, Tensor] | None, optimizer: Mapping[str, Tensor] | None) -> None:
        """Continue from these; None leaves what is there. theta_0 stays."""
        ...

    def close(self) -> None:
        """Free what the engine holds beside the model; nothing is asked of it afterwards."""
        ...

    def measuring(self) -> AbstractContextManager[Any]:
        """Within it the model is in evaluation mode, without gradients, in the stage's precision."""
        ...


def make_engine(model: Model, recipe: Recipe, execution: Execution) -> Engine:
    """The engine that the execution names, with the model's weights as theta_0. Raises UserError where it is not
    installed."""
    if execution.engine == "deepspeed":
        from halflife.training.deepspeed_engine import DeepSpeedEngine  # DeepSpeed takes seconds to import

        return DeepSpeedEngine(model, recipe, execution)
    from halflife.training.torch_engine import TorchEngine

    return TorchEngine(model, recipe, execution)
