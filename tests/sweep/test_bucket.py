"""Sweeps whose results lie in a bucket, by drivers on machines that share nothing else."""

from __future__ import annotations

import os
import signal
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stages import s3
from tests.sweep.drivers import Driver, runs, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    pytest.importorskip("moto", reason="moto[s3] is a local S3 (make test installs it)")
    with s3.serving():
        yield s3.BUCKET


def counts(tmp_path: Path) -> list[int]:
    """How often each stage has begun to run, on whatever machine."""
    total: dict[str, int] = {}
    for copy in tmp_path.glob("host-*/*"):
        for name, pids in runs(copy).items():
            total[name] = total.get(name, 0) + len(pids)
    return sorted(total.values())


def driver(host: Path, address: str, *flags: str) -> Driver:
    return Driver(Path(address), *flags, environment={"HALFLIFE_CACHE": str(host)})


def test_the_same_sweep_on_two_hosts_computes_each_stage_once_and_makes_each_run_once(bucket: str, tmp_path: Path):
    address, flags = f"{bucket}/{uuid.uuid4().hex}", ("--seconds", "1", "--branches", "3")
    database = tmp_path / "mlflow.db"
    shared = ("--tracking-uri", f"sqlite:///{database}")
    drivers = [driver(tmp_path / f"host-{number}", address, *flags, *shared) for number in range(2)]
    reports = [driver.report() for driver in drivers]
    assert [report["failed"] for report in reports] == [{}, {}]
    assert counts(tmp_path) == [1] * 8
    assert sum(report["run"] for report in reports) == 8
    connection = sqlite3.connect(database)
    names = [name for (name,) in connection.execute("SELECT name FROM runs WHERE status = 'FINISHED'")]
    (points,) = connection.execute("SELECT count(*) FROM metrics WHERE key NOT LIKE 'sweep/%'").fetchone()
    connection.close()
    assert len(names) == len(set(names)) == 1 + 2 + 6
    assert points == 8 * 5 * 2
    third = driver(tmp_path / "host-2", address, *flags).report()  # a machine that has nothing of it yet
    assert (third["cached"], third["run"], third["unpublished"]) == (8, 0, [])
    assert "ray" not in third["imported"]


def test_a_host_that_is_killed_leaves_work_that_another_host_finishes(bucket: str, tmp_path: Path):
    address, flags = f"{bucket}/{uuid.uuid4().hex}", ("--seconds", "1.5", "--branches", "1")
    first = driver(tmp_path / "host-0", address, *flags)
    wait_for(lambda: len(counts(tmp_path)) >= 3)
    os.killpg(first.process.pid, signal.SIGKILL)
    first.process.communicate()
    report = driver(tmp_path / "host-1", address, *flags).report()
    assert (report["failed"], report["unpublished"]) == ({}, [])
    assert report["cached"] + report["run"] == 4
    assert max(counts(tmp_path)) <= 2
