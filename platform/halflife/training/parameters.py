"""The parameters that a stage trains, described; `adapters.apply` applies them to a model."""

from __future__ import annotations

import re
from dataclasses import dataclass

from halflife.errors import UserError


@dataclass(frozen=True, kw_only=True)
class All:
    """Every parameter."""


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """Low-rank changes of frozen matrices, W + alpha / rank * B A (arXiv 2106.09685), through peft.

    The stage's final weights and snapshots are merged, so any stage can fork from them; a fork with LoRA starts a new
    adapter. muP's learning rates: A as a hidden matrix; B, whose number of inputs is the same at every width, as an
    embedding.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ()
    """Last names of the matrices, such as q_proj; empty: every matrix of the layers."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"LoRA of rank {self.rank}: expected at least 1")
        if not self.alpha > 0:
            raise UserError(f"LoRA with alpha {self.alpha}: expected a positive number, such as twice the rank")


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """All but the embedding, or the first `layers` layers, or both. A released model's tied head is its embedding."""

    embeddings: bool = False
    layers: int = 0

    def __post_init__(self) -> None:
        if self.layers < 0 or not (self.embeddings or self.layers):
            raise UserError(
                f"{self.layers} frozen layers given, embeddings not: expected the embeddings, some layers or both"
            )


Parameters = All | LoRA | Frozen


def parameters_named(name: str) -> Parameters:
    """The parameters called all, lora-8 (the rank; alpha is twice that), frozen-embeddings, frozen-2 (first 2 layers).

    Raises UserError for another name.
    """
    if name == "all":
        return All()
    if name == "frozen-embeddings":
        return Frozen(embeddings=True)
    if match := re.fullmatch(r"(lora|frozen)-(\d+)", name):
        number = int(match[2])
        return LoRA(rank=number, alpha=2.0 * number) if match[1] == "lora" else Frozen(layers=number)
    raise UserError(f"parameters {name!r} given: expected all, lora-RANK, frozen-embeddings or frozen-LAYERS")
