from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halflife.errors import UserError
from halflife.store import files
from halflife.store.difference import record_of
from halflife.store.run import RETRACTIONS, Unavailable, run_stage
from halflife.store.stage import Outcome
from halflife.store.store import Corrupt, Store, plain, read_points, write_points
from tests.store.fakes import Walk, computed


def _attempt(store: Store, stage: Walk, name: str, content: str = "made") -> Outcome:
    folder = store.folder(stage) / "attempts" / name
    folder.mkdir(parents=True)
    (folder / "made").write_text(content)
    return Outcome(status="complete", attempt=name, summary={"tokens": 1})


def test_opening_a_store_writes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    assert store.outcome(Walk(name="a")) is None
    assert not store.root.exists()


def test_results_of_another_version_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "halflife.json").write_text('{"store": 99}')
    with pytest.raises(UserError, match="store version 99, this halflife reads 1: choose another folder"):
        Store(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_a_damaged_version_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "halflife.json").write_text(text)
    with pytest.raises(UserError, match="store version None"):
        Store(tmp_path)


def test_results_that_are_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    with pytest.raises(UserError, match="is a file: expected a folder"):
        Store(tmp_path / "results")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write results to"):
        Store(tmp_path / "file" / "results").prepare()


def test_the_first_attempt_to_complete_wins(store: Store) -> None:
    stage = Walk(name="a")
    first, second = _attempt(store, stage, "first"), _attempt(store, stage, "second")
    assert store.complete(stage, first) == first
    assert store.complete(stage, second) == first
    assert store.outcome(stage) == first


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_creation_is_exclusive_on_file_systems_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, "no hard links")

    monkeypatch.setattr(os, "link", refuse)
    assert files.create(tmp_path / "DONE", b"one")
    assert not files.create(tmp_path / "DONE", b"two")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"one"]


def test_a_full_disk_leaves_the_old_file_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write(tmp_path / "file", b"old")

    def full(path: Path, data: bytes) -> int:
        with open(path, "wb") as file:
            file.write(data[:1])
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space"):
        files.write(tmp_path / "file", b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


@pytest.mark.parametrize("damage", ["missing", "truncated", "metrics"])
def test_a_damaged_result_is_retracted_with_a_warning_and_computed_again(store: Store, damage: str) -> None:
    stage = Walk(name="a")
    before = run_stage(stage, store)
    points = store.points(stage)
    attempt = store.folder(stage) / "attempts" / before.attempt
    path = attempt / ("metrics.parquet" if damage == "metrics" else "final/state.json")
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(data[:-1])
    else:
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.warns(UserWarning, match=r"walk-\w+ is corrupt"):
        assert store.outcome(stage) is None
    after = run_stage(stage, store)
    assert after.attempt != before.attempt
    assert after.summary == before.summary
    assert Store(store.root).outcome(stage) == after
    assert store.points(stage).equals(points)


def test_a_flipped_bit_in_a_weight_is_found_when_the_result_is_used(store: Store) -> None:
    stage = Walk(name="a")
    attempt = store.folder(stage) / "attempts" / run_stage(stage, store).attempt
    assert store.verified(stage) == attempt
    data = (attempt / "final/state.json").read_bytes()
    (attempt / "final/state.json").write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    fresh = Store(store.root)
    assert fresh.outcome(stage)  # the plan looks at sizes only
    with pytest.warns(UserWarning, match=r"state\.json fails its checksum"):
        assert fresh.verified(stage) is None
    assert fresh.outcome(stage) is None


@pytest.mark.parametrize("keep", [0, 1, 40, -1])
def test_a_torn_done_counts_as_none_and_does_not_block_the_next(store: Store, keep: int) -> None:
    stage = Walk(name="a")
    run_stage(stage, store)
    done = store.folder(stage) / "DONE"
    done.write_bytes(done.read_bytes()[:keep])
    assert store.outcome(stage) is None
    again = run_stage(stage, store)
    assert store.outcome(stage) == again


@pytest.mark.parametrize("field", ["attempt", "files"])
def test_a_done_that_points_out_of_its_folder_counts_as_none(store: Store, field: str) -> None:
    from halflife.store.store import Done

    stage = Walk(name="a")
    outcome = Outcome(status="complete", attempt="../../x" if field == "attempt" else "x", summary={})
    name = "../../../x" if field == "files" else "x"
    done = Done(outcome=outcome, files={name: {"bytes": 0, "sha256": ""}}, ended="")
    store.folder(stage).mkdir(parents=True)
    (store.folder(stage) / "DONE").write_bytes(done.encode())
    assert store.outcome(stage) is None


def test_results_that_keep_getting_corrupt_are_computed_a_few_times_and_then_refused(store: Store) -> None:
    stage = Walk(name="a")
    for number in range(RETRACTIONS):
        outcome = run_stage(stage, store)
        assert store.outcome(stage) == outcome
        (store.folder(stage) / "attempts" / outcome.attempt / "final/state.json").unlink()
        with pytest.warns(UserWarning, match="corrupt"):
            assert store.outcome(stage) is None
        assert len(computed(store.root)) == 4 * (number + 1)
    for refused in (stage, Walk(name="b", starts=(stage,))):
        with pytest.raises(Unavailable, match=rf"corrupt 5 times.*remove {store.folder(stage)}"):
            run_stage(refused, store)
    shutil.rmtree(store.folder(stage))
    outcome = run_stage(stage, store)
    assert store.outcome(stage) == outcome


def test_points_of_a_stage_that_is_not_complete_are_refused(store: Store) -> None:
    with pytest.raises(Corrupt, match="not complete"):
        store.points(Walk(name="a"))


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from("abc"), st.floats(allow_nan=False)), max_size=30))
def test_of_points_with_the_same_step_and_name_the_last_one_counts(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, str, float]]
) -> None:
    folder = tmp_path_factory.mktemp("points")
    write_points(folder, rows)
    found = read_points(folder)
    assert {(step, name): value for step, name, value in found.rows()} == {row[:2]: row[2] for row in rows}
    assert found["step"].is_sorted()
    assert found.schema["step"].is_integer()


def test_nan_points_stay_nan(tmp_path: Path) -> None:
    write_points(tmp_path, [(0, "a/b", float("nan"))])
    assert read_points(tmp_path)["value"].is_nan().all()


def test_a_summary_is_strict_json_and_what_is_missing_is_null() -> None:
    import numpy as np

    summary = plain({"a": np.float32(0.5), "b": (np.int64(3), float("nan")), "c": {"d": None, "e": float("inf")}})
    assert json.loads(json.dumps(summary, allow_nan=False)) == {"a": 0.5, "b": [3, None], "c": {"d": None, "e": None}}


def test_the_record_has_the_provenance_without_passwords(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["study.py", "demo", "--tracking-uri", "https://me:secret@host/x"])
    start = Walk(name="a")
    stage = Walk(name="b", starts=(start,))
    run_stage(stage, store, device="cpu")
    record = record_of(store.folder(stage))
    assert record["command"] == "study.py demo --tracking-uri https://***@host/x"
    assert record["parents"] == {start.key: start.folder_name}
    assert record["fields"]["every"] == 1
    assert record["description"] == stage.description
    assert record["started"] < record["ended"]
    assert {"commit", "changes", "versions", "host", "device", "precision"} <= record.keys()
