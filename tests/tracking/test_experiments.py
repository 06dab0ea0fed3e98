from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

from halflife.tracking import experiments
from halflife.tracking.schema import sqlite_uri
from tests.tracking.fake_store import FakeStore


def found(store: FakeStore, results: Path) -> dict[str, str]:
    """Find the experiment, then by run: where its artifacts are according to the database."""
    database = results / "mlflow.db"
    experiments.find(store, sqlite_uri(database), "study", description="", artifacts=results / "artifacts")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("SELECT run_uuid, artifact_uri FROM runs").fetchall()
        rows += connection.execute("SELECT 'experiment', artifact_location FROM experiments").fetchall()
    connection.close()
    return dict(rows)


def test_artifacts_are_found_and_stored_next_to_a_database_that_was_moved_or_copied(tmp_path: Path):
    """MLflow stores their absolute place, where another user may not even write."""
    old, copy = tmp_path / "old %2F", tmp_path / "copy"
    old.mkdir()
    there, elsewhere = (old / "artifacts").as_uri(), "s3://bucket/artifacts/b"
    store = FakeStore()
    store.create_experiment("study", artifact_location=there)
    with sqlite3.connect(old / "mlflow.db") as connection:
        connection.execute("CREATE TABLE experiments (experiment_id INTEGER, artifact_location TEXT)")
        connection.execute("CREATE TABLE runs (run_uuid TEXT, experiment_id INTEGER, artifact_uri TEXT)")
        connection.execute("INSERT INTO experiments VALUES (1, ?)", (there,))
        runs = [("a", 1, f"{there}/a/artifacts"), ("b", 1, elsewhere), ("other", 2, f"{there}/other/artifacts")]
        connection.executemany("INSERT INTO runs VALUES (?, ?, ?)", runs)
    connection.close()
    unchanged = {"experiment": there, "a": f"{there}/a/artifacts", "b": elsewhere, "other": f"{there}/other/artifacts"}
    assert found(store, old) == unchanged
    shutil.copytree(old, copy)
    here = (copy / "artifacts").as_uri()
    assert found(store, copy) == {**unchanged, "experiment": here, "a": f"{here}/a/artifacts"}
    assert found(store, old) == unchanged
