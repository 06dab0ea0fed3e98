"""Searches on Ray, as users run them: published to SQLite, killed, stopped, two at once."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend

from tests.sweep.drivers import ROOT, Driver, wait_for
from tests.sweep.searches import computed


def driver(results: Path, *flags: str) -> Driver:
    return Driver(results, *flags, program="search_program")


def journal(results: Path) -> Path | None:
    return next((results / "optuna").glob("*.journal"), None)


def study(results: Path) -> Any:
    """The Optuna study, as optuna-dashboard opens it."""
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal(results))))
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage)


def states(results: Path) -> Counter[str]:
    return Counter(trial.state.name for trial in study(results).trials)


def ended(results: Path) -> set[str]:
    """Keys of the stages that are complete."""
    return {path.parent.name.partition("-")[2] for path in (results / "stages").glob("*/DONE")}


def statuses(results: Path) -> dict[str, str]:
    """Of MLflow's runs, by name; names are unique."""
    connection = sqlite3.connect(results / "mlflow.db")
    found = connection.execute("SELECT name, status FROM runs").fetchall()
    connection.close()
    assert len(found) == len(dict(found))
    return dict(found)


def open_and_told(results: Path) -> bool:
    """Whether some settings are complete and others are pending."""
    return bool(journal(results)) and {"COMPLETE", "RUNNING"} <= set(states(results))


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    results = tmp_path_factory.mktemp("results")
    return results, driver(results, "--seeds", "2").report()


@pytest.mark.slow
def test_a_search_evaluates_each_setting_once(swept: tuple[Path, dict[str, Any]]):
    results, report = swept
    assert report["failed"] == {}
    assert states(results) == {"COMPLETE": 6}
    assert max(Counter(computed(results)).values()) == 1
    assert report["search"] == {"suggestions": 6, "suggestions_failed": 0}
    assert "fresh seed" in report["findings"][0]
    assert study(results).metric_names == ["height"]


@pytest.mark.slow
def test_objectives_are_metrics_of_the_trials_runs(swept: tuple[Path, dict[str, Any]]):
    connection = sqlite3.connect(swept[0] / "mlflow.db")
    points = connection.execute("SELECT count(*) FROM metrics WHERE key = 'objective/height'").fetchone()
    named = connection.execute("SELECT count(*) FROM params WHERE key = 'suggestion'").fetchone()
    statuses = {status for (status,) in connection.execute("SELECT DISTINCT status FROM runs")}
    connection.close()
    assert points == named == (6 * 2 + 2,)
    assert statuses == {"FINISHED"}


@pytest.mark.slow
def test_a_second_run_starts_no_ray_and_computes_nothing(swept: tuple[Path, dict[str, Any]]):
    results, first = swept
    before, written = computed(results), journal(results)
    assert written
    content = written.read_bytes()
    report = driver(results, "--seeds", "2").report()
    assert (report["run"], report["imported"]) == (0, [])
    assert report["findings"] == first["findings"]
    assert computed(results) == before
    assert written.read_bytes() == content


def test_a_grid_imports_no_optuna():
    code = "import sys, halflife.sweep.launch, halflife.sweep.cli; sys.exit('optuna' in sys.modules)"
    paths = os.pathsep.join([str(ROOT / "platform"), str(ROOT)])
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}).returncode == 0


@pytest.mark.nightly
def test_a_search_killed_midway_resumes_with_as_many_settings_and_computes_nothing_twice(tmp_path: Path):
    """A driver killed with its whole group leaves work that the same command finishes."""
    flags = ("--trials", "8", "--deed", "sleep")
    killed = driver(tmp_path, *flags)
    wait_for(lambda: open_and_told(tmp_path), timeout=120)
    os.killpg(killed.process.pid, signal.SIGKILL)
    killed.process.communicate()
    complete = ended(tmp_path)
    assert states(tmp_path)["RUNNING"]
    report = driver(tmp_path, *flags).report()  # that leases of the dead are not waited for: test_kill_and_resume.py
    assert (report["failed"], report["unpublished"]) == ({}, [])
    assert states(tmp_path) == {"COMPLETE": 8}
    assert complete
    begun = Counter(computed(tmp_path))
    assert {begun[key] for key in complete} == {1}
    assert max(begun.values()) <= 2
    assert set(statuses(tmp_path).values()) == {"FINISHED"}


@pytest.mark.slow
def test_ctrl_c_puts_pending_settings_back_into_the_queue(tmp_path: Path):
    flags = ("--trials", "8", "--deed", "sleep")
    stopped = driver(tmp_path, *flags)
    wait_for(lambda: open_and_told(tmp_path), timeout=120)
    stopped.assert_stops_cleanly(lambda pid: os.killpg(pid, signal.SIGINT))  # the whole group, like a terminal
    assert "KILLED" in statuses(tmp_path).values()
    assert "RUNNING" not in states(tmp_path)
    driver(tmp_path, *flags).report()
    assert states(tmp_path) == {"COMPLETE": 8}
    assert set(statuses(tmp_path).values()) == {"FINISHED"}


@pytest.mark.nightly
def test_two_searches_at_once_make_one(tmp_path: Path):
    flags = ("--trials", "8", "--deed", "sleep")
    drivers = [driver(tmp_path, *flags), driver(tmp_path, *flags)]
    reports = [each.report(timeout=240) for each in drivers]
    assert all(report["failed"] == {} for report in reports)
    assert states(tmp_path) == {"COMPLETE": 8}
    assert max(Counter(computed(tmp_path)).values()) == 1
    assert reports[0]["findings"] == reports[1]["findings"]
    assert all(report["unpublished"] == [] for report in reports)
    assert set(statuses(tmp_path).values()) == {"FINISHED"}
