"""`make ui`: what it refuses, what it prints, and how it ends; the server is a small one in MLflow's place."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from halflife.errors import UserError
from halflife.sweep import browse

SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.send_response(200); self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
DRIVER = """
import subprocess, sys
from pathlib import Path
from halflife.sweep import browse
def started(uri, port):
    return subprocess.Popen([sys.executable, "-c", sys.argv[3], str(port)], process_group=0)
browse._started = started
browse.browse(Path(sys.argv[1]), int(sys.argv[2]), lambda line: print(line, flush=True))
"""


@pytest.fixture
def results(tmp_path: Path) -> Path:
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
        database.execute("CREATE TABLE experiments (experiment_id INTEGER, name TEXT, lifecycle_stage TEXT)")
        database.execute("CREATE TABLE experiment_tags (key TEXT, value TEXT, experiment_id INTEGER)")
        database.execute("INSERT INTO experiments VALUES (7, 'study', 'active')")
        database.execute("INSERT INTO experiment_tags VALUES ('halflife.study', 'study', 7)")
    return tmp_path


def free_port() -> int:
    with socket.create_server((browse.HOST, 0)) as taken:
        return taken.getsockname()[1]


def driver(results: Path, port: int, server: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", DRIVER, str(results), str(port), server]
    environment = {**os.environ, "PYTHONPATH": "platform"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heeding
    )


def heeding() -> None:
    """Ctrl-C, which the children of a shell's background job ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_prints_the_page_of_the_runs_and_ends_with_its_server_and_no_traceback(results: Path, number: int) -> None:
    port = free_port()
    with driver(results, port, SERVER) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == f"study: http://127.0.0.1:{port}/#/experiments/7/runs\n"
        assert running.stdout.readline() == "Ctrl-C ends it\n"
        running.send_signal(number)
        assert running.communicate(timeout=30) == ("", "")
    assert running.returncode == 0
    socket.create_server((browse.HOST, port)).close()  # the port is free again


def test_a_server_that_ends_by_itself_is_an_error(results: Path) -> None:
    with driver(results, free_port(), "raise SystemExit(3)") as running:
        out, error = running.communicate(timeout=30)
    assert not out
    assert "UserError: MLflow's server ended by itself (3)" in error


def test_without_runs_or_with_a_port_in_use_nothing_is_started(results: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no runs in .*none yet: run a study first"):
        browse.browse(tmp_path / "none", free_port())
    with socket.create_server((browse.HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is in use: choose another with make ui PORT="):
            browse.browse(results, port)
