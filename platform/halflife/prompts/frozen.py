"""The frozen model that soft prompts are fitted to and evaluated on."""

from __future__ import annotations

import torch

from halflife.models.ladder import Rung
from halflife.models.model import Model
from halflife.models.released import Released
from halflife.models.start import fresh
from halflife.rng import seed_of
from halflife.stages.train import Checkpoint
from halflife.store.stage import Context
from halflife.training.loop import model_at


def freeze(model: Model, precision: str = "fp32") -> Model:
    """The model in evaluation mode, without gradients, in fp32 or bf16; in place."""
    model.requires_grad_(False)
    return model.eval().to(torch.bfloat16 if precision == "bf16" else torch.float32)


def load_frozen(
    model: Checkpoint | Rung | Released, vocabulary: int, context: Context, *, seed: int, precision: str = "fp32"
) -> Model:
    """A checkpoint's model, a released one, or an untrained rung with the initial weights of `seed`, frozen, on the
    context's device. Raises UserError when a checkpoint is corrupt."""
    if isinstance(model, Checkpoint):
        folder = model.folder(context.parent(model.stage))
        loaded, _ = model_at(folder, model.stage.architecture, vocabulary)
    else:
        loaded = fresh(model, vocabulary, 0.0, seed_of(seed, "model"))
    return freeze(loaded, precision).to(torch.device(context.device))
