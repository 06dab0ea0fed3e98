from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import mlflow.entities  # noqa: F401  takes seconds, which no test below should count
import pytest

from halflife.tracking import schema
from halflife.tracking.publisher import BATCH, Point, Publisher, Run, RunRef
from tests.tracking.fake_store import FakeStore

SWEEP, TRIAL, STAGE = RunRef("sweep", "s1"), RunRef("trial", "t1"), RunRef("stage", "train-abc")


def publisher(store: FakeStore, **more) -> Publisher:
    return Publisher("unused", experiment="study", description="", sweep="s1", client=store, pause=0.01, **more)


def publish(store: FakeStore, points: Iterable[Point] = (), **more) -> list[str]:
    """One complete sweep with one trial."""
    out = publisher(store, **more)
    out.ensure(Run(ref=SWEEP, name="study smoke", parameters={"settings/sizes": "1k"}))
    out.artifact(SWEEP, "study.json", "{}")
    out.ensure(Run(ref=TRIAL, name="a trial", parameters={"seed": 0}, tags={schema.TAG_ROLE: "treatment"}))
    out.log(TRIAL, "branch of a trial", points=lambda: points, tags={"halflife.outcome.branch": "complete"})
    out.finish(TRIAL, "FINISHED")
    out.finish(SWEEP, "FINISHED")
    return out.close(patience=5.0)


def run_named(store: FakeStore, name: str):
    (run,) = [run for run in store.runs.values() if run.info.name == name]
    return run


def points(count: int) -> list[Point]:
    return [Point("branch/skill/hits", step, float(step), 1_000) for step in range(count)]


def test_a_complete_sweep_that_asks_something_else_gets_the_new_declaration_with_its_own_time():
    store = FakeStore()
    for number, digest in enumerate(("first", "first", "second")):
        out = publisher(store)
        declared = {f"{schema.DECLARED_PREFIX}{digest}": str(number)}
        out.ensure(Run(ref=SWEEP, name="study smoke", parameters=declared))
        out.artifact(SWEEP, "study.json", f"{number}: {digest}")
        out.finish(SWEEP, "FINISHED")
        assert out.close(patience=5.0) == []
    sweep = run_named(store, "study smoke")
    assert sweep.data.artifacts == {"study.json": "2: second"}
    assert sweep.data.params == {"declared/first": "0", "declared/second": "2"}
    assert sweep.data.tags[schema.TAG_PUBLISHED] == "complete"


def test_a_trial_is_found_by_its_tags_below_its_sweep():
    store = FakeStore()
    assert publish(store, points(3)) == []
    sweep, trial = run_named(store, "study smoke"), run_named(store, "a trial")
    assert sweep.data.tags[schema.TAG_KIND] == "sweep"
    assert sweep.data.tags[schema.TAG_SWEEP] == "s1"
    assert sweep.data.artifacts == {"study.json": "{}"}
    assert trial.data.tags[schema.TAG_KIND] == "trial"
    assert trial.data.tags[schema.TAG_TRIAL] == "t1"
    assert trial.data.tags[schema.TAG_SWEEP] == "s1"
    assert trial.data.tags[schema.PARENT_RUN] == sweep.info.run_id
    assert trial.data.tags[schema.TAG_ROLE] == "treatment"
    assert trial.data.tags[schema.TAG_PUBLISHED] == "complete"
    assert trial.data.params == {"seed": "0"}
    assert trial.info.status == sweep.info.status == "FINISHED"


def test_a_shared_stage_has_a_run_that_names_its_folder():
    store = FakeStore()
    out = publisher(store)
    out.ensure(Run(ref=SWEEP, name="study smoke"))
    out.ensure(Run(ref=STAGE, name="trunk"))
    assert out.close() == []
    tags = run_named(store, "trunk").data.tags
    assert tags[schema.TAG_STAGE] == "train-abc"
    assert tags[schema.TAG_KIND] == "stage"
    assert tags[schema.PARENT_RUN] == run_named(store, "study smoke").info.run_id


def test_points_go_in_batches_and_in_order():
    store = FakeStore()
    assert publish(store, points(2 * BATCH + 1)) == []
    assert [point[1] for point in run_named(store, "a trial").data.points] == list(range(2 * BATCH + 1))


def test_publishing_again_adds_nothing_and_does_not_read_the_points():
    store = FakeStore()
    publish(store, points(3))
    runs, before = len(store.runs), list(run_named(store, "a trial").data.points)
    store.calls.clear()

    def unread() -> Iterable[Point]:
        raise AssertionError("points of a complete run were read")
        yield

    assert publish(store, unread()) == []
    assert len(store.runs) == runs
    assert run_named(store, "a trial").data.points == before
    assert set(store.calls) == {"get_experiment_by_name", "search_runs", "list_artifacts"}


def test_requests_made_while_the_server_is_down_arrive_when_it_is_back():
    store = FakeStore(down=True)
    threading.Timer(0.3, lambda: setattr(store, "down", False)).start()
    assert publish(store, points(BATCH + 5)) == []
    assert len(run_named(store, "a trial").data.points) == BATCH + 5


def test_callers_never_wait_for_a_server_that_is_down():
    store = FakeStore(down=True)
    out = publisher(store)
    began = time.monotonic()
    out.ensure(Run(ref=SWEEP, name="study smoke"))
    assert time.monotonic() - began < 0.1
    while out.troubled is None:
        time.sleep(0.01)
    assert "down" in out.troubled
    store.down = False
    assert out.close() == []
    assert out.troubled is None


def test_a_server_that_stays_down_is_abandoned_and_the_loss_is_named():
    left = []
    store = FakeStore(down=True)
    out = publisher(store)
    out.ensure(Run(ref=SWEEP, name="study smoke"))
    out.ensure(Run(ref=TRIAL, name="a trial"))
    left = out.close(patience=0.2)
    assert left == ["run 'study smoke': the server is down", "run 'a trial'"]
    store.down = False
    assert publish(store, points(3)) == []
    assert len(run_named(store, "a trial").data.points) == 3


@pytest.mark.slow
def test_a_database_that_another_program_locks_delays_publishing_and_loses_nothing(tmp_path: Path):
    """A real MLflow, whose client of SQLite waits a tenth of a second for a lock instead of five."""
    path = tmp_path / "mlflow.db"
    out = Publisher(f"sqlite:///{path}?timeout=0.1", experiment="study", description="", sweep="s1", pause=0.01)
    out.ensure(Run(ref=SWEEP, name="study smoke"))
    out.drain(patience=60.0)
    connection = sqlite3.connect(path, timeout=60, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    out.ensure(Run(ref=TRIAL, name="a trial"))
    out.log(TRIAL, "branch of a trial", points=lambda: points(BATCH + 5))
    end = time.monotonic() + 60
    while out.troubled is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert "database is locked" in out.troubled
    connection.execute("ROLLBACK")
    out.finish(TRIAL, "FINISHED")
    out.finish(SWEEP, "FINISHED")
    assert out.close() == []
    assert connection.execute("SELECT count(*) FROM metrics").fetchone() == (BATCH + 5,)
    assert set(connection.execute("SELECT name, status FROM runs")) == {
        ("study smoke", "FINISHED"), ("a trial", "FINISHED"),
    }  # fmt: skip
    connection.close()


@pytest.mark.parametrize("lost", [1, 2, 3, 5])
def test_a_lost_answer_makes_no_second_run(lost: int):
    store = FakeStore(lose_answers=lost)
    assert publish(store, points(3)) == []
    assert sorted(run.info.name for run in store.runs.values()) == ["a trial", "study smoke"]
    assert set(run_named(store, "a trial").data.points) == {(p.name, p.step, p.value, p.timestamp) for p in points(3)}


def test_rejected_requests_are_reported_and_the_rest_is_written_but_the_run_is_not_complete():
    store = FakeStore(refuse={"branch/skill/hits"})
    (refusal,) = publish(store, points(3))
    assert refusal == "branch of a trial: no such metric"
    trial = run_named(store, "a trial")
    assert trial.info.status == "FINISHED"
    assert schema.TAG_PUBLISHED not in trial.data.tags


@pytest.mark.parametrize("error", [PermissionError("read-only"), OSError("disk quota exceeded")])
def test_artifacts_that_cannot_be_stored_are_reported_with_the_reason_and_never_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch, error: OSError
):
    def refuse(*_: str) -> None:
        raise error

    store = FakeStore()
    monkeypatch.setattr(store, "log_text", refuse)
    out = publisher(store)
    out.ensure(Run(ref=SWEEP, name="study smoke"))
    out.artifact(SWEEP, "study.json", "{}")
    out.finish(SWEEP, "FINISHED")
    permanent = isinstance(error, PermissionError)
    left = out.close(patience=0.3)
    assert left[0] == f"artifact study.json: {error}"
    assert left[1:] == ([] if permanent else ["end of sweep s1"])
    assert (run_named(store, "study smoke").info.status == "FINISHED") == permanent
    monkeypatch.undo()
    assert publish(store) == []
    assert run_named(store, "study smoke").data.artifacts == {"study.json": "{}"}


def test_points_that_cannot_be_read_are_reported_and_the_rest_is_written():
    def broken() -> Iterable[Point]:
        yield Point("branch/a/b", 0, 1.0, 0)
        raise ValueError("torn file")

    store = FakeStore()
    assert publish(store, broken()) == ["branch of a trial: torn file"]
    assert run_named(store, "study smoke").info.status == "FINISHED"


def test_children_of_a_deleted_parent_move_below_its_successor():
    store = FakeStore()
    publish(store, points(3))
    first = run_named(store, "study smoke")
    store.deleted.add(first.info.run_id)
    store.calls.clear()
    assert publish(store, points(3)) == []
    trial, (second,) = (
        run_named(store, "a trial"),
        [r for r in store.runs.values() if "study.json" in r.data.artifacts and r is not first],
    )
    assert trial.data.tags[schema.PARENT_RUN] == second.info.run_id
    assert len(trial.data.points) == 3, "a complete run is moved, not written again"
    store.deleted.clear()  # the first is restored: the newest is still the parent, as it is in reports
    store.calls.clear()
    assert publish(store, points(3)) == []
    assert trial.data.tags[schema.PARENT_RUN] == second.info.run_id
    assert "log_batch" not in store.calls


def test_a_shared_stage_stays_below_the_sweep_that_published_it_until_that_is_deleted():
    store = FakeStore()
    for sweep in ("s1", "s2", "s2"):
        out = Publisher("", experiment="study", description="", sweep=sweep, client=store, pause=0.01)
        out.ensure(Run(ref=RunRef("sweep", sweep), name=f"sweep {sweep}"))
        out.ensure(Run(ref=STAGE, name="trunk"))
        out.finish(STAGE, "FINISHED")
        assert out.close() == []
        parent = "sweep s2" if store.deleted else "sweep s1"
        assert run_named(store, "trunk").data.tags[schema.PARENT_RUN] == run_named(store, parent).info.run_id
        if sweep == "s2":
            store.deleted.add(run_named(store, "sweep s1").info.run_id)


def test_a_deleted_child_is_published_again():
    store = FakeStore()
    publish(store, points(3))
    store.deleted.add(run_named(store, "a trial").info.run_id)
    assert publish(store, points(3)) == []
    (again,) = [
        run for run in store.runs.values() if run.info.name == "a trial" and run.info.run_id not in store.deleted
    ]
    assert len(again.data.points) == 3
    assert again.data.tags[schema.TAG_PUBLISHED] == "complete"


def test_a_declaration_that_was_lost_is_stored_again():
    store = FakeStore()
    publish(store)
    run_named(store, "study smoke").data.artifacts.clear()
    assert publish(store) == []
    assert run_named(store, "study smoke").data.artifacts == {"study.json": "{}"}


def test_a_deleted_experiment_is_restored_or_named_with_how_to_restore_it():
    store = FakeStore()
    publish(store, points(1))
    store.experiments["study"].lifecycle_stage = "deleted"
    store.refuse = {"restore"}
    assert "mlflow experiments restore --experiment-id 1" in publish(store, points(1))[0]
    store.refuse = set()
    with pytest.warns(UserWarning, match="experiment 'study' was deleted in MLflow: it is restored"):
        assert publish(store, points(1)) == []
    assert store.experiments["study"].lifecycle_stage == "active"


def test_an_experiment_that_another_sweep_makes_at_the_same_time_is_used():
    store = FakeStore(make_experiment_meanwhile=True)
    assert publish(store, points(1)) == []
    assert len(store.runs) == 2


def test_parameters_of_a_run_that_was_left_unfinished_stay_and_missing_ones_are_added():
    store = FakeStore()
    for parameters in ({"seed": 0, "documents": 50}, {"seed": 1, "size": "1k"}):
        out = publisher(store)
        out.ensure(Run(ref=SWEEP, name="study smoke"))
        out.ensure(Run(ref=STAGE, name="trunk", parameters=parameters))
        assert out.close() == []
    assert run_named(store, "trunk").data.params == {"seed": "0", "documents": "50", "size": "1k"}


def test_two_publishers_of_one_sweep_take_turns():
    store, lock = FakeStore(), threading.Lock()
    first = publisher(store, lock=lock)
    first.ensure(Run(ref=SWEEP, name="study smoke"))
    while "create_run" not in store.calls:
        time.sleep(0.01)
    second = publisher(store, lock=lock)
    second.ensure(Run(ref=SWEEP, name="study smoke"))
    first.finish(SWEEP, "FINISHED")
    assert first.close() == []
    assert second.close() == []
    assert store.calls.count("create_run") == 1
