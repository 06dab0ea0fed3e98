"""The Ray that a sweep runs on: one of its own on this machine, or a cluster's that it joins (RAY_ADDRESS is set).

Ray imports slowly, so only inside functions that need it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from halflife.errors import UserError
from halflife.store import leases
from halflife.sweep import head, resources
from halflife.sweep.resources import Gpus, Machine

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # one thread a stage: two on busy cores are many times slower
    "MKL_NUM_THREADS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # our own live view
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C reaches us as KeyboardInterrupt
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # resuming is running the same command again
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}
"""Ray and torch read these when they are imported, here and in the processes that Ray starts."""
ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""For a Ray of this machine alone: its servers then bind 127.0.0.1, and else every interface (ray/_private/services.py,
get_node_ip_address)."""
_SCRATCH = "halflife-"
_GPU_PATIENCE = 1800.0
"""Seconds for a cluster to bring up its first host with a GPU."""


def joins() -> bool:
    """Whether sweeps of this process run on a cluster: in a job that was submitted to it, or where the user says so."""
    return bool(os.environ.get("RAY_ADDRESS"))


def set_environment() -> None:
    """To be called before Ray is imported."""
    os.environ.update(ENVIRONMENT if joins() else ENVIRONMENT | ALONE)


@contextlib.contextmanager
def running(cpus: int, gpus: int) -> Iterator[Path]:
    """A Ray to run on, and a folder for what the driver writes for it. Its own has `cpus` cores, and ends here."""
    _remove_abandoned()
    scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH))
    try:
        leases.acquire(scratch, leases.Watch(leases.PULSE), leases.PULSE)  # says whose it is
        if joins():
            _join()
        else:
            _start(cpus, gpus, scratch)
        for name in ("ray.tune", "ray.train", "ray.air"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        yield scratch
    finally:
        import ray

        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)


def _start(cpus: int, gpus: int, scratch: Path) -> None:
    _connect(
        address="local",
        num_cpus=cpus,
        num_gpus=gpus,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        _temp_dir=str(scratch / "ray"),
    )


def _join() -> None:
    set_environment()
    import ray

    if not ray.is_initialized():
        address = os.environ["RAY_ADDRESS"]
        _require_answer(address)
        runtime = {"env_vars": dict(ENVIRONMENT), "worker_process_setup_hook": f"{__name__}.prepare_worker"}
        _connect(address=address, runtime_env=runtime)


def _require_answer(address: str) -> None:
    """Raises UserError when nobody answers at an address of host and port: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal()):
        return
    try:
        socket.create_connection((host, int(port)), timeout=10.0).close()
    except OSError as error:
        raise UserError(
            f"no Ray answers at RAY_ADDRESS={address} ({error.strerror or error}): start it, or unset RAY_ADDRESS to "
            "run on this machine alone"
        ) from error


def _connect(**settings: Any) -> None:
    set_environment()
    import ray

    terminate = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=True, **settings)
    except Exception as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        advice = "; on a busy machine that passes: the same command goes on" if "timed out" in cause else ""
        raise UserError(f"Ray does not start: {cause[:300]}{advice}") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)  # Ray puts its own in place, which prints and ends the process


def _remove_abandoned() -> None:
    """Remove the folders of processes that were killed. One whose owner is not known is left alone."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*"):
        try:
            owner = leases.current(folder)
        except OSError:  # of another user
            continue
        if owner and owner.gone:
            shutil.rmtree(folder, ignore_errors=True)


def prepare_worker() -> None:
    """Run by every process that a cluster starts for us: workers talk over the interface that Ray's address is on.

    By itself gloo takes the one that the host's name stands for, which on Debian is 127.0.1.1.
    """
    import ray

    address = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", name)


@cache
def cluster(with_gpus: bool) -> Machine:
    """The cluster that this process joins, as one machine: the hosts it has, and those that it would start for us.

    Its GPUs' memory is that of the smallest; where none is there yet, of the first to come, which is waited for.
    Raises UserError when there is no cluster to join, or nothing on it to run on.
    """
    _join()
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    missing = _missing(head.configuration(), [node["Resources"] for node in alive])
    hosts = [node["Resources"] for node in alive] + missing
    cores = sum(int(host.get("CPU", 0)) for host in hosts)
    if not cores:
        raise UserError("the cluster has no CPU to run on: expected hosts that `ray start` gave some")
    memory = min(node["Resources"]["memory"] / node["Resources"]["CPU"] for node in alive if "CPU" in node["Resources"])
    count = sum(int(host.get("GPU", 0)) for host in hosts) if with_gpus else 0
    gpus = Gpus(count=count, memory_bytes=_gpu_memory(alive) if count else 0.0)
    return Machine(cores=cores, memory_bytes=cores * memory, gpus=gpus)


def _missing(configuration: Mapping[str, Any], present: list[dict[str, float]]) -> list[dict[str, float]]:
    """What the hosts have that cluster.yaml tells of and that are not there (yet). Of a list of hosts, each is taken
    to be as the head."""
    provider = configuration.get("provider", {})
    if provider.get("type") == "local":
        return [present[0]] * (1 + len(provider["worker_ips"]) - len(present))
    types: dict[str, dict[str, Any]] = configuration.get("available_node_types", {})
    workers = [
        kind["resources"]
        for name, kind in types.items()
        for _ in range(kind.get("max_workers", 0))
        if name != configuration["head_node_type"]
    ]
    return workers[len(present) - 1 : configuration.get("max_workers", 0)]


def _gpu_memory(nodes: list[dict[str, Any]]) -> float:
    """The smallest GPU's memory among these nodes, or of any that the cluster brings up."""
    import ray
    from ray.exceptions import GetTimeoutError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(num_gpus=0.01, num_cpus=0, max_calls=1)(resources.gpus)
    there = [node["NodeID"] for node in nodes if node["Resources"].get("GPU")]
    if there:
        looks = [look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)) for node in there]
    else:
        print("waiting for the cluster's first host with a GPU", flush=True)
        looks = [look]
    try:
        found: list[Gpus] = ray.get([look.remote() for look in looks], timeout=_GPU_PATIENCE)
    except GetTimeoutError as error:
        raise UserError(
            f"no host with a GPU came up within {_GPU_PATIENCE / 60:.0f} minutes: look at `ray status` on the head, "
            "or use --device cpu"
        ) from error
    if not all(gpus.count for gpus in found):
        raise UserError("a host of the cluster has a GPU that its torch cannot use: install a driver and a CUDA build")
    return min(gpus.memory_bytes for gpus in found)
