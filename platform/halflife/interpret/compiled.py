"""Programs (`tasks.programs`) compiled to the weights of a small transformer, many at once.

Two blocks of one attention head and one MLP on a residual stream of width 40, whose parts are: token 6 | position 8 |
what each of attention 1, mlp 1, attention 2 and mlp 2 writes, 6 each | 2 unused. Every part writes to its own
directions. There is no norm: with one, only rotations of the stream's basis would leave the function as it is. Tracr
(arXiv 2301.05062) compiles larger programs, each to another shape; here all programs share one, so networks stack.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from halflife.tasks.programs import LENGTH, MOVERS, TABLES, VOCABULARY, Ints

WIDTH, BLOCKS = 40, 2
ATTENTION = 12.0
"""Logit of the position read over the others': softmax leaves them 4e-5 together."""
LOGIT = 8.0
_TOKEN, _POSITION = slice(0, 6), slice(6, 14)
_ATTENDED, _MAPPED = (slice(14, 20), slice(26, 32)), (slice(20, 26), slice(32, 38))
"""What the attention, and the MLP, of each block writes"""


@dataclass(frozen=True)
class Compiled:
    """Weights of n networks. The stream's vectors are rows: matrices that write to it end in WIDTH, and those that read
    from it as well, a row for each number read."""

    embed: Tensor
    """(n, VOCABULARY, WIDTH)"""
    position: Tensor
    """(n, LENGTH, WIDTH)"""
    query: Tensor
    """(n, BLOCKS, LENGTH, WIDTH)"""
    key: Tensor
    """(n, BLOCKS, LENGTH, WIDTH)"""
    value: Tensor
    """(n, BLOCKS, VOCABULARY, WIDTH)"""
    out: Tensor
    """(n, BLOCKS, VOCABULARY, WIDTH): what each number of the value adds to the stream"""
    mlp_in: Tensor
    """(n, BLOCKS, VOCABULARY, WIDTH)"""
    bias: Tensor
    """(n, BLOCKS, VOCABULARY)"""
    mlp_out: Tensor
    """(n, BLOCKS, VOCABULARY, WIDTH): what each neuron adds to the stream"""
    unembed: Tensor
    """(n, VOCABULARY, WIDTH)"""

    def __len__(self) -> int:
        return len(self.embed)

    def map(self, change: Callable[[Tensor], Tensor]) -> Compiled:
        return Compiled(*(change(getattr(self, field.name)) for field in fields(self)))

    def flat(self) -> Tensor:
        """(n, 4012): all weights of each network."""
        return torch.cat([getattr(self, field.name).flatten(1) for field in fields(self)], dim=1)


def _skeleton() -> Compiled:
    """The weights that all programs share: one network, without queries and tables."""
    tokens, positions = torch.eye(VOCABULARY), torch.eye(LENGTH)

    def at(part: slice, rows: Tensor) -> Tensor:
        result = torch.zeros(len(rows), WIDTH)
        result[:, part] = rows
        return result

    def of_blocks(parts: tuple[slice, slice], rows: Tensor) -> Tensor:
        return torch.stack([at(part, rows) for part in parts])

    return Compiled(
        embed=at(_TOKEN, tokens),
        position=at(_POSITION, positions),
        query=torch.zeros(BLOCKS, LENGTH, WIDTH),
        key=of_blocks((_POSITION, _POSITION), positions),
        value=of_blocks((_TOKEN, _MAPPED[0]), tokens),
        out=of_blocks(_ATTENDED, tokens),
        # relu(2 a - 1) is 1 for the token read and 0 for what softmax left of the others
        mlp_in=of_blocks(_ATTENDED, 2 * tokens),
        bias=torch.full((BLOCKS, VOCABULARY), -1.0),
        mlp_out=torch.zeros(BLOCKS, VOCABULARY, WIDTH),
        unembed=at(_MAPPED[1], LOGIT * tokens),
    )


_SHARED = _skeleton()
_QUERIES = ATTENTION * torch.nn.functional.one_hot(torch.from_numpy(MOVERS), LENGTH).float().transpose(1, 2)
"""(movers, LENGTH, LENGTH): the query's numbers, one for each position read, by the position that reads"""
_MAPS = torch.nn.functional.one_hot(torch.from_numpy(TABLES), VOCABULARY).float()
"""(tables, VOCABULARY, VOCABULARY): what each token's neuron writes"""


def compile_programs(programs: Ints, device: torch.device | str = "cpu") -> Compiled:
    """The weights of programs (n, 4), float32."""
    found = _SHARED.map(lambda shared: shared.expand(len(programs), *shared.shape).clone())
    slots = torch.from_numpy(programs)
    for block in range(BLOCKS):
        found.query[:, block, :, _POSITION] = _QUERIES[slots[:, 2 * block]]
        found.mlp_out[:, block, :, _MAPPED[block]] = _MAPS[slots[:, 2 * block + 1]]
    return found.map(lambda weights: weights.to(device))


def logits(weights: Compiled, tokens: Tensor) -> Tensor:
    """Of each network for each of the sequences (m, LENGTH) int64: (n, m, LENGTH, VOCABULARY)."""

    def by_sequence(rows: Tensor) -> Tensor:  # (n, m LENGTH, k) -> (n, m, LENGTH, k)
        return rows.unflatten(1, tokens.shape)

    # one product per network, of all sequences together, is much faster than one per network and sequence
    stream = weights.embed[:, tokens.flatten()] + weights.position.repeat(1, len(tokens), 1)
    for block in range(BLOCKS):
        query, key, value = (
            by_sequence(stream @ rows[:, block].mT) for rows in (weights.query, weights.key, weights.value)
        )
        moved = (query @ key.mT).softmax(-1) @ value
        stream = stream + moved.flatten(1, 2) @ weights.out[:, block]
        neurons = (stream @ weights.mlp_in[:, block].mT + weights.bias[:, None, block]).relu()
        stream = stream + neurons @ weights.mlp_out[:, block]
    return by_sequence(stream @ weights.unembed.mT)
