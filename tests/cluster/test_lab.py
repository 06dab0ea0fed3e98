"""The hosts of the cluster tests end with their owner, and are isolated from this machine."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.lab import ROOT, lacking

pytestmark = pytest.mark.cluster
OWNER = "import sys; from pathlib import Path; from tests.cluster.lab import Lab; lab = Lab(Path(sys.argv[1]), 2)\n"


def test_hosts_end_with_their_killed_owner(tmp_path: Path):
    if reason := lacking():
        pytest.skip(reason)
    before = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
    program = OWNER + "print(lab.on(1, 'hostname'), flush=True); sys.stdin.read()"
    line = [sys.executable, "-c", program, str(tmp_path)]
    owner = subprocess.Popen(line, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdout
    assert owner.stdout.readline() == "host1\n"
    assert processes_of(tmp_path), "sshd runs"
    assert subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout == before
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    give_up = time.monotonic() + 30.0
    while processes_of(tmp_path):
        assert time.monotonic() < give_up
        time.sleep(0.1)
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


def processes_of(scratch: Path) -> list[str]:
    """Command lines of processes that contain the folder's name, except the test's owner."""
    listed = subprocess.run(["ps", "-wweo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in listed if str(scratch) in line and OWNER.partition(";")[0] not in line]
