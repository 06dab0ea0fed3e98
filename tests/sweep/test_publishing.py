from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

from halflife.evaluation.examples import EXAMPLES
from halflife.store.plan import Plan
from halflife.store.run import run_stage
from halflife.store.stage import Context
from halflife.store.store import Store
from halflife.sweep.publishing import Publishing
from halflife.sweep.study import Study
from halflife.tracking import schema
from halflife.tracking.publisher import Publisher, Status
from halflife.tracking.questions import Contrast, Quantity
from tests.sweep.fakes import Fake
from tests.sweep.helpers import study
from tests.tracking.fake_store import FakeStore

ORIGIN = {"command": "study.py smoke", "commit": "abc", "changes": None, "versions": {"torch": "1"}}


def sweep(
    root: Path, tracking: FakeStore, made: Study, *, give_up: tuple[str, ...] = (), status: Status = "FINISHED"
) -> list[str]:
    """Runs a study without Ray, and publishes it. Stages with these names are treated as failed."""
    store = Store(root)
    plan = Plan(made.stages, store)
    publisher = Publisher("", experiment="fakes", description="?", sweep=made.key, client=tracking, pause=0.01)
    publishing = Publishing(made, plan, store, publisher, ORIGIN)
    publishing.update()
    while stage := plan.take():
        if stage.label in give_up:
            plan.failed(stage.key, "RuntimeError: as asked")
        else:
            plan.completed(stage.key, run_stage(stage, store))
        publishing.update()
    publishing.finish(status, {"stages_run": 1.0})
    return publisher.close(patience=30.0)


def runs(tracking: FakeStore) -> dict:
    return {run.info.name: run for run in tracking.runs.values()}


def small(**more) -> Study:
    return study(trunks=1, branches=3, seconds=0.0, points=2, **more)


def test_a_stage_of_one_trial_is_in_its_run_and_a_shared_one_has_its_own(tmp_path: Path):
    tracking = FakeStore()
    made = small()
    assert sweep(tmp_path, tracking, made) == []
    found = runs(tracking)
    assert set(found) == {"fakes smoke", "trunk0 · trunk (shared)", "branch0.0", "branch0.1", "branch0.2"}
    assert {point[0] for point in found["branch0.0"].data.points} == {"branch/skill/hits", "branch/skill/trials"}
    assert {point[0] for point in found["trunk0 · trunk (shared)"].data.points} == {
        "stage/skill/hits",
        "stage/skill/trials",
    }
    trunk, branch = made.trials[0].stages.values()
    tags = found["branch0.0"].data.tags
    assert (
        tags["halflife.stage.trunk"]
        == found["trunk0 · trunk (shared)"].data.tags[schema.TAG_STAGE]
        == trunk.folder_name
    )
    assert tags["halflife.stage.branch"] == branch.folder_name
    assert tags["halflife.outcome.trunk"] == tags["halflife.outcome.branch"] == "complete"
    assert json.loads(tags["halflife.summary.branch"])["tokens"] == 2
    assert tags[schema.TAG_ROLE] == "treatment"
    assert found["branch0.1"].data.tags[schema.TAG_ROLE] == "positive"
    assert found["branch0.0"].data.params == {"trunk": "0", "branch": "0"}
    assert found["trunk0 · trunk (shared)"].data.params == {"trunk": "0"}  # what its trials have in common


def test_the_parent_carries_the_declaration_the_origin_and_the_sweeps_numbers(tmp_path: Path):
    tracking = FakeStore()
    made = small()
    sweep(tmp_path, tracking, made)
    parent = runs(tracking)["fakes smoke"]
    assert schema.Declaration.from_json(parent.data.artifacts[schema.DECLARATION]) == made.declaration
    assert parent.data.tags[schema.TAG_COMMIT] == "abc"
    assert parent.data.tags[schema.TAG_COMMAND] == "study.py smoke"
    assert made.declaration.question in parent.data.tags["mlflow.note.content"]
    assert [(point[0], point[2]) for point in parent.data.points] == [("sweep/stages_run", 1.0)]
    assert parent.info.status == "FINISHED"


def test_cached_stages_are_published_to_a_store_that_lacks_them(tmp_path: Path):
    first, second = FakeStore(), FakeStore()
    made = small()
    sweep(tmp_path, first, made)
    assert sweep(tmp_path, second, made) == []
    for name, run in runs(first).items():
        if name != "fakes smoke":  # its metrics contain the time
            assert run.data.points == runs(second)[name].data.points
            assert run.data.tags.keys() == runs(second)[name].data.tags.keys()


def test_publishing_a_complete_sweep_again_writes_nothing(tmp_path: Path):
    tracking = FakeStore()
    sweep(tmp_path, tracking, small())
    tracking.calls.clear()
    assert sweep(tmp_path, tracking, small()) == []
    assert set(tracking.calls) == {"get_experiment_by_name", "search_runs", "list_artifacts"}


def test_a_failed_stage_is_reported_and_published_when_it_succeeds_later(tmp_path: Path):
    tracking = FakeStore()
    sweep(tmp_path, tracking, small(), give_up=("branch0.1",), status="FAILED")
    failed = runs(tracking)["branch0.1"]
    assert failed.data.tags["halflife.outcome.branch"] == "failed: RuntimeError: as asked"
    assert failed.info.status == "FAILED"
    assert schema.TAG_PUBLISHED not in failed.data.tags
    assert runs(tracking)["branch0.0"].data.tags[schema.TAG_PUBLISHED] == "complete"
    sweep(tmp_path, tracking, small())
    assert len(tracking.runs) == 5
    assert failed.data.tags["halflife.outcome.branch"] == "complete"
    assert failed.info.status == "FINISHED"
    assert len(failed.data.points) == 4


def test_trials_behind_a_failed_trunk_are_blocked_and_say_why(tmp_path: Path):
    tracking = FakeStore()
    sweep(tmp_path, tracking, small(), give_up=("trunk0",), status="FAILED")
    tags = runs(tracking)["branch0.2"].data.tags
    assert tags["halflife.outcome.trunk"] == "failed: RuntimeError: as asked"
    assert tags["halflife.outcome.branch"].startswith("blocked: fake-")
    assert schema.TAG_PUBLISHED not in tags


def test_a_diverged_trunk_is_a_result_that_is_published_for_good(tmp_path: Path):
    tracking = FakeStore()
    sweep(tmp_path, tracking, small(deeds={"trunk0": "diverge"}))
    tags = runs(tracking)["branch0.0"].data.tags
    assert tags["halflife.outcome.trunk"] == "diverged"
    assert json.loads(tags["halflife.summary.trunk"])["message"] == "loss is nan at step 3"
    assert tags["halflife.outcome.branch"].startswith("blocked: parent fake-")
    assert tags[schema.TAG_PUBLISHED] == "complete"
    assert runs(tracking)["branch0.0"].info.status == "FAILED"
    assert len(runs(tracking)["trunk0 · trunk (shared)"].data.points) == 4


def test_an_interrupted_sweep_leaves_no_run_open(tmp_path: Path):
    tracking = FakeStore()
    made, store = small(), Store(tmp_path)
    run_stage(made.stages[0], store)
    plan = Plan(made.stages, store)
    publisher = Publisher("", experiment="fakes", description="?", sweep=made.key, client=tracking, pause=0.01)
    publishing = Publishing(made, plan, store, publisher, ORIGIN)
    publishing.update()
    publishing.finish("KILLED", {})
    assert publisher.close() == []
    statuses = {name: run.info.status for name, run in runs(tracking).items()}
    assert statuses.pop("trunk0 · trunk (shared)") == "FINISHED"
    assert set(statuses.values()) == {"KILLED"}
    sweep(tmp_path, tracking, made)
    assert {run.info.status for run in tracking.runs.values()} == {"FINISHED"}


def test_one_stage_in_two_phases_of_a_trial_has_its_own_run(tmp_path: Path):
    made = small()
    first = made.trials[0]
    trials = (
        type(first)(name="both", parameters=first.parameters, stages={**first.stages, "again": first.stages["branch"]}),
        *made.trials[1:],
    )
    tracking = FakeStore()
    sweep(tmp_path, tracking, Study(declaration=made.declaration, trials=trials))
    assert "both · branch (shared)" in runs(tracking)
    assert runs(tracking)["both"].data.points == []
    assert runs(tracking)["both"].data.tags[schema.TAG_PUBLISHED] == "complete"


def test_a_sweep_with_questions_keeps_the_time_when_they_were_first_published(tmp_path: Path, monkeypatch):
    asked = Contrast(name="q", label="Is it better?", quantity="kept", axis="role", high="treatment", low="absent")
    kept = Quantity(name="kept", label="what is kept", measure="branch/skill/hits")
    made = small()
    made = replace(made, declaration=replace(made.declaration, quantities=(kept,), questions=(asked,)))
    stricter = replace(asked, margin=0.1, reason="r")
    other = replace(made, declaration=replace(made.declaration, questions=(stricter,)))
    tracking = FakeStore()
    for second, each in enumerate((made, made, other)):
        clock = SimpleNamespace(now=lambda zone, second=second: datetime(2026, 1, 1, second=second, tzinfo=zone),
                                fromisoformat=datetime.fromisoformat)  # fmt: skip
        monkeypatch.setattr("halflife.sweep.publishing.datetime", clock)
        sweep(tmp_path, tracking, each, give_up=("branch0.2",), status="FAILED")
    params = runs(tracking)["fakes smoke"].data.params
    assert params[made.declaration.declared_parameter] == "2026-01-01T00:00:00+00:00"
    assert params[other.declaration.declared_parameter] == "2026-01-01T00:00:02+00:00"


@dataclass(frozen=True, kw_only=True)
class Telling(Fake):
    """With examples in its summary."""

    kind: ClassVar[str] = "telling"

    def run(self, context: Context) -> dict[str, Any]:
        row = {"task": "skill", "tokens": 2, "text": "a <b>", "marked": "b", "completion": "c", "answer": "c"}
        return {**super().run(context), EXAMPLES: [row]}


def test_examples_of_a_phase_are_a_table_of_its_trials_and_no_tag(tmp_path: Path):
    made = small()
    trunk, branch = (Telling(name=name, seconds=0.0, points=2) for name in ("trunk", "branch"))
    trials = (replace(made.trials[0], stages={"trunk": trunk, "branch": branch}), *made.trials[1:])
    tracking = FakeStore()
    sweep(tmp_path, tracking, Study(declaration=made.declaration, trials=trials))
    told = runs(tracking)[made.trials[0].name].data
    table = json.loads(told.artifacts["examples-branch.json"])
    assert dict(zip(table["columns"], table["data"][0], strict=True))["text"] == "a <b>"
    shown = json.loads(told.tags["mlflow.loggedArtifacts"])
    assert shown == [{"path": f"examples-{phase}.json", "type": "table"} for phase in ("trunk", "branch")]
    assert EXAMPLES not in json.loads(told.tags["halflife.summary.branch"])
    assert runs(tracking)["branch0.1"].data.artifacts == {}


@dataclass(frozen=True, kw_only=True)
class Counting(Fake):
    """As older fits of prompts, whose summary has how many examples of each target there were."""

    kind: ClassVar[str] = "counting"

    def run(self, context: Context) -> dict[str, Any]:
        return {**super().run(context), EXAMPLES: {"task": 128}}


def test_numbers_of_examples_stay_in_the_summary_and_are_no_table(tmp_path: Path):
    made = small()
    prompts = Counting(name="prompts", seconds=0.0, points=2)
    trials = (replace(made.trials[0], stages={"prompts": prompts}), *made.trials[1:])
    tracking = FakeStore()
    sweep(tmp_path, tracking, Study(declaration=made.declaration, trials=trials))
    told = runs(tracking)[made.trials[0].name].data
    assert "examples-prompts.json" not in told.artifacts
    assert json.loads(told.tags["halflife.summary.prompts"])[EXAMPLES] == {"task": 128}
