"""During a sweep, nothing listens on other interfaces than loopback."""

from __future__ import annotations

import os
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest

from halflife.sweep import browse
from tests.sweep.drivers import Driver, runs, wait_for

ROOT = Path(__file__).parents[2]


def listening(session: int) -> set[tuple[str, str]]:
    """(process, address) of every listening socket of the processes of a session."""
    found = set()
    for connection in psutil.net_connections(kind="inet"):
        if connection.status != psutil.CONN_LISTEN or connection.pid is None or not connection.laddr:
            continue
        try:
            if os.getsid(connection.pid) == session:
                found.add((psutil.Process(connection.pid).name(), connection.laddr.ip))
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def loopback(address: str) -> bool:
    found = ip_address(address)
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback  # ::ffff:127.0.0.1 takes IPv4 alone


@pytest.mark.slow
def test_a_sweep_listens_on_loopback_and_nowhere_else(tmp_path: Path) -> None:
    driver = Driver(tmp_path, "--seconds", "2", "--branches", "1")
    wait_for(lambda: len(runs(tmp_path)) >= 2)
    found = listening(driver.process.pid)
    assert driver.report()["failed"] == {}
    assert found
    assert {(name, address) for name, address in found if not loopback(address)} == set()


def test_make_ui_serves_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "-m halflife ui --port" in (ROOT / "Makefile").read_text()
    started: list[list[str]] = []
    monkeypatch.setattr(browse.subprocess, "Popen", lambda command, **_: started.append(command))
    browse._started("sqlite:///runs.db", 5000)
    [command] = started
    assert loopback(command[command.index("--host") + 1])


def test_the_cluster_s_dashboard_listens_on_the_heads_loopback() -> None:
    starts = [line for line in (ROOT / "cluster.yaml").read_text().splitlines() if "ray start --head" in line]
    assert starts
    assert all("--dashboard-host=127.0.0.1" in line for line in starts)
