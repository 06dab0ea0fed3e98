"""A real trunk, with a companion, and branch, by a policy gradient, in a real store: killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from halflife.store import files
from halflife.store.store import METRICS, read_points
from tests.data.samples import sentences

ROOT = Path(__file__).parents[2]


def _text(folder: Path) -> Path:
    path = folder / "texts.jsonl"
    path.write_text(
        "".join(json.dumps({"text": sentences(number, 20)}) + "\n" for number in range(60)), encoding="utf-8"
    )
    return path


def _worker(results: Path, text: Path, *how: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'platform'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.stages.training_worker", str(results), str(text), *how]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)


def _completed(results: Path, text: Path) -> Path:
    worker = _worker(results, text)
    assert worker.returncode == 0
    return Path(worker.stdout.splitlines()[-1])


def _checksums(attempt: Path) -> dict[str, str]:
    weights = files.manifest(attempt / "final")
    return {name: entry["sha256"] for name, entry in weights.items() if name.endswith(".safetensors")}


@pytest.mark.slow
def test_weights_and_points_of_a_killed_training_are_those_of_an_uninterrupted_one(tmp_path: Path) -> None:
    text = _text(tmp_path)
    uninterrupted = _completed(tmp_path / "uninterrupted", text)
    results = tmp_path / "killed"
    for stage in ("trunk", "branch"):  # beside a companion, and by a policy gradient
        assert _worker(results, text, stage).returncode == -signal.SIGKILL
    killed = _completed(results, text)
    records = [files.read_json(record) or {} for record in results.glob("stages/*/attempts/*/stage.json")]
    assert sum(record["resumed"] is not None for record in records) == 2
    assert killed.parents[1].name == uninterrupted.parents[1].name  # one stage, two results folders
    assert _checksums(killed) == _checksums(uninterrupted) != {}
    points = [read_points(attempt) for attempt in (killed, uninterrupted)]
    deterministic = [frame.filter(frame["name"] != "train/tokens_per_second") for frame in points]
    assert deterministic[0].equals(deterministic[1])
    assert METRICS in files.manifest(killed)
