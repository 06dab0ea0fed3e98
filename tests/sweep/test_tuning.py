"""The plan and Tune. Tests that need a running Ray are in test_launch.py and test_faults.py."""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
from dataclasses import replace
from pathlib import Path
from socket import gethostname
from typing import Any

import pytest

from halflife.errors import UserError
from halflife.store import leases, provenance
from halflife.store.plan import Plan
from halflife.store.run import run_stage
from halflife.store.stage import Stage
from halflife.store.store import Store
from halflife.sweep import launch, session
from halflife.sweep.placement import ResourceRequest
from halflife.sweep.site import ExecutionSite
from halflife.tracking.publisher import connect
from tests.sweep.drivers import runs
from tests.sweep.fakes import Fake
from tests.sweep.helpers import study

os.environ.update(session.ENVIRONMENT)
from halflife.sweep import tuning
from halflife.sweep.packing import Packed
from halflife.sweep.tuning import PlanSearcher, Task, run_plan

PULSE = leases.Pulse()


class Setting:
    """A plan of independent stages, and its searcher."""

    def __init__(self, root: Path, count: int = 2) -> None:
        self.store = Store(root)
        self.store.prepare()
        self.stages = [Fake(name=f"s{number}", seconds=0.0) for number in range(count)]
        self.plan = Plan(self.stages, self.store)
        self.ran: set[str] = set()
        self.searcher = PlanSearcher(self.plan, self.store, self.make_task, self.ran)

    def make_task(self, stage: Stage, wait: bool) -> Task:
        return Task(
            packed=Packed.of(stage),
            results=str(self.store.root),
            device="cpu",
            request=ResourceRequest(),
            origin={},
            wait=wait,
        )

    def hold(self, stage: Stage) -> leases.Holding:
        """Hold the lease, like another sweep that is computing the stage."""
        self.store.folder(stage).mkdir(parents=True)
        holding = leases.acquire(self.store.folder(stage), leases.Watch(PULSE), PULSE)
        assert holding
        return holding

    def suggest(self, trial: str) -> Any:
        suggestion = self.searcher.suggest(trial)
        return suggestion["task"] if isinstance(suggestion, dict) else suggestion


def test_ready_stages_are_suggested_and_the_end_is_reported(tmp_path: Path):
    setting = Setting(tmp_path)
    for trial in ("a", "b"):
        task = setting.suggest(trial)
        assert not task.wait
    assert setting.searcher.suggest("c") is None
    for trial, stage in zip(("a", "b"), setting.stages, strict=True):
        run_stage(stage, setting.store)
        setting.searcher.on_trial_complete(trial, {"here": True})
    assert setting.suggest("c") == "FINISHED"
    assert setting.ran == {stage.key for stage in setting.stages}


def test_a_stage_that_another_sweep_computes_comes_last_and_is_then_waited_for(tmp_path: Path):
    setting = Setting(tmp_path)
    held, free = setting.stages
    with setting.hold(held):
        assert setting.suggest("a").packed.stage() == free
        assert setting.suggest("b") is None  # running stages may make others ready
        run_stage(free, setting.store)
        setting.searcher.on_trial_complete("a", {"here": True})
        task = setting.suggest("b")
    assert task.packed.stage() == held
    assert task.wait


def test_a_stage_that_another_sweep_has_completed_is_not_run(tmp_path: Path):
    setting = Setting(tmp_path)
    done, missing = setting.stages
    run_stage(done, setting.store)
    assert setting.suggest("a").packed.stage() == missing
    assert done.key in setting.plan.outcomes
    assert setting.ran == set()


def test_a_stage_that_was_taken_from_under_us_is_ready_again(tmp_path: Path):
    setting = Setting(tmp_path, count=1)
    setting.suggest("a")
    setting.searcher.on_trial_complete("a", {"held": True})
    assert [stage.key for stage in setting.plan.ready()] == [setting.stages[0].key]


def test_what_completes_while_the_sweep_is_stopped_counts_as_run(tmp_path: Path):
    setting = Setting(tmp_path, count=2)
    done, stopped = (setting.suggest(trial).packed.stage() for trial in "ab")
    run_stage(done, setting.store)
    setting.searcher.settle()
    assert set(setting.plan.outcomes) == setting.ran == {done.key}
    assert setting.plan.running == [stopped]


def test_what_another_sweep_completes_while_this_one_is_stopped_counts_as_its_own(tmp_path: Path):
    setting = Setting(tmp_path, count=1)
    with setting.hold(setting.stages[0]):
        assert setting.suggest("a").wait
    run_stage(setting.stages[0], setting.store)
    setting.searcher.settle()
    assert set(setting.plan.outcomes) == {setting.stages[0].key}
    assert setting.ran == set()


def test_a_stage_that_refuses_fails_without_another_try(tmp_path: Path):
    setting = Setting(tmp_path, count=1)
    setting.suggest("a")
    setting.searcher.on_trial_complete("a", {"refused": "the corpus is empty"})
    assert setting.plan.failures == {setting.stages[0].key: "the corpus is empty"}
    assert setting.suggest("b") == "FINISHED"


def test_a_task_is_copied_for_nothing_and_prints_short(tmp_path: Path):
    import copy

    task = Setting(tmp_path).make_task(Fake(name="s"), False)
    assert copy.deepcopy({"task": task})["task"] is task
    assert repr(task) == task.packed.stage().folder_name


def scratch(temporary: Path, name: str, owner: str | None) -> Path:
    folder = temporary / name
    (folder / "ray").mkdir(parents=True)
    if owner is not None:
        (folder / "lease-1.json").write_text(owner)
    return folder


def test_folders_of_killed_sweeps_are_removed_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mine = scratch(tmp_path, "halflife-mine", None)
    holding = leases.acquire(mine, leases.Watch(PULSE), PULSE)
    assert holding
    owner = json.loads((mine / "lease-1.json").read_text())
    dead = scratch(tmp_path, "halflife-dead", json.dumps({**owner, "born": "another process of this id"}))
    others = [
        mine,
        scratch(tmp_path, "halflife-unknown", None),
        scratch(tmp_path, "halflife-elsewhere", json.dumps({**owner, "machine": "another", "born": "1"})),
        scratch(tmp_path, "else-dead", (dead / "lease-1.json").read_text()),
    ]
    session._remove_abandoned()
    assert not dead.exists()
    assert all((folder / "ray").exists() for folder in others)


def test_ray_failing_to_start_is_one_line_and_leaves_no_run_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(**settings: Any) -> None:
        raise OSError("AF_UNIX path\ntoo long")

    monkeypatch.setattr("ray.init", refuse)
    connect(f"sqlite:///{tmp_path}/mlflow.db").search_experiments()  # creates the tables, so that publishing is fast
    with pytest.raises(UserError, match=r"^Ray does not start: AF_UNIX path too long$"):
        launch.run(study(), ExecutionSite(results=tmp_path, device="cpu", max_concurrent=1))
    connection = sqlite3.connect(tmp_path / "mlflow.db")
    assert connection.execute("SELECT DISTINCT status FROM runs").fetchall() == [("FAILED",)]
    connection.close()


@pytest.mark.slow
def test_a_plan_that_narrows_and_widens_again_keeps_its_actors(tmp_path: Path):
    first = tuple(Fake(name=f"a{number}", seconds=0.5 + number, deed="meet") for number in range(2))
    join = Fake(name="join", parents_=first)
    last = tuple(Fake(name=f"b{number}", parents_=(join,), seconds=2.0) for number in range(2))
    setting = Setting(tmp_path)
    plan = Plan(last, setting.store)
    run_plan(
        plan,
        setting.store,
        make_task=setting.make_task,
        slots=2,
        cpus=2,
        gpus=0,
        same_request=True,
        ran=setting.ran,
        refresh=lambda: None,
        retried=lambda stage, why: None,
    )
    assert len(plan.outcomes) == 5
    assert len({pid for pids in runs(tmp_path).values() for pid in pids}) == 2


def test_an_actor_that_cannot_import_a_plug_in_names_the_module_and_the_host(tmp_path: Path):
    setting = Setting(tmp_path)
    task = setting.make_task(setting.stages[0], False)
    actor = object.__new__(tuning.StageActor)
    actor.setup({"task": replace(task, packed=replace(task.packed, modules=("lab.absent",), data=b"never read"))})
    refused = actor.step()["refused"]
    assert refused.startswith(
        f"module lab.absent, whose classes describe a stage, cannot be imported on {gethostname()}"
    )
    assert "\n" not in refused
    assert not runs(tmp_path)


def test_an_actor_with_other_code_than_the_driver_refuses(tmp_path: Path):
    setting = Setting(tmp_path)
    actor = object.__new__(tuning.StageActor)
    task = replace(setting.make_task(setting.stages[0], False), origin={"code": "other"})
    actor.setup({"task": task})
    assert "runs different code from the driver" in actor.step()["refused"]
    assert not runs(tmp_path)
    actor.setup({"task": replace(task, origin={"code": provenance.code()})})
    assert actor.step()["here"]
