from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from halflife.errors import UserError
from halflife.sweep import machine
from halflife.sweep import site as site_module
from halflife.sweep.machine import Gpus
from halflife.sweep.site import ExecutionSite


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"device": "tpu"}, "unknown device 'tpu': expected auto, cpu or cuda"),
        ({"engine": "jax"}, "unknown engine 'jax'"),
        ({"workers": 2}, "2 workers without an engine: add --engine deepspeed"),
        ({"max_concurrent": 0}, "expected at least 1"),
        ({"tracking_uri": "http://127.0.0.1:9"}, "no MLflow server answers at http://127.0.0.1:9"),
        ({"tracking_uri": "nonsense"}, "expected sqlite:///PATH"),
        ({"results": Path("s3://me:secret@bucket/results")}, "address contains credentials"),
    ],
)
def test_invalid_settings_are_refused_in_one_line(tmp_path: Path, settings: dict, reason: str):
    with pytest.raises(UserError, match=reason) as error:
        ExecutionSite(**{"results": tmp_path, **settings}).check()
    assert "\n" not in str(error.value)


def test_cuda_without_a_gpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "gpus", lambda: Gpus(count=0, memory_bytes=0.0))
    with pytest.raises(UserError, match="no usable GPU"):
        ExecutionSite(results=tmp_path, device="cuda").check()


def test_results_of_another_version_are_refused(tmp_path: Path):
    (tmp_path / "halflife.json").write_text(json.dumps({"store": 99}))
    with pytest.raises(UserError, match="version 99"):
        ExecutionSite(results=tmp_path).check()


def test_a_full_disk_is_refused_before_any_compute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10**9)
    monkeypatch.setattr(site_module.shutil, "disk_usage", lambda _: usage)
    here = ExecutionSite(results=tmp_path / "not" / "yet")
    here.check_disk(0.9e9)
    with pytest.raises(UserError, match=r"need about 1.1 GB.*has 1.0 GB free"):
        here.check_disk(1.1e9)


@pytest.mark.parametrize("name", ["stages", "artifacts", "reports", "mlflow.db"])
def test_results_that_cannot_be_written_are_refused_before_any_compute_and_nothing_is_made(tmp_path: Path, name: str):
    if name == "mlflow.db":
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_text("a file")
    with pytest.raises(UserError, match=f"{name} cannot be written.*--results"):
        ExecutionSite(results=tmp_path).check()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_results_of_a_file_system_that_is_read_only_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("halflife.sweep.site.os.access", lambda place, right: Path(place) != tmp_path)
    with pytest.raises(UserError, match=f"as {tmp_path} cannot"):
        ExecutionSite(results=tmp_path).check()


def test_a_valid_site_passes(tmp_path: Path):
    ExecutionSite(results=tmp_path, device="cpu").check()


def test_results_and_tracking_have_their_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HALFLIFE_RESULTS", str(tmp_path / "elsewhere"))
    assert ExecutionSite().results == tmp_path / "elsewhere"
    assert ExecutionSite().actual_tracking_uri == f"sqlite:///{tmp_path}/elsewhere/mlflow.db"
    monkeypatch.delenv("HALFLIFE_RESULTS")
    assert ExecutionSite().results == Path("results")


def test_artifacts_are_left_to_a_server_that_is_given(tmp_path: Path):
    assert ExecutionSite(results=tmp_path).artifacts == tmp_path / "artifacts"
    assert ExecutionSite(results=tmp_path, tracking_uri="http://127.0.0.1:5000").artifacts is None


def test_a_dry_run_needs_no_tracking_store(tmp_path: Path):
    ExecutionSite(results=tmp_path, dry_run=True, tracking_uri="http://127.0.0.1:9").check()
