"""A study of interventions and of weights put back, end to end: planned, computed on workers, resumed."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path

import pytest
from rich.console import Console

from halflife.store.stage import Stage
from halflife.store.store import Store
from halflife.sweep import launch
from halflife.sweep.report import SweepReport
from halflife.sweep.site import ExecutionSite
from tests.interpret.study_program import BRANCH, DROPPED, FIT, NEVER, RESTORED, STEERED, TRUNK, measured, study
from tests.sweep.drivers import Driver, wait_for

pytestmark = pytest.mark.slow


def plan(results: Path) -> tuple[SweepReport, str]:
    """A dry run: its report, and what it prints."""
    console = Console(record=True, width=120, file=io.StringIO())
    report = launch.run(study(), ExecutionSite(results=results, device="cpu", max_concurrent=2, dry_run=True), console)
    return report, console.export_text()


def last(store: Store, stage: Stage) -> dict[str, float]:
    """The last value of each measure of the skill."""
    points = store.points(stage).sort("step")
    return {name: value for name, value in points.select("name", "value").iter_rows() if name.startswith("skill/")}


def test_a_study_of_edits_is_planned_computed_through_a_kill_and_not_computed_again(tmp_path: Path) -> None:
    _, text = plan(tmp_path)
    assert "4 trials; 7 of 7 stages missing" in text
    rows = {cells[1].strip(): cells for line in text.splitlines() if len(cells := line.split("│")) == 9}
    assert {"trunk", "branch", "vectors", "measured"} < rows.keys()
    assert rows["vectors"][6].strip().endswith("G")  # FLOPs
    assert "interventions at 2 sites" in text
    assert not list(tmp_path.iterdir())

    driver = Driver(tmp_path, program="study_program", package="tests.interpret")
    store, attempts = Store(tmp_path), tmp_path / "stages" / FIT.folder_name / "attempts"
    wait_for(lambda: (attempts.exists() and list(attempts.iterdir())) or driver.process.poll() is not None)
    holder = store.holder(FIT)
    assert holder
    os.kill(holder.pid, signal.SIGKILL)
    report = driver.report()
    assert "retrying" in driver.output
    assert (report["failed"], report["run"], report["unpublished"]) == ({}, 6, [])
    (why,) = report["blocked"].values()
    assert why == "the trunk never reached snapshot 'perfect'"
    assert len(list(attempts.iterdir())) == 2

    found = {subject: last(store, measured(subject)) for subject in (STEERED, RESTORED, DROPPED)}
    assert found[RESTORED] == last(store, TRUNK)
    assert found[DROPPED] == last(store, BRANCH)
    assert found[STEERED] != found[DROPPED] != found[RESTORED]
    assert store.outcome(measured(NEVER)) is None

    again, text = plan(tmp_path)
    assert again.cached == 6
    assert "0 of 7 stages missing" in text
    assert "blocked: 1 stage: the trunk never reached snapshot 'perfect'" in text
