"""MLflow's pages of a results folder in a browser: `make ui`, or `python -m halflife ui`."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from halflife.errors import UserError
from halflife.sweep.site import ExecutionSite
from halflife.tracking import page, reach, schema

HOST = "127.0.0.1"
PATIENCE = 120.0
"""Seconds until the server answers"""
GRACE = 10.0
"""Seconds for it to end"""


def browse(results: Path, port: int, told: Callable[[str], None] = print) -> None:
    """Serve the runs of a results folder on this machine until Ctrl-C. `told` gets the addresses of each study's runs,
    as the page that MLflow opens first lists none.

    Raises UserError without runs, on a port in use, and when the server ends by itself.
    """
    try:
        socket.create_server((HOST, port)).close()
    except OSError:
        raise UserError(f"port {port} is in use: choose another with make ui PORT=...") from None
    uri = ExecutionSite(results=results).actual_tracking_uri
    if not schema.sqlite_path(uri).exists():
        raise UserError(f"no runs in {results} yet: run a study first, or set HALFLIFE_RESULTS to its folder")
    reach.require_reachable(uri)
    server, address = _started(uri, port), f"http://{HOST}:{port}"
    with _stopped(server):
        if _answers(server, f"{address}/health"):
            for line in page.addresses(uri, address) or [address]:
                told(line)
            told("Ctrl-C ends it")
        server.wait()
        raise UserError(f"MLflow's server ended by itself ({server.returncode}): its lines above say why")


def _started(uri: str, port: int) -> subprocess.Popen[bytes]:
    """In a process group of its own: Ctrl-C reaches only us, as MLflow would print where it was. Without its eight
    processes for jobs, which halflife has none of."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONWARNINGS": "ignore"}
    environment.pop("MLFLOW_TRACKING_URI", None)  # this server's own address
    return subprocess.Popen(
        [*command, "--backend-store-uri", uri, "--uvicorn-opts", "--log-level warning"],
        env=environment, process_group=0,
    )  # fmt: skip


@contextlib.contextmanager
def _stopped(server: subprocess.Popen[bytes]) -> Iterator[None]:
    """Ends the server with us, also when the terminal is closed."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(server.pid, number)
                server.wait(GRACE)


def _answers(server: subprocess.Popen[bytes], address: str) -> bool:
    """Whether it does, or has ended."""
    end = time.monotonic() + PATIENCE
    while server.poll() is None and time.monotonic() < end:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(address, timeout=5).close()
            return True
        time.sleep(0.1)
    if server.poll() is None:
        raise UserError(f"MLflow's server does not answer at {address} after {PATIENCE:.0f} s: try again")
    return False
