"""A user's secrets reach neither the store, nor MLflow, nor the terminal."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, ClassVar

import pytest
from rich.console import Console

from halflife.secrets import masked
from halflife.store.run import run_stage
from halflife.store.store import Store
from halflife.sweep.launch import run
from halflife.sweep.site import ExecutionSite
from tests.store.fakes import Walk
from tests.sweep.helpers import study

ENVIRONMENT = {
    "AWS_SECRET_ACCESS_KEY": "aws-5ecret",
    "HF_TOKEN": "hf_5ecret",
    "MLFLOW_TRACKING_PASSWORD": "mlflow-5ecret",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "flask-5ecret",
    "RAY_AUTH_TOKEN": "ray-5ecret",
}
URIS = (
    "https://me:uri-5ecret@host/x",
    "https://to:ken:uri-5ecret@host/x",
    "https://uri-5ecret@host/x",
    "postgresql://host/db?user=me&password=uri-5ecret",
    "https://host/x?token=uri-5ecret#top",
    "s3://host/x?api_key=uri-5ecret",
)


@pytest.mark.parametrize("uri", URIS)
def test_secrets_in_a_uri_are_masked_and_the_rest_stays(uri: str) -> None:
    shown = masked(f"study.py demo --tracking-uri {uri} --seeds 3")
    assert "5ecret" not in shown
    assert "host" in shown
    assert shown.startswith("study.py demo --tracking-uri ")
    assert shown.endswith(" --seeds 3")


class Leaking(Walk):
    """Fails with a password in the message."""

    kind: ClassVar[str] = "leaking"

    def run(self, context: Any) -> dict[str, Any]:
        raise ConnectionError(f"no answer from {URIS[0]}")


def test_no_secret_reaches_the_store_or_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.argv", ["study.py", "smoke", *(f"--tracking-uri={uri}" for uri in URIS)])
    made, site = (
        study(trunks=1, branches=1),
        ExecutionSite(results=tmp_path / "results", device="cpu", max_concurrent=1),
    )
    for stage in made.stages:
        run_stage(stage, site.store())
    with pytest.raises(ConnectionError):
        run_stage(Leaking(name="a"), site.store())
    printed = io.StringIO()
    report = run(made, site, Console(file=printed))
    assert (report.cached, report.unpublished) == (2, ())
    (tmp_path / "results" / "printed").write_text(printed.getvalue())
    files = [path for path in (tmp_path / "results").rglob("*") if path.is_file()]
    assert {"mlflow.db", "stage.json", "study.json"} <= {path.name for path in files}
    leaking = [path for path in files if b"5ecret" in path.read_bytes()]
    assert leaking == []
    assert any(b"no answer from https://***@host/x" in path.read_bytes() for path in files)
    assert Store(site.results).outcome(made.stages[0])
