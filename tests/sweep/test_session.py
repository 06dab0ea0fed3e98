"""Joining a cluster: its resources, and that it stays up."""

from __future__ import annotations

import os
import socket
import tempfile
import time
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


def test_an_address_at_which_no_ray_of_ours_answers_is_refused_in_seconds(monkeypatch: pytest.MonkeyPatch):
    """Such as another user's: Ray itself would try for minutes."""
    monkeypatch.setattr(session, "_ANSWER_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(
            UserError, match=r"no Ray answers at RAY_ADDRESS=127.* \(nothing within 1 s.*: start it"
        ) as error:
            session._join()
        assert time.monotonic() - began < 10
    assert "\n" not in str(error.value)


def test_auto_without_a_ray_to_join_is_refused_with_rays_reason(monkeypatch: pytest.MonkeyPatch):
    reason = "ConnectionError: Could not find any running Ray instance."
    monkeypatch.setattr(session, "_PROBE", f"import sys; sys.exit('[a place in C++] {reason}')")
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(UserError, match=rf"no Ray answers at RAY_ADDRESS=auto \(it exits with 1: {reason}\)"):
        session._join()


@pytest.mark.parametrize(("address", "joins"), [(None, False), ("", False), ("local", False), ("auto", True)])
def test_a_ray_is_joined_if_it_is_not_to_be_a_local_one(
    monkeypatch: pytest.MonkeyPatch, address: str | None, joins: bool
):
    monkeypatch.setenv("RAY_ADDRESS", address or "")
    assert session.joins() == joins


def test_rays_sockets_lie_in_a_folder_that_is_short_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    long = tmp_path / "of-a-batch-job-with-its-number-123456"
    long.mkdir()
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    assert session.short_folder() == Path("/tmp")
    monkeypatch.setattr(session, "_SOCKET_BYTES", 1000)
    assert session.short_folder() == long, "the user's choice comes first"


def test_a_machine_without_a_short_folder_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("x" * 30)))
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(
        UserError, match=r"too long for Ray's sockets.*expected at most 21 characters; set TMPDIR"
    ) as error:
        session.short_folder()
    assert "\n" not in str(error.value)
