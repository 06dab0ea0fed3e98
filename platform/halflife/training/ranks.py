"""The processes that train one stage together, and what they tell one another besides tensors."""

from __future__ import annotations

import datetime
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

Value = TypeVar("Value")
PATIENCE = datetime.timedelta(minutes=10)
"""How long a process waits for one that has stopped before it fails."""


class Ranks(Protocol):
    rank: int
    count: int

    def agreed(self, value: Value) -> Value:
        """Rank 0's value, on every rank. Plain data."""
        ...

    def gathered(self, value: Value) -> list[Value]:
        """Every rank's value in the order of ranks, on every rank. Plain data."""
        ...


class Alone:
    """One process."""

    rank, count = 0, 1

    def agreed(self, value: Value) -> Value:
        return value

    def gathered(self, value: Value) -> list[Value]:
        return [value]


class Together:
    """The processes of torch's default group. They talk over a CPU group of their own, beside the tensors."""

    _talk: Any = None
    """Made once a process: a group lives as long as the process."""

    def __init__(self) -> None:
        self.rank, self.count = dist.get_rank(), dist.get_world_size()
        if Together._talk is None:
            Together._talk = dist.new_group(backend="gloo", timeout=PATIENCE)

    def agreed(self, value: Value) -> Value:
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self._talk)
        return values[0]

    def gathered(self, value: Value) -> list[Value]:
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, group=self._talk)
        return values


def join_alone(device: torch.device) -> None:
    """A process group of this process only, once: it is kept, since a group that was ended cannot be made again."""
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)


def all_sum(values: torch.Tensor) -> torch.Tensor:
    """The sum over the processes of the default group, in place."""
    dist.all_reduce(values)
    return values
