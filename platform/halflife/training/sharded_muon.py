"""Muon under ZeRO: each matrix is gathered on one rank, orthogonalized there, and scattered again.

DeepSpeed's own Muon clips the orthogonalized update instead of the gradient and uses other coefficients, so its steps
would differ from the torch engine's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim._muon import _adjust_lr, _zeropower_via_newtonschulz

from halflife.training.fragments import Fragment
from halflife.training.ranks import Ranks


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """A sharded matrix."""

    shape: tuple[int, ...]
    pieces: dict[int, tuple[int, int, int]]
    """By rank: offset in the matrix, count, and start in the rank's shard."""
    home: int
    """The rank that gathers it: one of those with the most elements, to minimize communication."""


class ShardedMuon(torch.optim.Muon):
    """torch.optim.Muon of the same matrices after DeepSpeed has replaced them by flat shards: the momentum is sharded,
    and each rank computes the whole updates of its own share of the matrices only. All ranks step together."""

    def place(self, shards: list[Tensor], fragments: Iterable[Fragment], ranks: Ranks) -> None:
        """Set the placement of the matrices. `shards` are all tensors that the optimizer updates, in the same order on
        every rank."""
        number = {id(shard): index for index, shard in enumerate(shards)}
        own = [(number[id(f.owner)], f.name, f.shape, (f.offset, f.count, f.start)) for f in fragments]
        self._rank, found = ranks.rank, {}
        for rank, of in enumerate(ranks.all_gather(own)):
            for index, name, shape, piece in of:
                found.setdefault(index, {}).setdefault(name, (shape, {}))[1][rank] = piece
        self._matrices = {
            id(shard): [_matrix(order, *found[index][name]) for order, name in enumerate(sorted(found.get(index, ())))]
            for index, shard in enumerate(shards)
        }

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """As torch.optim.Muon's, bit-identical for bit-identical gradients. A closure is not called."""
        for group in self.param_groups:
            for shard in group["params"]:
                state = self.state[shard]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(shard)
                state["momentum_buffer"].lerp_(shard.grad, 1 - group["momentum"])
                update = shard.grad.lerp(state["momentum_buffer"], group["momentum"])  # Nesterov
                matrices = self._matrices[id(shard)]
                self._orthogonalize(update, matrices, (group["ns_coefficients"], group["ns_steps"], group["eps"]))
                shard.mul_(1 - group["lr"] * group["weight_decay"])
                for matrix in matrices:
                    if self._rank in matrix.pieces:
                        _, count, start = matrix.pieces[self._rank]
                        lr = _adjust_lr(group["lr"], group["adjust_lr_fn"], torch.Size(matrix.shape))
                        shard.narrow(0, start, count).add_(update.narrow(0, start, count), alpha=-lr)

    def _orthogonalize(self, update: Tensor, matrices: list[Matrix], how: tuple) -> None:
        """In place, on every rank's shard of the update."""
        wholes = {number: update.new_empty(m.shape) for number, m in enumerate(matrices) if m.home == self._rank}
        away: list[tuple[int, Tensor]] = []
        """Pieces of this rank's shard, and the rank that gathers them."""
        here: list[tuple[int, Tensor]] = []
        """Pieces of the matrices gathered here, and the rank that holds them."""
        own: list[tuple[Tensor, Tensor]] = []
        for number, matrix in enumerate(matrices):
            for rank, (offset, count, start) in matrix.pieces.items():
                part = wholes[number].view(-1).narrow(0, offset, count) if number in wholes else None
                if rank == self._rank and part is not None:
                    own.append((update.narrow(0, start, count), part))
                elif part is not None:
                    here.append((rank, part))
                elif rank == self._rank:
                    away.append((matrix.home, update.narrow(0, start, count)))
        for piece, part in own:
            part.copy_(piece)
        _exchange(sent=away, received=here)
        for whole in wholes.values():
            whole.copy_(_zeropower_via_newtonschulz(whole, *how))
        for piece, part in own:
            piece.copy_(part)
        _exchange(sent=here, received=away)


def _matrix(order: int, shape: tuple[int, ...], pieces: dict[int, tuple[int, int, int]]) -> Matrix:
    most = max(count for _, count, _ in pieces.values())
    homes = [rank for rank, (_, count, _) in pieces.items() if count == most]
    return Matrix(shape=shape, pieces=pieces, home=homes[order % len(homes)])


def _exchange(sent: list[tuple[int, Tensor]], received: list[tuple[int, Tensor]]) -> None:
    """Between any two ranks, one sends what the other receives, in one order."""
    operations = [dist.P2POp(dist.isend, tensor, rank) for rank, tensor in sent]
    operations += [dist.P2POp(dist.irecv, tensor, rank) for rank, tensor in received]
    for work in dist.batch_isend_irecv(operations) if operations else ():
        work.wait()
