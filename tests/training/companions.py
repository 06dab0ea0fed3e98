"""A companion for tests: a linear autoencoder of the streams, one for all sites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from halflife.models.sites import Site
from halflife.training.companion import Companion
from halflife.training.optimizers import AdamW
from halflife.training.seen import Metrics


class Bottleneck(nn.Module):
    def __init__(self, width: int, rank: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.down = nn.Parameter(torch.randn(width, rank, generator=generator) / width**0.5)
        self.up = nn.Parameter(torch.zeros(rank, width))

    def forward(self, activations: Mapping[Site, Tensor], metrics: Metrics) -> Tensor:
        x = torch.stack(list(activations.values())).float()
        error = (x - x @ self.down @ self.up).square().sum()
        metrics.log("fvu", error / x.square().sum())
        return error / x[..., 0].numel()

    def after_step(self) -> None:
        self.down /= self.down.norm(dim=0)


@dataclass(frozen=True, kw_only=True)
class Autoencoder(Companion):
    rank: int = 4

    def parameters(self, width: int) -> int:
        return 2 * width * self.rank

    def activation_bytes(self, width: int) -> float:
        return 4.0 * len(self.sites) * (2 * width + self.rank)

    def build(self, width: int, seed: int) -> Any:
        return Bottleneck(width, self.rank, seed)


AUTOENCODER = Autoencoder(
    name="bottleneck", sites=(Site(layer=1), Site(layer=2, part="mlp")), optimizer=AdamW(learning_rate=0.05)
)
