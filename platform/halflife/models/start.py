"""What a line of stages begins with, as a model: a fresh rung of the ladder, or a released model."""

from __future__ import annotations

from typing import Any

import torch

from halflife.errors import UserError
from halflife.models import hugging_face
from halflife.models.decoder import Decoder
from halflife.models.hugging_face import HuggingFaceModel
from halflife.models.ladder import Rung
from halflife.models.released import Released

Model = Decoder | HuggingFaceModel


def fresh(architecture: Rung | Released, vocabulary: int, dropout: float, seed: int) -> Model:
    """A rung initialised from `seed`, or the released weights."""
    if isinstance(architecture, Released):
        return _fitting(hugging_face.load(architecture, dropout), vocabulary)
    model = Decoder(architecture, vocabulary, dropout)
    model.initialise(torch.Generator().manual_seed(seed))
    return model


def bare(architecture: Rung | Released, vocabulary: int, dropout: float, state: dict[str, Any]) -> Model:
    """The model of a checkpoint with this `state`, its weights still to be loaded."""
    if isinstance(architecture, Released):
        return _fitting(hugging_face.build(architecture, state["configuration"], dropout), vocabulary)
    return Decoder(architecture, vocabulary, dropout)


def record(model: Model) -> dict[str, Any]:
    """What a checkpoint's state says of the model, so that `bare` can make it again."""
    known = {"size": model.architecture.identity, "vocabulary": model.vocabulary}
    if isinstance(model, HuggingFaceModel):
        known["configuration"] = model.configuration()
    return known


def _fitting(model: HuggingFaceModel, vocabulary: int) -> HuggingFaceModel:
    if vocabulary > model.vocabulary:
        raise UserError(
            f"{model.architecture.name} has {model.vocabulary} tokens and the text up to {vocabulary}: expected "
            "its own tokenizer"
        )
    return model
