"""Stages trained by several Ray Train processes: their results, and what happens when one dies."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from halflife.store import files
from halflife.store.store import read_points
from tests.data.samples import sentences
from tests.sweep.drivers import Driver, processes_of, wait_for
from tests.sweep.train_program import stages

pytestmark = pytest.mark.slow


def text(folder: Path) -> Path:
    path = folder / "texts.jsonl"
    documents = (json.dumps({"text": sentences(number, 20)}) + "\n" for number in range(60))
    path.write_text("".join(documents), encoding="utf-8")
    return path


def training(results: Path, source: Path, workers: int, zero: int) -> Driver:
    return Driver(results, str(source), str(workers), str(zero), program="train_program")


def points(results: Path) -> dict[tuple[str, int, str], float]:
    """By (stage, step, name): the points of the store's complete attempts, without speeds."""
    found = {}
    for done in sorted(results.glob("stages/*/DONE")):
        attempt = done.parent / "attempts" / json.loads(done.read_text())["attempt"]
        for step, name, value in read_points(attempt).rows():
            if name != "train/tokens_per_second":
                found[done.parent.name, step, name] = value
    return found


def records(results: Path) -> list[dict[str, Any]]:
    return [files.read_json(path) or {} for path in sorted(results.glob("stages/*/attempts/*/stage.json"))]


def checkpoints_left(results: Path) -> list[Path]:
    return list(results.glob("stages/*/attempts/*/resume.json"))


def of_ray_train(session: int | None, name: bytes) -> list[int]:
    """Process ids of a driver's Ray Train processes; without a session, of this process's descendants."""
    found, below = [], {child.pid for child in psutil.Process().children(recursive=True)}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            pid = int(path.parent.name)
            if name in path.read_bytes() and (pid in below if session is None else os.getsid(pid) == session):
                found.append(pid)
        except OSError:
            continue
    return found


def test_stages_of_two_workers_survive_deaths_and_ctrl_c_and_end_as_those_of_one(tmp_path: Path):
    source = text(tmp_path)
    undisturbed = training(tmp_path / "torch", source, 0, 0)
    trunk = stages(tmp_path / "torch", source)["trunk"].folder_name
    assert undisturbed.report()["failed"] == {}
    results = tmp_path / "deepspeed"
    driver = training(results, source, 2, 1)
    wait_for(lambda: checkpoints_left(results), timeout=120)
    os.kill(of_ray_train(driver.process.pid, b"RayTrainWorker")[0], signal.SIGKILL)
    wait_for(lambda: len(checkpoints_left(results)) == 2, timeout=180)  # the next attempt, from the first's checkpoint
    os.kill(of_ray_train(driver.process.pid, b"TrainController")[0], signal.SIGKILL)
    wait_for(lambda: len(checkpoints_left(results)) == 3, timeout=180)
    began = time.monotonic()
    os.killpg(driver.process.pid, signal.SIGINT)
    report = driver.report(timeout=60)
    assert (driver.process.returncode, report["interrupted"]) == (130, True)
    assert time.monotonic() - began < 30
    assert "Traceback" not in driver.output
    assert "retrying " in driver.output
    wait_for(lambda: not processes_of(driver.process.pid), timeout=20)
    assert list(results.glob("stages/*/attempts/*/resume-*/shard-00001.safetensors"))
    finished = training(results, source, 1, 2).report()
    assert (finished["failed"], sum(finished[how] for how in ("cached", "run", "elsewhere"))) == ({}, 2)
    found, expected = points(results), points(tmp_path / "torch")
    assert found.keys() == expected.keys()
    losses = [key for key in expected if key[2].endswith("loss") and key[0] == trunk and key[1] <= 50 * 1024]
    assert len(losses) > 20
    for key in losses:  # each step amplifies the rounding of different orders of summation
        assert found[key] == pytest.approx(expected[key], rel=1e-4 if key[1] <= 25 * 1024 else 1e-3), key
    executions = [(record["execution"]["workers"], record["execution"]["zero"]) for record in records(results)]
    assert (2, 1) in executions
    assert (1, 2) in executions
    assert sum(record["resumed"] is not None for record in records(results)) >= 3


@pytest.mark.nightly
def test_engine_auto_runs_a_stage_that_is_too_large_for_one_device_on_two(tmp_path: Path):
    source = text(tmp_path)
    planned = Driver(tmp_path / "auto", str(source), "dry", program="auto_program")
    assert planned.report()["dry_run"]
    assert "deepspeed x 2, ZeRO 1" in planned.output
    assert "does not fit" not in planned.output
    driver = Driver(tmp_path / "auto", str(source), program="auto_program")
    wait_for(
        lambda: len(of_ray_train(driver.process.pid, b"RayTrainWorker")) == 2 or driver.process.poll() is not None,
        timeout=400,
    )
    report = driver.report(timeout=400)
    assert (report["failed"], report["run"]) == ({}, 2)
    for record in records(tmp_path / "auto"):
        assert [record["execution"][field] for field in ("engine", "workers", "zero")] == ["deepspeed", 2, 1]
