"""A disk that is full while a checkpoint is written: the stage fails, and resumes once there is space."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from halflife.store import files
from halflife.store.run import run_stage
from halflife.store.store import Store
from tests.store.fakes import Walk, computed, final_state
from tests.sweep.drivers import wait_for

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def work(store: Store) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'platform'}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "tests.store.worker", str(store.root), "12", "0.1", "a"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def fill(path: Path) -> None:
    """Use up the free space."""
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


def test_a_disk_that_fills_up_while_a_stage_runs_costs_the_steps_since_its_last_checkpoint(
    small_disk: Path, tmp_path: Path
):
    stage, store = Walk(name="a", steps=12), Store(small_disk / "results")
    worker = work(store)
    wait_for(lambda: "a 4" in computed(store.root))
    fill(small_disk / "filler")
    _, said = worker.communicate()
    assert worker.returncode != 0
    assert "No space left on device" in said
    assert store.outcome(stage) is None
    assert not files.partial_files(store.root)
    (small_disk / "filler").unlink()
    worker = work(store)
    worker.communicate()
    assert worker.returncode == 0
    steps = Counter(computed(store.root))
    assert set(steps) == {f"a {step}" for step in range(12)}
    assert sum(steps.values()) <= 13, "at most the step whose checkpoint could not be written is computed again"
    undisturbed = Store(tmp_path / "undisturbed")
    run_stage(stage, undisturbed)
    folders = [each.verified(stage) for each in (store, undisturbed)]
    assert all(folders)
    assert final_state(folders[0]) == final_state(folders[1])  # type: ignore[arg-type]
    assert store.points(stage).equals(undisturbed.points(stage))
