from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import make_url

from halflife.errors import UserError
from halflife.tracking.reach import require_reachable
from halflife.tracking.schema import sqlite_path, sqlite_uri


def serve(code: int) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code)
            self.end_headers()
            self.wfile.write(b"OK")

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_server_that_answers_is_reachable():
    for uri in serve(200):
        require_reachable(uri)
        require_reachable(uri + "/")


def test_a_server_that_refuses_us_says_what_to_set():
    for uri in serve(403):
        with pytest.raises(UserError, match=r"refuses access \(403\).*MLFLOW_TRACKING_USERNAME"):
            require_reachable(uri)


def test_a_server_that_is_not_mlflow_is_refused():
    for uri in serve(404):
        with pytest.raises(UserError, match="expected an MLflow server"):
            require_reachable(uri)


def test_a_server_that_does_not_answer_is_one_clear_line():
    (gone,) = serve(200)
    with pytest.raises(UserError, match=r"no MLflow server answers at http://127\.0\.0\.1") as error:
        require_reachable(gone)
    assert "\n" not in str(error.value)


def test_a_new_sqlite_file_is_reachable_and_its_folder_is_made(tmp_path: Path):
    require_reachable(f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}")
    assert (tmp_path / "new").is_dir()


def test_a_file_that_is_not_sqlite_is_refused(tmp_path: Path):
    (tmp_path / "mlflow.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(UserError, match="cannot be opened"):
        require_reachable(f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_a_sqlite_file_in_use_is_reachable(tmp_path: Path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES (1)")
        require_reachable(uri)
    connection.close()


@pytest.mark.parametrize(
    "name", ["plain", "a b", "50%", "a%2Fb", "what?", "?mode=ro", "#1", "[a]", "é'\"", "a%2Fb?c#d"]
)
def test_the_file_that_is_checked_is_the_file_that_is_used(tmp_path: Path, name: str):
    file = tmp_path / name / "mlflow.db"
    uri = sqlite_uri(file)
    assert sqlite_path(uri) == Path(make_url(uri).database or "") == file
    require_reachable(uri)
    assert file.is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_folder_that_sqlalchemy_would_take_for_another_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sqlalchemy.make_url", lambda uri: SimpleNamespace(database=uri.removeprefix("sqlite:///")))
    with pytest.raises(UserError, match="choose a folder without % and"):
        require_reachable(sqlite_uri(tmp_path / "100%" / "mlflow.db"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("uri", ["", "mlruns", "file:///tmp/mlruns", "ftp://host/x", "sqlite://", "sqlite:///"])
def test_an_invalid_tracking_uri_is_refused(uri: str):
    with pytest.raises(UserError, match="expected sqlite:///PATH"):
        require_reachable(uri)


def test_the_password_of_a_database_is_never_shown():
    with pytest.raises(UserError) as error:
        require_reachable("postgresql://someone:hunter2@127.0.0.1:1/runs")
    assert "hunter2" not in str(error.value)
    assert "127.0.0.1:1/runs" in str(error.value)


def test_the_password_of_a_uri_is_sent_to_the_server_and_never_shown():
    gone = ""
    for uri in serve(200):
        gone = uri.replace("://", "://me:secret@")
        require_reachable(gone)
    with pytest.raises(UserError, match=r"http://\*\*\*@127\.0\.0\.1") as error:
        require_reachable(gone)
    assert "secret" not in str(error.value)
