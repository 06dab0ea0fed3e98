"""A real Train in a real store, killed by SIGKILL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from halflife.store.store import Store
from tests.training.killed import stage_in

SECONDS = 60


def start(results: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-m", "tests.training.killed", str(results)], env=environment)


def final_weights(results: Path):
    store, stage = Store(results), stage_in(results)
    outcome = store.outcome(stage)
    assert outcome is not None
    return load_file(store.folder(stage) / "attempts" / outcome.attempt / "final" / "weights.safetensors")


@pytest.mark.slow
def test_a_stage_killed_between_checkpoints_ends_with_the_bits_of_an_uninterrupted_one(tmp_path):
    uninterrupted, killed = tmp_path / "uninterrupted", tmp_path / "killed"
    assert start(uninterrupted).wait(SECONDS) == 0
    process = start(killed)
    deadline = time.monotonic() + SECONDS
    while not list(killed.glob("stages/*/attempts/*/resume.json")):
        assert process.poll() is None, "it ended before its first checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert Store(killed).outcome(stage_in(killed)) is None
    assert start(killed).wait(SECONDS) == 0
    assert len(list(killed.glob("stages/*/attempts/*"))) == 2
    one, other = final_weights(uninterrupted), final_weights(killed)
    assert one.keys() == other.keys()
    assert all(bool((one[name] == other[name]).all()) for name in one)
    store, stage = Store(killed), stage_in(killed)
    timed = "train/tokens_per_second"
    points = [
        sorted(row for row in where.points(stage_in(where.root)).rows() if row[1] != timed)
        for where in (Store(uninterrupted), store)
    ]
    assert points[0] == points[1]
    assert stage.folder_name == stage_in(uninterrupted).folder_name
