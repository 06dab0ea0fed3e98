"""The Makefile's targets that need no installation."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not (ROOT / ".venv").exists() or shutil.which("make") is None, reason="needs make and .venv")
def test_a_browser_on_a_port_in_use_is_refused_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = ["make", "--no-print-directory", "--old-file=.venv/.train", "ui", f"PORT={port}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode
    assert done.stderr.splitlines()[0] == f"error: port {port} is in use: choose another with make ui PORT=..."
    assert not done.stdout
