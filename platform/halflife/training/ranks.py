"""The processes that train one stage together, and their communication of plain data."""

from __future__ import annotations

import datetime
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

Value = TypeVar("Value")
PATIENCE = datetime.timedelta(minutes=10)
"""A process fails after waiting this long for one that has stopped."""


class Ranks(Protocol):
    rank: int
    count: int

    def broadcast(self, value: Value) -> Value:
        """Rank 0's value, on every rank. Plain data."""
        ...

    def all_gather(self, value: Value) -> list[Value]:
        """Every rank's value, in order of rank, on every rank. Plain data."""
        ...


class SingleProcess:
    """One rank."""

    rank, count = 0, 1

    def broadcast(self, value: Value) -> Value:
        return value

    def all_gather(self, value: Value) -> list[Value]:
        return [value]


class DefaultGroup:
    """The processes of torch's default group. Plain data uses a separate group, on CPUs."""

    _cpu_group: Any = None
    """One per process, since a group lives as long as the process."""

    def __init__(self) -> None:
        self.rank, self.count = dist.get_rank(), dist.get_world_size()
        if DefaultGroup._cpu_group is None:
            DefaultGroup._cpu_group = dist.new_group(backend="gloo", timeout=PATIENCE)

    def broadcast(self, value: Value) -> Value:
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self._cpu_group)
        return values[0]

    def all_gather(self, value: Value) -> list[Value]:
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, group=self._cpu_group)
        return values


def init_single_process(device: torch.device) -> None:
    """Create a process group of this process alone, unless there is one: a destroyed group cannot be created again."""
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)


def all_sum(values: torch.Tensor) -> torch.Tensor:
    """Sum over the processes of the default group, in place."""
    dist.all_reduce(values)
    return values
