"""The commands that a cluster's head runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from halflife.errors import UserError
from halflife.sweep import head

TOKEN = "ab" * 32


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(TOKEN + "\n")
    (tmp_path / "ray_bootstrap_config.yaml").write_text("provider: {type: local, results: /shared/halflife/}")
    return tmp_path


def test_the_password_depends_on_the_token_and_does_not_reveal_it(home: Path):
    password = head.mlflow_password()
    assert password == head.mlflow_password()
    assert TOKEN not in password
    (home / ".ray" / "auth_token").write_text("cd" * 32)
    assert head.mlflow_password() != password


def test_without_a_token_it_says_how_to_create_one(home: Path):
    (home / ".ray" / "auth_token").unlink()
    with pytest.raises(UserError, match="ray get-auth-token --generate"):
        head.mlflow_password()


def test_results_are_where_the_provider_block_says(home: Path):
    assert head.results() == "/shared/halflife/"
    (home / "ray_bootstrap_config.yaml").write_text("provider: {type: local}")
    with pytest.raises(UserError, match=r"provider\.results"):
        head.results()


def test_mlflow_listens_on_loopback_behind_a_password(home: Path, monkeypatch: pytest.MonkeyPatch):
    started = {}
    monkeypatch.setattr(os, "execvpe", lambda name, line, environment: started.update(line=line, env=environment))
    head.serve_mlflow()
    line, environment = " ".join(started["line"]), started["env"]
    assert "--host 127.0.0.1 --port 5000" in line
    assert "--app-name basic-auth" in line
    assert "--allowed-hosts 127.0.0.1:*,localhost:*" in line
    assert "--artifacts-destination /shared/halflife/artifacts" in line
    assert environment["MLFLOW_AUTH_ADMIN_PASSWORD"] == head.mlflow_password()
    assert head.mlflow_password() not in line
    assert head.mlflow_password() not in (home / "halflife-mlflow" / "auth.ini").read_text()
    assert (home / "halflife-mlflow").stat().st_mode & 0o077 == 0


def test_only_the_clusters_own_server_gets_the_account(home: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    head.log_in("https://mlflow.example")
    assert "MLFLOW_TRACKING_PASSWORD" not in os.environ
    head.log_in(head.MLFLOW)
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == head.mlflow_password()


def test_an_unknown_command_is_one_line():
    line = [sys.executable, "-m", "halflife.sweep.head", "pasword"]
    ended = subprocess.run(line, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "platform"})
    assert ended.returncode == 2
    assert ended.stderr == "error: unknown command 'pasword': expected results, mlflow, password\n"
