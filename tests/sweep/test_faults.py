"""Faults in a sweep, with real processes. Afterwards the same command finishes, and nothing is lost."""

from __future__ import annotations

import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sweep.drivers import Driver, processes_of, runs, wait_for

pytestmark = pytest.mark.slow


def counts(results: Path) -> list[int]:
    return sorted(len(pids) for pids in runs(results).values())


def statuses(database: Path) -> dict[str, str]:
    connection = sqlite3.connect(database)
    found = dict(connection.execute("SELECT name, status FROM runs"))
    connection.close()
    return found


def test_killed_and_raising_stages_are_retried_and_failed_ones_block_only_their_descendants(tmp_path: Path):
    once = ("trunk0", "kill-once", "branch0.0", "raise-once", "branch0.2", "memory-once")
    flags = ("--branches", "3", "--deeds", *once, "branch0.1", "raise", "trunk1", "diverge")
    driver = Driver(tmp_path, *flags)
    report = driver.report()
    assert driver.process.returncode == 1
    assert list(report["failed"].values()) == ["RuntimeError: as asked"]
    assert len(report["blocked"]) == 3
    assert "ended as diverged" in next(iter(report["blocked"].values()))
    # diverged, killed once, raised once, out of memory once, raised three times
    assert counts(tmp_path) == [1, 2, 2, 2, 3]
    assert re.search("retrying .*: its process died", driver.output)
    assert re.search("retrying .*: MemoryError", driver.output)
    assert "run the same command again to resume" in driver.output
    again = Driver(tmp_path, *flags).report()
    assert again["cached"] == 4
    assert counts(tmp_path) == [1, 2, 2, 2, 6]
    found = statuses(tmp_path / "mlflow.db")
    assert (found["branch0.0"], found["branch0.1"], found["trunk1 · trunk (shared)"]) == (
        "FINISHED",
        "FAILED",
        "FAILED",
    )


def test_sigterm_stops_cleanly_and_a_second_run_resumes(tmp_path: Path):
    driver = Driver(tmp_path, "--seconds", "2", "--branches", "1")
    wait_for(lambda: len(runs(tmp_path)) == 4)  # both trunks are complete, both branches run
    driver.assert_stops_cleanly(lambda pid: os.kill(pid, signal.SIGTERM))
    assert statuses(tmp_path / "mlflow.db")["fakes smoke"] == "KILLED"
    assert Driver(tmp_path, "--seconds", "2", "--branches", "1").report()["cached"] == 2
    assert counts(tmp_path) == [1, 1, 2, 2]
    assert set(statuses(tmp_path / "mlflow.db").values()) == {"FINISHED"}


def test_a_second_ctrl_c_ends_it_at_once(tmp_path: Path):
    driver = Driver(tmp_path, "--seconds", "60")
    wait_for(lambda: len(runs(tmp_path)) == 2)
    driver.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    driver.process.send_signal(signal.SIGINT)
    assert driver.process.wait(timeout=5) in (130, -signal.SIGINT)
    driver.process.communicate()
    wait_for(lambda: not any("StageActor" in line for line in processes_of(driver.process.pid)), timeout=15)


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def servers(tmp_path: Path, port: int) -> Iterator[list[subprocess.Popen]]:
    """Servers that the test has started; the last ones are stopped at its end."""
    started: list[subprocess.Popen] = []
    yield started
    for server in started:
        stop(server)


def start_server(folder: Path, port: int) -> subprocess.Popen:
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{folder / 'server.db'}"),
            *("--artifacts-destination", str(folder / "server-artifacts")),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def healthy() -> bool:
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).status == 200
        except OSError:
            return False

    wait_for(healthy, timeout=90)
    return server


def stop(server: subprocess.Popen) -> None:
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.mark.nightly
def test_a_tracking_server_that_restarts_loses_nothing(tmp_path: Path, port: int, servers: list):
    servers.append(start_server(tmp_path, port))
    results, address = tmp_path / "results", f"http://127.0.0.1:{port}"
    driver = Driver(results, "--seconds", "2", "--branches", "3", "--tracking-uri", address)
    wait_for(lambda: len(runs(results)) >= 2)
    stop(servers[0])
    wait_for(lambda: len(runs(results)) >= 5)
    servers.append(start_server(tmp_path, port))
    report = driver.report()
    assert report["failed"] == {}
    assert report["unpublished"] == []
    connection = sqlite3.connect(tmp_path / "server.db")
    (points,) = connection.execute("SELECT count(*) FROM metrics WHERE key NOT LIKE 'sweep/%'").fetchone()
    names = [name for (name,) in connection.execute("SELECT name FROM runs WHERE status = 'FINISHED'")]
    connection.close()
    assert points == 8 * 5 * 2
    assert len(names) == len(set(names)) == 1 + 2 + 6


def test_a_tracking_server_that_stays_down_costs_only_a_second_run(tmp_path: Path, port: int, servers: list):
    servers.append(start_server(tmp_path, port))
    results, address = tmp_path / "results", f"http://127.0.0.1:{port}"
    driver = Driver(results, "--seconds", "1", "--branches", "1", "--tracking-uri", address)
    wait_for(lambda: len(runs(results)) >= 2)
    stop(servers[0])
    report = driver.report()
    assert (report["run"], report["failed"]) == (4, {})
    assert report["unpublished"]
    assert "not published to" in driver.output
    servers.append(start_server(tmp_path, port))
    again = Driver(results, "--seconds", "1", "--branches", "1", "--tracking-uri", address).report()
    assert (again["cached"], again["unpublished"]) == (4, [])
    connection = sqlite3.connect(tmp_path / "server.db")
    (points,) = connection.execute("SELECT count(*) FROM metrics WHERE key NOT LIKE 'sweep/%'").fetchone()
    connection.close()
    assert points == 4 * 5 * 2
