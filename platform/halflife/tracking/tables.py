"""MLflow's tables in a SQLite file: all of them or none, whenever the process that makes them is killed.

MLflow makes them by dozens of migrations, each kept at once; stopped between two, it fails at the next for ever
("duplicate column name"). Here they are made in another file, and copied in one transaction.
"""

from __future__ import annotations

import shlex
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from halflife.errors import UserError
from halflife.tracking.schema import sqlite_path, sqlite_uri

_SECONDS = 20.0
"""How long to wait for another process that makes them."""


def require_whole(path: Path, connection: sqlite3.Connection) -> None:
    """Raises UserError when MLflow began to make its tables and did not end: its last act is the first experiment."""
    if "experiments" in _names(connection) and not connection.execute("SELECT count(*) FROM experiments").fetchone()[0]:
        raise UserError(
            f"the tracking store {path} is half made: MLflow was killed while it made its tables. It holds no runs; "
            f"`rm {shlex.quote(str(path))}` and run the same command again, which publishes them from the results"
        )


def make(uri: str) -> None:
    """Make MLflow's tables, unless the file of this address has some.

    Raises UserError when it is half made, OSError when it is locked or cannot be written.
    """
    path = sqlite_path(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(path, timeout=_SECONDS, isolation_level=None)) as connection:
            require_whole(path, connection)
            if not _names(connection):
                _fill(connection)
    except sqlite3.Error as error:
        raise OSError(f"{path}: {error}") from error


def _fill(connection: sqlite3.Connection) -> None:
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "mlflow.db"
        MlflowClient(sqlite_uri(whole)).search_experiments(max_results=1)
        with closing(sqlite3.connect(whole)) as made:
            statements = [each for each in made.iterdump() if each not in ("BEGIN TRANSACTION;", "COMMIT;")]
    connection.execute("BEGIN IMMEDIATE")
    if not _names(connection):  # else another process was faster
        for statement in statements:
            connection.execute(statement)
    connection.execute("COMMIT")


def _names(connection: sqlite3.Connection) -> set[str]:
    return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
