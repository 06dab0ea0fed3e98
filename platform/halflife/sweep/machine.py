"""The machine's resources: cores, free memory and GPUs, found without importing torch."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil


@dataclass(frozen=True, kw_only=True)
class Gpus:
    count: int
    memory_bytes: float
    """Of the smallest one."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a sweep may use: this machine, or a whole cluster."""

    cores: int
    memory_bytes: float
    """Free at the start, for everything that runs on the cores."""
    gpus: Gpus


def this_machine() -> Machine:
    return Machine(cores=cores(), memory_bytes=free_bytes(), gpus=gpus())


@cache
def free_bytes() -> float:
    """Free memory of this machine, or of the container that it runs in, at the first call."""
    free, group = float(psutil.virtual_memory().available), Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        held = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return free if limit == "max" else min(free, float(limit) - float(held["anon"]))
    except (OSError, ValueError, KeyError):  # not in a container with a memory limit
        return free


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def gpus() -> Gpus:
    """The GPUs that the driver and the installed torch can both use; none where either is missing."""
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


_PRODUCTS = """
import sys, time, numpy
matrix, fastest, began, first = numpy.ones((512, 512), "f"), 1.0, time.perf_counter(), time.process_time()
while time.perf_counter() < began + 0.3:
    now = time.process_time()  # of the processor: on a busy core no product may be undisturbed
    matrix @ matrix
    fastest = min(fastest, time.process_time() - now)
share = (time.process_time() - first) / (time.perf_counter() - began)
sys.stdout.write(f"{2 * 512**3 / fastest} {min(1.0, share)}")
"""


def core_flops() -> float:
    """FLOP/s of one core in products of fp32 matrices, undisturbed: cores differ by a factor of three."""
    return max(flops for flops, _ in _products(1))


def core_share(processes: int) -> float:
    """What other work leaves of a core to each of so many processes of this niceness, above 0 and at most 1."""
    shares = [share for _, share in _products(max(1, min(processes, cores())))]
    return sum(shares) / len(shares)


@cache
def _products(processes: int) -> list[tuple[float, float]]:
    """Measured in half a second, in processes that run at once: the FLOP/s of the fastest product, and the share of the
    time that such products would take. Not in this process, as a library that is already loaded may use all cores."""
    alone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command, env = [sys.executable, "-c", _PRODUCTS], {**os.environ, **alone}
    with ThreadPoolExecutor(processes) as pool:
        outputs = pool.map(lambda _: subprocess.check_output(command, env=env), range(processes))
        return [(float(flops), float(share)) for flops, share in map(bytes.split, outputs)]
