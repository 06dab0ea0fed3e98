"""What this machine has, found without importing torch, and the share of it that a stage needs."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

GPU_OVERHEAD_BYTES = 700e6
"""What a process holds on a GPU before it has allocated anything: context, kernels, libraries' workspaces."""
GPU_HEADROOM = 1.15
"""Fragmentation; the estimate of activations is an upper one."""
CPU_OVERHEAD_BYTES = 400e6
"""What a process that trains holds before the first tensor: Python, torch, Ray's worker."""
CPU_HEADROOM = 1.1
_SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)


@cache
def free_bytes() -> float:
    """Memory that this machine, or the container that we are in, has free, as first looked at."""
    free, group = float(psutil.virtual_memory().available), Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        held = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return free if limit == "max" else min(free, float(limit) - float(held["anon"]))
    except (OSError, ValueError, KeyError):  # no container that limits us
        return free


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True)
class Gpus:
    count: int
    memory_bytes: float
    """Of the smallest one."""


@cache
def gpus() -> Gpus:
    """The GPUs that both the driver and the installed torch can use; none where either is missing."""
    none = Gpus(count=0, memory_bytes=0.0)
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None or not list((Path(torch.origin).parent / "lib").glob("*torch_cuda*")):
        return none
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return none
    count, memories = ctypes.c_int(), []
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return none
    for index in range(count.value):
        device, memory = ctypes.c_int(), ctypes.c_size_t()
        cuda.cuDeviceGet(ctypes.byref(device), index)
        cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
        memories.append(float(memory.value))
    return Gpus(count=len(memories), memory_bytes=min(memories)) if memories else none


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a sweep may use: this machine, or a cluster taken as one."""

    cores: int
    memory_bytes: float
    """Free now, for everything that runs on the cores."""
    gpus: Gpus


def machine() -> Machine:
    """This machine."""
    return Machine(cores=cores(), memory_bytes=free_bytes(), gpus=gpus())


@dataclass(frozen=True, kw_only=True)
class ResourceRequest:
    """What one stage occupies while it runs."""

    cpus: float = 1.0
    gpus: float = 0.0
    workers: int = 1
    """Processes that share these; several have them from Ray Train, beside the actor that starts them."""


def gpu_share(needed_bytes: float, memory_bytes: float, most: int) -> ResourceRequest:
    """The smallest of 1/16, 1/8, ... 1 of a GPU of `memory_bytes` that holds a process with `needed_bytes` of tensors,
    and no smaller than one of `most` equal parts."""
    needed = (GPU_HEADROOM * needed_bytes + GPU_OVERHEAD_BYTES) / memory_bytes
    return ResourceRequest(gpus=next((part for part in _SHARES if part >= needed and part * most >= 1), 1.0))
