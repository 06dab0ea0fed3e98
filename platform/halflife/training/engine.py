"""The interface between the loop and an engine, which hides whether one device trains or a sharded cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from halflife.models.model import Model
from halflife.store.execution import Execution
from halflife.training.attached import Attached
from halflife.training.objective import Terms
from halflife.training.ranks import Ranks
from halflife.training.recipe import Recipe


class Engine(Protocol):
    """With several ranks, every method is called on every rank."""

    ranks: Ranks
    parameters_total: int
    """Of the whole model, including frozen parameters and those on other ranks."""

    @property
    def model(self) -> Model:
        """The model that evaluations measure."""
        ...

    def gradients(self, batch: np.ndarray | Tensor, step: int) -> dict[str, Tensor]:
        """Compute the gradients of the objectives on int64 tokens (rows, sequence + 1), on the CPU or the device: the
        global batch, whatever the number of ranks. Returns what the objectives log of this step, by metric: scalars on
        the device (reading one waits for the device)."""
        ...

    def step(self, lr_multiplier: float) -> Tensor:
        """Step at `lr_multiplier` times the base learning rate. Returns the gradient norm before clipping.

        May raise Diverged when the gradients are not finite."""
        ...

    def displacement(self) -> float:
        """||theta - theta_0|| / ||theta_0||, with theta_0 the initial weights of the stage."""
        ...

    def full_weights(self) -> dict[str, Tensor]:
        """All weights by name, the companions' among them, unsharded, on rank 0; empty on the others."""
        ...

    def optimizer_state(self) -> dict[str, Tensor]:
        """The whole state by `<slot>.<parameter>`, on rank 0; empty on the others."""
        ...

    def save(self, folder: Path) -> dict[str, str]:
        """Write this rank's part of the state, for `checkpoints.read_weights` and `read_optimizer` on any number of
        ranks. Returns the digests of its files."""
        ...

    def load(self, weights: Mapping[str, Tensor] | None, optimizer: Mapping[str, Tensor] | None) -> None:
        """Continue from these; None leaves the current ones. theta_0 is unchanged."""
        ...

    def close(self) -> None:
        """Free what the engine holds besides the model. No other method may be called afterwards."""
        ...

    def measuring(self) -> AbstractContextManager[Any]:
        """Context with the model in evaluation mode, without gradients, in the stage's precision."""
        ...


def make_engine(
    model: Model, recipe: Recipe, execution: Execution, terms: Sequence[Terms], companions: Sequence[Attached] = ()
) -> Engine:
    """The execution's engine, with the model's weights as theta_0, and the recipe's objectives and companions.

    Raises UserError when it is not installed."""
    if execution.engine == "deepspeed":
        from halflife.training.deepspeed_engine import DeepSpeedEngine  # DeepSpeed takes seconds to import

        return DeepSpeedEngine(model, recipe, execution, terms)
    from halflife.training.torch_engine import TorchEngine

    return TorchEngine(model, recipe, execution, terms, companions)
