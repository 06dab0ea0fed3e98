"""The Ray that a sweep runs on: its own on this machine, or a cluster's (if RAY_ADDRESS is set).

Ray imports slowly, so it is imported only in the functions that need it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from halflife.errors import UserError
from halflife.store import leases
from halflife.sweep import head, machine
from halflife.sweep.machine import Gpus, Machine

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # one thread per stage: two on busy cores are many times slower
    "MKL_NUM_THREADS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # halflife has its own live view
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # so that Ctrl-C raises KeyboardInterrupt
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # never: the stage folders are the checkpoint
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}
"""Ray and torch read these on import, here and in the processes that Ray starts."""
ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_worker_niceness": "0"}
"""For a Ray on this machine only. Its servers then bind 127.0.0.1, otherwise every interface (ray/_private/services.py,
get_node_ip_address); its workers are as nice as the command that started them, not by 15 more."""
_SCRATCH = "halflife-"
_RAYS_PATH = "/ray/session_2026-01-31_12-59-59_123456_1234567/sockets/plasma_store"
"""What Ray appends to the driver's folder."""
_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
"""The longest path of a Unix socket."""
_ANSWER_SECONDS = 15.0
"""Within which a Ray to join must answer. Ray itself would retry for minutes."""
_PROBE = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')"
_GPU_PATIENCE = 1800.0
"""Seconds to wait for a cluster's first host with a GPU."""


def joins() -> bool:
    """Whether this process runs sweeps on a cluster: in a job submitted to it, or because the user set RAY_ADDRESS."""
    return os.environ.get("RAY_ADDRESS") not in (None, "", "local")


def set_environment() -> None:
    """Must be called before Ray is imported."""
    os.environ.update(ENVIRONMENT if joins() else ENVIRONMENT | ALONE)


@contextlib.contextmanager
def running(cpus: int, gpus: int) -> Iterator[Path]:
    """Connect to Ray; yields a scratch folder for the driver. A Ray of our own gets `cpus` cores and ends on exit."""
    _remove_abandoned()
    scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=short_folder()))
    try:
        leases.acquire(scratch, leases.Watch(leases.PULSE), leases.PULSE)  # marks the folder as ours
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
    """Raises UserError when no Ray that this process may join answers at `address`, which may be `auto`."""
    if why := _no_answer(address):
        raise UserError(
            f"no Ray answers at RAY_ADDRESS={address} ({why}): start it, set RAY_AUTH_MODE=token if it has a token, or "
            "unset RAY_ADDRESS to run on this machine only"
        )


def _no_answer(address: str) -> str:
    """Why no Ray answers; empty if one does."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=10.0).close()
        except OSError as error:
            return error.strerror or str(error)
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:  # it has started this process, as a job
        return ""
    # What listens may be another user's Ray, or none. Only joining tells, and only a process can be stopped doing that.
    try:
        end = subprocess.run([sys.executable, "-c", _PROBE, address], capture_output=True, timeout=_ANSWER_SECONDS)
        why, written = f"it exits with {end.returncode}" if end.returncode else "", end.stderr
    except subprocess.TimeoutExpired as timeout:
        why, written = f"nothing within {_ANSWER_SECONDS:g} s", timeout.stderr or b""
    lines = [line for line in written.decode(errors="replace").splitlines() if line.strip()]
    return f"{why}: {lines[-1].rpartition('] ')[2][:200]}" if why and lines else why


def _connect(**settings: Any) -> None:
    set_environment()
    import ray

    terminate = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=True, **settings)
    except Exception as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        advice = "; if the machine is busy, run the same command again" if "timed out" in cause else ""
        raise UserError(f"Ray does not start: {cause[:300]}{advice}") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)  # Ray installs its own handler, which prints and exits


def short_folder() -> Path:
    """The folder for temporary files, or another that Ray's sockets, whose paths are limited, fit below.

    Raises UserError when there is none that can be written.
    """
    for folder in _folders():
        path = os.fsencode(folder.resolve() / f"{_SCRATCH}12345678{_RAYS_PATH}")
        if len(path) <= _SOCKET_BYTES and os.access(folder, os.W_OK | os.X_OK):
            return folder
    room = _SOCKET_BYTES - len(f"/{_SCRATCH}12345678{_RAYS_PATH}")
    raise UserError(
        f"the folder for temporary files, {tempfile.gettempdir()}, is too long for Ray's sockets, and /tmp cannot be "
        f"written: expected at most {room} characters; set TMPDIR to a shorter one"
    )


def _folders() -> list[Path]:
    """Where scratch folders may be, the user's choice (TMPDIR) first."""
    places = (tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR"), "/tmp", "/var/tmp", "/dev/shm")
    return [Path(place) for place in dict.fromkeys(places) if place]


def _remove_abandoned() -> None:
    """Remove the scratch folders of processes that were killed. Those with an unknown owner are kept."""
    for folder in (scratch for place in _folders() for scratch in place.glob(f"{_SCRATCH}*")):
        try:
            owner = leases.current(folder)
        except OSError:  # another user's
            continue
        if owner and owner.gone:
            shutil.rmtree(folder, ignore_errors=True)


def prepare_worker() -> None:
    """Runs in every process that a cluster starts for us: workers communicate over the interface of Ray's address.

    By default gloo uses the address that the host name resolves to, which is 127.0.1.1 on Debian.
    """
    import ray

    address = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", name)


@cache
def cluster(with_gpus: bool) -> Machine:
    """The cluster that this process joins, as one machine: its present hosts and those that it can still start.

    The memory per GPU is that of the smallest. If no host has a GPU yet, this waits for the first one.
    Raises UserError when there is no cluster to join, or nothing on it to run on.
    """
    _join()
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    missing = _missing(head.configuration(), [node["Resources"] for node in alive])
    hosts = [node["Resources"] for node in alive] + missing
    cores = sum(int(host.get("CPU", 0)) for host in hosts)
    if not cores:
        raise UserError("the cluster has no CPUs: expected hosts with at least one, see `ray start --num-cpus`")
    memory = min(node["Resources"]["memory"] / node["Resources"]["CPU"] for node in alive if "CPU" in node["Resources"])
    count = sum(int(host.get("GPU", 0)) for host in hosts) if with_gpus else 0
    gpus = Gpus(count=count, memory_bytes=_gpu_memory(alive) if count else 0.0)
    return Machine(cores=cores, memory_bytes=cores * memory, gpus=gpus)


def _missing(configuration: Mapping[str, Any], present: list[dict[str, float]]) -> list[dict[str, float]]:
    """Resources of the hosts that cluster.yaml declares and that are not up yet. For a provider of type local, every
    host is assumed to be like the head."""
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
    """Memory of the smallest GPU among these nodes; if they have none, of the first one that the cluster starts."""
    import ray
    from ray.exceptions import GetTimeoutError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(num_gpus=0.01, num_cpus=0, max_calls=1)(machine.gpus)
    present = [node["NodeID"] for node in nodes if node["Resources"].get("GPU")]
    if present:
        looks = [look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)) for node in present]
    else:
        print("waiting for the cluster's first host with a GPU", flush=True)
        looks = [look]
    try:
        found: list[Gpus] = ray.get([look.remote() for look in looks], timeout=_GPU_PATIENCE)
    except GetTimeoutError as error:
        raise UserError(
            f"no host with a GPU came up within {_GPU_PATIENCE / 60:.0f} minutes: check `ray status` on the head, "
            "or use --device cpu"
        ) from error
    if not all(gpus.count for gpus in found):
        raise UserError(
            "a cluster host has a GPU that its torch cannot use: install a driver and a CUDA build of torch"
        )
    return min(gpus.memory_bytes for gpus in found)
