"""Changes of a network's weights that leave its function as it is, and the stream of scrambled compiled programs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from halflife.errors import UserError, check_choice
from halflife.interpret.compiled import BLOCKS, WIDTH, Compiled, compile_programs
from halflife.rng import generator
from halflife.tasks.programs import LENGTH, VOCABULARY, Ints

Basis = Literal["same", "permutation", "rotation", "invertible"]
CONDITION = 3.0
"""Of invertible matrices: the largest singular value over the smallest"""


@dataclass(frozen=True, kw_only=True)
class Scramble:
    """Exact symmetries, drawn anew for every network."""

    residual: Basis = "invertible"
    """Change of the residual stream's basis"""
    heads: bool = True
    """In every head, query and key by an invertible matrix and its inverse, and value and output likewise"""
    neurons: bool = True
    """Of every MLP, in another order, and each scaled by a positive number before the relu and back behind it"""

    def __post_init__(self) -> None:
        check_choice("residual basis", self.residual, get_args(Basis))

    def __call__(self, weights: Compiled, rng: np.random.Generator) -> Compiled:
        """Networks of the same function, drawn from `rng`."""
        count, device = len(weights), weights.embed.device

        def drawn(kind: Basis, *shape: int) -> tuple[Tensor, Tensor]:
            found, inverse = _basis(kind, rng, (count, *shape))
            return found.to(device), inverse.to(device)

        if self.heads:
            across, back = drawn("invertible", BLOCKS, LENGTH)
            weights = replace(weights, query=across.mT @ weights.query, key=back @ weights.key)
            across, back = drawn("invertible", BLOCKS, VOCABULARY)
            weights = replace(weights, value=across.mT @ weights.value, out=back @ weights.out)
        if self.neurons:
            order, _ = drawn("permutation", BLOCKS, VOCABULARY)
            scale = np.exp(rng.uniform(-1, 1, (count, BLOCKS, VOCABULARY, 1))).astype(np.float32)
            scale = torch.from_numpy(scale).to(device)
            weights = replace(
                weights,
                mlp_in=scale * (order @ weights.mlp_in),
                bias=(scale * (order @ weights.bias[..., None]))[..., 0],
                mlp_out=order @ weights.mlp_out / scale,
            )
        if self.residual == "same":
            return weights
        # a vector x of the stream becomes x @ across; what reads it has to undo that
        across, back = drawn(self.residual, WIDTH)
        written, read = across, back.mT
        return Compiled(
            embed=weights.embed @ written,
            position=weights.position @ written,
            query=weights.query @ read[:, None],
            key=weights.key @ read[:, None],
            value=weights.value @ read[:, None],
            out=weights.out @ written[:, None],
            mlp_in=weights.mlp_in @ read[:, None],
            bias=weights.bias,
            mlp_out=weights.mlp_out @ written[:, None],
            unembed=weights.unembed @ read,
        )


def _basis(kind: Basis, rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Matrices (*shape, shape[-1]) and their inverses."""
    if kind == "permutation":
        order = torch.from_numpy(rng.random(shape, dtype=np.float32).argsort(-1))
        found = torch.nn.functional.one_hot(order, shape[-1]).float()
        return found, found.mT
    if kind == "rotation":
        found = _rotations(rng, shape)
        return found, found.mT
    left, right = _rotations(rng, shape), _rotations(rng, shape)
    middle = rng.uniform(-0.5, 0.5, (*shape[:-1], 1, shape[-1])).astype(np.float32)
    singular = torch.from_numpy(CONDITION**middle)
    return (left * singular) @ right.mT, (right / singular) @ left.mT


def _rotations(rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
    """Orthogonal matrices, uniform by the Haar measure (Mezzadri, arXiv math-ph/0609050)."""
    gaussian = torch.from_numpy(rng.standard_normal((*shape, shape[-1]), dtype=np.float32))
    q, r = torch.linalg.qr(gaussian)
    return q * r.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]


class ProgramBatches:
    """A stream (`data.streams.Stream`) of compiled programs, made as they are read."""

    def __init__(
        self, programs: Ints, *, rows: int, key: tuple[int | str, ...], scramble: Scramble | None = Scramble()
    ) -> None:
        """`programs` (n, 4) are drawn with replacement. `batch` depends on all of these, and the step, only."""
        if rows < 1 or not len(programs):
            raise UserError(f"batches of {rows} of {len(programs)} programs given: expected at least 1 of each")
        self.programs, self.rows, self.scramble, self._key = programs, rows, scramble, key

    def batch(self, step: int) -> tuple[Compiled, Ints]:
        """Networks, and their programs (rows, 4)."""
        rng = generator(*self._key, step)
        labels = self.programs[rng.integers(len(self.programs), size=self.rows)]
        weights = compile_programs(labels)
        return (weights if self.scramble is None else self.scramble(weights, rng)), labels
