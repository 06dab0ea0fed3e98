"""Builds the model that a chain of stages starts from: a fresh rung of the ladder, or a released model."""

from __future__ import annotations

from typing import Any

import torch

from halflife.errors import UserError
from halflife.models import hugging_face
from halflife.models.decoder import Decoder
from halflife.models.hugging_face import HuggingFaceModel
from halflife.models.ladder import Rung
from halflife.models.model import Model
from halflife.models.released import Released


def fresh(architecture: Rung | Released, vocabulary: int, dropout: float, seed: int) -> Model:
    """A rung initialised from `seed`, or a released model with its weights."""
    if isinstance(architecture, Released):
        return _checked(hugging_face.load(architecture, dropout), vocabulary)
    model = Decoder(architecture, vocabulary, dropout)
    model.initialise(torch.Generator().manual_seed(seed))
    return model


def bare(architecture: Rung | Released, vocabulary: int, dropout: float, state: dict[str, Any]) -> Model:
    """The model of a checkpoint with this `state`, without its weights, which the caller loads."""
    if isinstance(architecture, Released):
        return _checked(hugging_face.build(architecture, state["configuration"], dropout), vocabulary)
    return Decoder(architecture, vocabulary, dropout)


def freeze(model: Model, precision: str = "fp32") -> Model:
    """The model in evaluation mode, without gradients, in fp32 or bf16; in place."""
    model.requires_grad_(False)
    return model.eval().to(torch.bfloat16 if precision == "bf16" else torch.float32)


def record(model: Model) -> dict[str, Any]:
    """What a checkpoint's state stores about the model, for `bare` to rebuild it."""
    state: dict[str, Any] = {"size": model.architecture.identity, "vocabulary": model.vocabulary}
    if isinstance(model, HuggingFaceModel):
        state["configuration"] = model.configuration()
    return state


def _checked(model: HuggingFaceModel, vocabulary: int) -> HuggingFaceModel:
    if vocabulary > model.vocabulary:
        raise UserError(
            f"{model.architecture.name} has {model.vocabulary} tokens and the tokenizer {vocabulary}: expected the "
            "model's own tokenizer"
        )
    return model
