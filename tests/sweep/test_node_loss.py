"""A cluster node dies during a sweep: its stages continue elsewhere, and nothing is lost."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.sweep.drivers import Driver, runs, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Ray cluster of two nodes on this machine, with a core each; sweeps join it."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 80 * 2**20})
    monkeypatch.setenv("RAY_ADDRESS", str(made.address))
    yield made
    made.shutdown()


def test_a_killed_node_loses_nothing(cluster: Any, tmp_path: Path):
    node = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    cluster.wait_for_nodes()
    driver = Driver(tmp_path, "--seconds", "3", "--branches", "1")
    wait_for(lambda: len(runs(tmp_path)) == 2)
    raylet = node.all_processes["raylet"][0].process.pid
    actors = [child for child in psutil.Process(raylet).children(recursive=True) if "StageActor" in child.name()]
    assert len(actors) == 1, "each node computes a stage"
    cluster.remove_node(node, allow_graceful=False)  # SIGKILL
    report = driver.report()
    assert (report["failed"], report["unpublished"]) == ({}, [])
    counts = sorted(len(pids) for pids in runs(tmp_path).values())
    assert counts in ([1, 1, 1, 2], [1, 1, 1, 1]), "the stage that ran there, and no other, is computed again"
    assert not any(actor.is_running() for actor in actors)
    connection = sqlite3.connect(tmp_path / "mlflow.db")
    found = [status for (status,) in connection.execute("SELECT status FROM runs")]
    connection.close()
    assert set(found) == {"FINISHED"}
