"""Joining a cluster: its resources, and that it stays up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from halflife.errors import UserError
from halflife.sweep import session
from halflife.sweep.site import ExecutionSite
from tests.sweep.drivers import ROOT, Driver, runs

HEAD, GPU_HOST = {"CPU": 8.0, "memory": 8e9}, {"CPU": 8, "GPU": 1}
AWS: dict[str, Any] = {
    "provider": {"type": "aws"},
    "max_workers": 3,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 8}},
        "gpu_worker": {"resources": GPU_HOST, "max_workers": 4},
    },
}
HOSTS = {"provider": {"type": "local", "head_ip": "a", "worker_ips": ["b", "c"]}}


@pytest.mark.parametrize(
    ("configuration", "present", "missing"),
    [
        (AWS, [HEAD], [GPU_HOST] * 3),
        (AWS, [HEAD, GPU_HOST], [GPU_HOST] * 2),
        (AWS, [HEAD] + [GPU_HOST] * 3, []),
        (HOSTS, [HEAD], [HEAD] * 2),
        (HOSTS, [HEAD] * 3, []),
        (HOSTS, [HEAD] * 4, []),
        ({}, [HEAD, GPU_HOST], []),
    ],
)
def test_hosts_that_are_not_there_yet_count(configuration: dict, present: list[dict], missing: list[dict]):
    assert session._missing(configuration, present) == missing


@pytest.mark.parametrize(("address", "interface"), [("127.0.0.1", "lo"), ("192.0.2.1", None)])
def test_workers_talk_over_the_interface_of_their_hosts_address(
    monkeypatch: pytest.MonkeyPatch, address: str, interface: str | None
):
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: address)
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    session.prepare_worker()
    assert os.environ.get("GLOO_SOCKET_IFNAME") == os.environ.get("NCCL_SOCKET_IFNAME") == interface


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Ray cluster of two nodes with a core each; sweeps join it."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "platform"), str(ROOT)]))
    cluster = Cluster()
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    cluster.wait_for_nodes()
    monkeypatch.setenv("RAY_ADDRESS", str(cluster.address))
    yield cluster
    cluster.shutdown()


@pytest.mark.slow
def test_a_sweep_runs_on_every_node_of_the_ray_it_joins_and_leaves_it_running(two_nodes, tmp_path: Path):
    flags = ["--branches", "1", "--deeds", "trunk0", "meet", "trunk1", "meet"]  # each core's actor is waited for
    report = Driver(tmp_path, *flags).report()
    assert (report["run"], report["failed"]) == (report["stages"], {})
    assert len({pid for pids in runs(tmp_path).values() for pid in pids}) == 2, "an actor for each core"
    assert all(len(pids) == 1 for pids in runs(tmp_path).values())
    assert all(node.remaining_processes_alive() for node in two_nodes.list_all_nodes())
    assert Driver(tmp_path, *flags).report()["cached"] == report["stages"]


def test_no_cluster_at_the_address_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    session.cluster.cache_clear()
    with pytest.raises(UserError, match=r"no Ray answers at RAY_ADDRESS=127\.0\.0\.1:9 ") as error:
        ExecutionSite(results=tmp_path).check()
    assert "\n" not in str(error.value)
