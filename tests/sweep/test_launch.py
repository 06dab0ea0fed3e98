"""One sweep on Ray, published to SQLite, as users run it."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.runs.load import find_sweeps
from analysis.runs.open import open_store
from analysis.runs.places import tracking_uri_of
from halflife.sweep.launch import run
from halflife.sweep.site import ExecutionSite
from halflife.tracking import schema
from tests.sweep.drivers import ROOT, Driver, runs
from tests.sweep.helpers import study

NAME = "50%2F, 100% b?c=d#e [f]"
"""As people name folders; addresses give each of these signs a meaning of its own."""


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], dict[str, list[int]]]:
    """Results of a sweep of 2 trunks with 4 branches each on 2 slots; its report; which process ran what."""
    results = tmp_path_factory.mktemp("results") / NAME
    long = tmp_path_factory.mktemp("of-a-batch-job-with-its-number-123456")  # too long for Ray's sockets
    report = Driver(results, "--branches", "4", environment={"TMPDIR": str(long)}).report()
    return results, report, runs(results)


@pytest.fixture
def database(swept) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(swept[0] / "mlflow.db")
    yield connection
    connection.close()


def test_every_stage_is_computed_once(swept):
    _, report, ran = swept
    assert (report["stages"], report["run"], report["cached"]) == (10, 10, 0)
    assert report["failed"] == report["blocked"] == {}
    assert [len(pids) for pids in ran.values()] == [1] * 10


def test_start_up_is_paid_once_per_slot(swept):
    _, _, ran = swept
    assert len({pid for pids in ran.values() for pid in pids}) <= 2


def test_the_report_accounts_for_the_time_and_the_sharing(swept):
    _, report, _ = swept
    assert report["slots"] == 2
    assert 0 < report["compute_seconds"] < 2 * report["wall_seconds"]
    assert (report["tokens_trained"], report["tokens_unshared"]) == (10 * 5, 8 * 2 * 5)


def test_runs_are_in_the_store_with_their_points(swept, database: sqlite3.Connection):
    kinds = Counter(value for (value,) in database.execute("SELECT value FROM tags WHERE key = 'halflife.kind'"))
    assert kinds == {"sweep": 1, "stage": 2, "trial": 8}
    points = Counter(key for (key,) in database.execute("SELECT key FROM metrics WHERE key NOT LIKE 'sweep/%'"))
    assert points == {
        "branch/skill/hits": 40,
        "branch/skill/trials": 40,
        "stage/skill/hits": 10,
        "stage/skill/trials": 10,
    }
    assert set(database.execute("SELECT DISTINCT status FROM runs")) == {("FINISHED",)}
    assert database.execute("SELECT count(*) FROM metrics WHERE key = 'sweep/efficiency'").fetchone() == (1,)


def test_results_in_a_folder_of_any_name_are_all_in_it_and_are_read_from_it(swept):
    results, report, _ = swept
    assert report["unpublished"] == []
    assert [path.name for path in results.parent.iterdir()] == [NAME]
    assert not list(Path(ROOT).glob("*%2F*"))
    (sweep,) = find_sweeps(open_store(tracking_uri_of(results)))
    assert sweep.tags[schema.TAG_SWEEP] == report["sweep"]
    assert open_store(tracking_uri_of(results)).artifact(sweep, schema.DECLARATION)


def test_the_declaration_is_an_artifact_of_the_parent(swept):
    (declaration,) = (swept[0] / "artifacts").glob("*/artifacts/study.json")
    assert "Does it run?" in declaration.read_text()


def test_a_second_run_starts_no_ray_imports_no_torch_and_writes_nothing(swept, database: sqlite3.Connection):
    results, _, ran = swept
    before = database.execute("SELECT count(*) FROM metrics").fetchone()
    report = Driver(results, "--branches", "4").report(timeout=30)
    assert (report["cached"], report["run"], report["imported"]) == (10, 0, [])
    assert runs(results) == ran
    assert database.execute("SELECT count(*) FROM metrics").fetchone() == before


def test_a_dry_run_leaves_no_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    result = run(study(), ExecutionSite(results=tmp_path / "results", device="cpu", dry_run=True))
    assert result.dry_run
    assert not (tmp_path / "results").exists()
    assert "nothing is run" in capsys.readouterr().out
