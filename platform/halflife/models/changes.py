"""What can be done to an activation at a site: changes for `models.sites.edited`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from halflife.models.hooks import Change
from halflife.rng import generator


@dataclass(frozen=True)
class Add:
    """x + strength * vector, as contrastive activation addition does (arXiv 2312.06681)."""

    vector: Tensor
    """(width,)"""
    strength: float = 1.0

    def __call__(self, x: Tensor, positions: Tensor) -> Tensor:
        vector = self.vector if self.strength == 1 else self.strength * self.vector
        return x + vector.to(x)


@dataclass(frozen=True)
class AddByActivation:
    """x + relu(x . probe + bias) * vector: a strength of each token's own, read from its activation (arXiv
    2605.03907)."""

    vector: Tensor
    """(width,)"""
    probe: Tensor
    """(width,)"""
    bias: float = 0.0

    def __call__(self, x: Tensor, positions: Tensor) -> Tensor:
        strength = torch.relu(x @ self.probe.to(x) + self.bias)
        return x + strength[..., None] * self.vector.to(x)


@dataclass(frozen=True)
class Affine:
    """x @ matrix + bias."""

    matrix: Tensor
    """(width, width)"""
    bias: Tensor
    """(width,)"""

    def __call__(self, x: Tensor, positions: Tensor) -> Tensor:
        return x @ self.matrix.to(x) + self.bias.to(x)


@dataclass(frozen=True)
class ProjectOut:
    """x without its part in the span of `directions`, which need not be orthogonal."""

    directions: Tensor
    """(count, width), linearly independent"""

    def __call__(self, x: Tensor, positions: Tensor) -> Tensor:
        basis = torch.linalg.qr(self.directions.float().T).Q.to(x)
        return x - (x @ basis) @ basis.T


@dataclass(frozen=True)
class Splice:
    """reconstruct(x) in the place of x, as of a dictionary."""

    reconstruct: Callable[[Tensor], Tensor]
    """(rows, n, width) -> the same shape"""

    def __call__(self, x: Tensor, positions: Tensor) -> Tensor:
        return self.reconstruct(x)


@dataclass(frozen=True)
class Replace:
    """Another run's activations in the place of these: what stood at the same row and position."""

    activations: Tensor
    """(rows or 1, length, width), from position 0"""

    def __call__(self, x: Tensor, positions: Tensor) -> Tensor:
        source = self.activations.to(x).expand(len(x), -1, -1)
        return source.take_along_dim(positions.expand(len(x), -1)[..., None], 1)


@dataclass(frozen=True)
class Noise:
    """x + std * normal noise of each row and position: the same however a text is cut into passes."""

    std: float
    seed: int

    def __call__(self, x: Tensor, positions: Tensor) -> Tensor:
        shape = (int(positions.max()) + 1, len(x), x.shape[-1])  # positions first: longer texts draw the same and more
        noise = torch.from_numpy(generator(self.seed, "activation noise").standard_normal(shape, dtype=np.float32))
        rows = torch.arange(len(x))[:, None]
        return x + self.std * noise[positions.cpu(), rows].to(x)


@dataclass(frozen=True)
class From:
    """`change` from a position on; before it x stays as it is, to the bit."""

    first: int | Tensor
    """Of a text, from 0; (rows, 1) for one of each row"""
    change: Change

    def __call__(self, x: Tensor, positions: Tensor) -> Tensor:
        return torch.where((positions >= self.first)[..., None], self.change(x, positions), x)


@dataclass(frozen=True)
class At:
    """`change` at some positions only; elsewhere x stays as it is, to the bit."""

    positions: Sequence[int]
    """Of a text, from 0"""
    change: Change

    def __call__(self, x: Tensor, positions: Tensor) -> Tensor:
        wanted = torch.tensor(self.positions, device=x.device)
        here = torch.isin(positions, wanted)
        return torch.where(here[..., None], self.change(x, positions), x)
