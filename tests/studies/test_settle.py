"""--settle on a real study: killed on its way, it takes the same decisions again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.studies.command import ROOT, command
from tests.sweep.drivers import wait_for

FLAGS = (
    "smoke", "--sizes", "30k", "--strength", "None", "--no-relearn", "--trunk-tokens", "24000",
    "--branch-tokens", "12000", "--poison-counts", "20", "--num-eval", "32", "--settle", "--max-seeds", "5",
)  # fmt: skip


@pytest.mark.nightly
def test_a_killed_sweep_that_settles_resumes_and_decides_alike(tmp_path: Path):
    first = subprocess.Popen(
        [sys.executable, "studies/backdoor_persistence.py", *FLAGS, "--results", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'platform'}{os.pathsep}{ROOT}"},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(lambda: len(list(tmp_path.glob("stages/*/DONE"))) >= 8)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    resumed, again = (command("backdoor_persistence", *FLAGS, results=tmp_path) for _ in range(2))
    assert (resumed.returncode, again.returncode) == (0, 0), resumed.stderr + again.stderr
    looks = [[line for line in run.stdout.splitlines() if "settled at 5 seeds" in line] for run in (resumed, again)]
    assert len(looks[0]) == 1
    assert looks[0] == looks[1]
    assert ": 0 stages run, 30 cached of 30" in again.stdout
