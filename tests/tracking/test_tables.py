from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow
import pytest

from halflife.errors import UserError
from halflife.tracking import tables
from halflife.tracking.publisher import connect
from halflife.tracking.reach import require_reachable
from halflife.tracking.schema import sqlite_uri


def read(path: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


NAMES = "SELECT name FROM sqlite_master WHERE type = 'table'"


@pytest.fixture(scope="module")
def by_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What MLflow makes itself."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(sqlite_uri(path)).search_experiments()
    return path


class Stand:
    """In MLflow's place: makes the same tables at once, so that tests take no seconds for its migrations."""

    def __init__(self, made: Path, stopped: bool = False) -> None:
        self._made, self._stopped = made, stopped

    def __call__(self, uri: str) -> Stand:
        path = tables.sqlite_path(uri)
        path.write_bytes(self._made.read_bytes())
        return self

    def search_experiments(self, **_: Any) -> None:
        if self._stopped:
            raise KeyboardInterrupt


@pytest.fixture
def at_once(by_mlflow: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow, "MlflowClient", Stand(by_mlflow))


@pytest.mark.usefixtures("at_once")
def test_the_tables_are_those_that_mlflow_makes(by_mlflow: Path, tmp_path: Path):
    path = tmp_path / "50% a" / "mlflow.db"
    tables.make(sqlite_uri(path))
    for query in (
        "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name",
        "SELECT version_num FROM alembic_version",
        "SELECT experiment_id, name, lifecycle_stage FROM experiments",
    ):
        assert read(path, query) == read(by_mlflow, query)
    require_reachable(sqlite_uri(path))


@pytest.mark.usefixtures("at_once")
def test_tables_with_runs_are_left_alone(by_mlflow: Path, tmp_path: Path):
    path = tmp_path / "mlflow.db"
    path.write_bytes(by_mlflow.read_bytes())
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE experiments SET name = 'mine'")
    before = path.read_bytes()
    tables.make(sqlite_uri(path))
    assert path.read_bytes() == before


def test_who_is_stopped_while_mlflow_makes_its_tables_leaves_none(
    by_mlflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "mlflow.db"
    monkeypatch.setattr(mlflow, "MlflowClient", Stand(by_mlflow, stopped=True))
    with pytest.raises(KeyboardInterrupt):
        tables.make(sqlite_uri(path))
    assert read(path, NAMES) == []
    monkeypatch.setattr(mlflow, "MlflowClient", Stand(by_mlflow))
    tables.make(sqlite_uri(path))
    assert ("runs",) in read(path, NAMES)


def test_who_is_stopped_while_they_are_copied_leaves_none(
    by_mlflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Killed(sqlite3.Connection):
        def execute(self, statement: str, *given: Any) -> sqlite3.Cursor:
            if statement.startswith("CREATE INDEX"):
                raise KeyboardInterrupt
            return super().execute(statement, *given)

    path, real = tmp_path / "mlflow.db", sqlite3.connect
    monkeypatch.setattr(mlflow, "MlflowClient", Stand(by_mlflow))
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", lambda *a, **named: real(*a, **named, factory=Killed))
        with pytest.raises(KeyboardInterrupt):
            tables.make(sqlite_uri(path))
    assert read(path, NAMES) == []


def test_a_store_that_is_half_made_is_refused_before_any_compute_with_the_command_that_mends_it(tmp_path: Path):
    """As an MLflow leaves it that is killed in the middle of its migrations: tables, and no experiment."""
    path = tmp_path / "my results" / "mlflow.db"
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE experiments (experiment_id INTEGER)")
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR)")
    for refuses in (require_reachable, connect):
        with pytest.raises(UserError, match=r"is half made: .* holds no runs; `rm '.*my results/mlflow.db'` and run"):
            refuses(sqlite_uri(path))


def test_a_locked_file_is_tried_again(tmp_path: Path, by_mlflow: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "mlflow.db"
    monkeypatch.setattr(tables, "_SECONDS", 0.0)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(OSError, match=r"mlflow\.db: database is locked"):
            tables.make(sqlite_uri(path))
