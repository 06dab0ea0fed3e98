"""A probe, edit, objective and kind of stage from outside the package run on Ray's workers as halflife's own do."""

from __future__ import annotations

import json
from pathlib import Path
from socket import gethostname

import pytest

from halflife.errors import UserError
from halflife.store import identity
from halflife.store.stage import Stage
from halflife.store.store import Store, read_points
from halflife.sweep.packing import Packed
from tests.plugin import added, program
from tests.sweep.drivers import Driver


@pytest.mark.slow
def test_what_a_user_adds_runs_on_workers_that_import_it(tmp_path: Path):
    driver = Driver(tmp_path, program="program", package="tests.plugin")
    report = driver.report()
    assert (report["failed"], report["run"], report["unpublished"]) == ({}, 5, [])

    def values(stage: Stage) -> dict[str, float]:
        done = Store(tmp_path).outcome(stage)
        assert done is not None
        points = read_points(tmp_path / "stages" / stage.folder_name / "attempts" / done.attempt)
        return dict(points.select("name", "value").iter_rows())

    trials = program.study().trials
    norms = {trial.role: values(trial.stages["branch"])["first/norm"] for trial in trials}
    counts = {trial.role: values(trial.stages["count"])["positive/count"] for trial in trials}
    assert values(program.TRUNK)["z-loss/loss"] > 1
    assert norms["treatment"] < 1e-5 < norms["positive"] == norms["absent"]
    assert counts["treatment"] == counts["positive"] > 1000


def test_the_identity_of_what_a_user_adds_holds_its_package():
    silenced = added.Silenced(directions=2)
    assert identity.canonical(silenced) == {"is": "Silenced", "of": "tests", "directions": 2}
    counted = program.study().trials[0].stages["count"]
    assert counted.description["of"] == "tests"
    assert "of" not in program.TRUNK.description
    assert program.TRUNK.description["objectives"][1] == {"is": "ZLoss", "of": "tests", "strength": 0.1}
    assert json.loads(json.dumps(counted.description)) == counted.description


def test_two_classes_of_one_name_and_package_are_refused():
    twin = type("Silenced", (added.Silenced,), {"__module__": "tests.plugin.others"})
    identity.canonical(added.Silenced(directions=1))
    with pytest.raises(UserError, match=r"Silenced is defined in tests\.plugin\.added and in tests\.plugin\.others"):
        identity.canonical(twin(directions=1))


def test_a_class_of_the_script_itself_is_refused_as_workers_cannot_import_it():
    local = type("Silenced", (added.Silenced,), {"__module__": "__main__"})
    with pytest.raises(UserError, match="move it to a module that the study imports"):
        identity.canonical(local(directions=1))


@pytest.mark.slow
def test_a_module_that_workers_lack_is_named_in_one_line_with_the_worker(tmp_path: Path):
    driver = Driver(tmp_path, "--lost", program="program", package="tests.plugin")
    failed = driver.report()["failed"]
    (line,) = set(failed.values())
    assert line.startswith(f"module lost, whose classes describe a stage, cannot be imported on {gethostname()}")
    assert "Traceback" not in driver.output
    assert "retrying" not in driver.output


def test_a_stage_names_the_modules_that_a_worker_imports_before_it_is_unpacked():
    stage = program.study().trials[0].stages["count"]
    packed = Packed.of(stage)
    assert "tests.plugin.added" in packed.modules
    assert packed.stage() == stage
