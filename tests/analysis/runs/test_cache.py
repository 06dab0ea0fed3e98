from __future__ import annotations

import json
import sqlite3
import threading
import time
from dataclasses import replace

import polars as pl
import pytest

from analysis.errors import UserError
from analysis.runs import cache as cache_module
from analysis.runs.load import load_study
from analysis.runs.sqlite import SqliteStore
from halflife.tracking import schema
from tests.analysis import planted
from tests.analysis.conftest import TINY


@pytest.fixture
def sweep(tmp_path):
    """URI of a sweep of three trials, and how to write to its database."""
    writer = planted.Writer(tmp_path)
    parent = writer.run("s", "sweep", 1, {schema.TAG_STUDY: TINY.study, schema.TAG_SWEEP: "s"})
    writer.artifact(parent, schema.DECLARATION, planted.declaration(TINY).to_json())
    for name in ("a", "b", "c"):
        run = writer.run(name, "trial", 1, {schema.PARENT_RUN: parent, schema.TAG_TRIAL: name})
        if name != "c":  # which has no points yet
            writer.points(run, "branch/", {"x/loss": [(0, 3.0), (1, 2.0), (2, float("nan"))]}, timestamp=10)
    writer.close()

    def write(sql, *values):
        with sqlite3.connect(tmp_path / "mlflow.db") as connection:
            connection.execute(sql, values)
        connection.close()

    return writer.uri, write


@pytest.fixture
def reads(monkeypatch):
    """Number of rows of each read from the store."""
    counts = []
    plain = SqliteStore._points

    def counted(self, last):
        points = plain(self, last)
        counts.append(points.height)
        return points

    monkeypatch.setattr(SqliteStore, "_points", counted)
    return counts


def rows(uri):
    return load_study(uri, TINY.study).points.select("trial", "step", "value").rows()


ADD = "INSERT INTO metrics VALUES ('branch/x/loss', ?, ?, (SELECT run_uuid FROM runs WHERE name = ?), ?, 0)"
BEFORE = [("a", 0, 3.0), ("a", 1, 2.0), ("b", 0, 3.0), ("b", 1, 2.0)]


def test_the_second_read_needs_no_points_and_is_the_same(sweep, reads):
    uri, _ = sweep
    assert rows(uri) == rows(uri) == BEFORE
    assert reads == [6]


def test_only_new_points_are_read(sweep, reads):
    uri, write = sweep
    rows(uri)
    write(ADD, 1.5, 30, "a", 7)
    write(ADD, 0.5, 30, "c", 0)
    assert rows(uri) == [*BEFORE[:2], ("a", 7, 1.5), *BEFORE[2:], ("c", 0, 0.5)]
    assert rows(uri)[2] == ("a", 7, 1.5)
    assert reads == [6, 2]


def test_a_point_logged_again_replaces_the_cached_one_even_by_nan(sweep):
    uri, write = sweep
    rows(uri)
    write(ADD, 9.0, 30, "a", 0)
    write(ADD, 8.0, 5, "b", 0)  # older than the cached point
    write(ADD.replace("?, 0)", "?, 1)"), 0.0, 30, "b", 1)
    assert rows(uri) == [("a", 0, 9.0), ("a", 1, 2.0), ("b", 0, 3.0)]


def test_only_a_changed_run_is_read_again(sweep, reads):
    uri, write = sweep
    rows(uri)
    write("UPDATE metrics SET value = 2.5 WHERE step = 1 AND run_uuid = (SELECT run_uuid FROM runs WHERE name = 'b')")
    assert rows(uri) == [*BEFORE[:3], ("b", 1, 2.5)]
    assert reads == [6, 3]


def test_a_run_whose_points_were_replaced_is_read_again(sweep):
    uri, write = sweep
    rows(uri)
    write("DELETE FROM metrics WHERE run_uuid = (SELECT run_uuid FROM runs WHERE name = 'b')")
    for step in range(3):
        write(ADD, 7.0, 10, "b", step)  # as many rows, and the same row numbers
    assert rows(uri) == [*BEFORE[:2], ("b", 0, 7.0), ("b", 1, 7.0), ("b", 2, 7.0)]


def test_a_deleted_run_is_dropped_and_returns_when_restored(sweep, reads):
    uri, write = sweep
    rows(uri)
    write("UPDATE runs SET lifecycle_stage = 'deleted' WHERE name = 'a'")
    assert rows(uri) == BEFORE[2:]
    write("UPDATE runs SET lifecycle_stage = 'active' WHERE name = 'a'")
    assert rows(uri) == BEFORE
    write("DELETE FROM metrics WHERE run_uuid = (SELECT run_uuid FROM runs WHERE name = 'a')")
    assert rows(uri) == BEFORE[2:]


def test_changed_row_numbers_are_noticed(sweep):
    uri, write = sweep
    rows(uri)
    write("DELETE FROM metrics WHERE run_uuid = (SELECT run_uuid FROM runs WHERE name = 'a')")
    write("UPDATE runs SET lifecycle_stage = 'deleted' WHERE name = 'a'")
    connection = sqlite3.connect(uri.removeprefix("sqlite:///"), isolation_level=None)
    connection.execute("VACUUM")
    connection.close()
    write(ADD, 1.0, 30, "b", 9)
    assert rows(uri) == [*BEFORE[2:], ("b", 9, 1.0)]


@pytest.mark.parametrize("suffix", [".parquet", ".json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "gone", "text"])
def test_a_damaged_cache_is_written_again(sweep, tmp_path, suffix, damage, reads):
    uri, _ = sweep
    rows(uri)
    (file,) = (tmp_path / "cache").glob(f"*{suffix}")
    content = file.read_bytes()
    half = len(content) // 2
    if damage == "gone":
        file.unlink()
    else:
        flipped = content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
        file.write_bytes({"truncated": content[:half], "text": b"[]", "flipped": flipped}[damage])
    if (suffix, damage) != (".json", "flipped"):  # it may hit a mark: then the run is read again
        assert rows(uri) == BEFORE
        assert reads == [6, 6]
    assert rows(uri) == BEFORE


def test_a_cache_of_another_format_or_store_is_not_used(sweep, tmp_path, reads, monkeypatch):
    uri, _ = sweep
    rows(uri)
    monkeypatch.setattr(cache_module, "FORMAT", 2)
    assert rows(uri) == BEFORE
    (file,) = (tmp_path / "cache").glob("*.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "store": "elsewhere"}))
    assert rows(uri) == BEFORE
    assert reads == [6, 6, 6]


def test_a_folder_that_cannot_be_written_only_disables_the_cache(sweep, tmp_path, caplog):
    uri, _ = sweep
    (tmp_path / "cache").write_text("in the way")
    assert rows(uri) == BEFORE
    assert "are not cached" in caplog.text


def test_a_store_that_is_being_written_is_waited_for(sweep):
    uri, _ = sweep
    writer = sqlite3.connect(uri.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False)
    writer.execute("BEGIN EXCLUSIVE")
    done = threading.Timer(0.5, lambda: writer.execute("COMMIT"))
    done.start()
    assert rows(uri) == BEFORE
    writer.execute("BEGIN EXCLUSIVE")  # during a read of changes only
    writer.execute(ADD, (1.5, 30, "a", 7))
    done = threading.Timer(0.5, lambda: writer.execute("COMMIT"))
    done.start()
    assert ("a", 7, 1.5) in rows(uri)
    done.join()
    writer.close()


def test_changes_only_in_the_write_ahead_log_are_noticed(sweep, tmp_path):
    """In write-ahead mode the file itself does not change until a checkpoint."""
    uri, _ = sweep
    writer = sqlite3.connect(uri.removeprefix("sqlite:///"), isolation_level=None)
    writer.execute("PRAGMA journal_mode = WAL")
    assert rows(uri) == BEFORE
    before = (tmp_path / "mlflow.db").read_bytes()
    writer.execute(ADD, (1.5, 30, "a", 7))
    assert (tmp_path / "mlflow.db").read_bytes() == before
    assert ("a", 7, 1.5) in rows(uri)
    writer.close()


def test_what_a_killed_writer_left_half_done_is_rolled_back(sweep, tmp_path):
    uri, _ = sweep
    database = tmp_path / "mlflow.db"
    writer = sqlite3.connect(database, isolation_level=None)
    writer.execute("PRAGMA cache_size = 1")  # so that pages reach the file before the commit
    writer.execute("BEGIN")
    writer.executemany(ADD, [(1.5, 30, "a", step) for step in range(10_000)])
    files = {path: path.read_bytes() for path in (database, tmp_path / "mlflow.db-journal")}  # as a kill leaves them
    writer.execute("ROLLBACK")
    writer.close()
    for path, content in files.items():
        path.write_bytes(content)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True).execute("SELECT * FROM runs")
    assert rows(uri) == BEFORE


def test_a_store_without_points_table_is_one_clear_line(sweep):
    uri, write = sweep
    write("DROP TABLE metrics")
    with pytest.raises(UserError, match="cannot be read as an MLflow store") as caught:
        rows(uri)
    assert "\n" not in str(caught.value)


def test_points_of_a_realistic_number_are_read_back_equal_and_fast(tmp_path):
    uri = planted.write(tmp_path, replace(planted.Plan(), seeds=2, sizes=("30k", "100k")))
    first = load_study(uri, planted.Plan().study)
    again = load_study(uri, planted.Plan().study)
    assert again.points.equals(first.points)
    assert again.totals == first.totals
    started = time.process_time()
    load_study(uri, planted.Plan().study)
    assert time.process_time() - started < 2.0
    assert first.points.select(pl.struct("trial", "phase", "name", "step").is_duplicated().any()).item() is False
