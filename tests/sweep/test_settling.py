"""--settle on fake stages, with answers that are given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from halflife.errors import UserError
from halflife.store.plan import Plan
from halflife.store.run import run_stage
from halflife.store.store import Store
from halflife.sweep.publishing import Publishing
from halflife.sweep.reporting import Answered
from halflife.sweep.settling import Settle, Settling, costs
from halflife.sweep.site import ExecutionSite
from halflife.sweep.study import Study
from halflife.tracking import schema
from halflife.tracking.publisher import Publisher
from halflife.tracking.questions import Contrast, Quantity
from tests.sweep.helpers import study
from tests.tracking.fake_store import FakeStore

QUANTITY = Quantity(name="skill", label="the skill", measure="branch/skill/hits")
PRIMARY = Contrast(name="kept", label="?", quantity="skill", high="positive", low="absent", primary=True)


def study_of(seeds: int) -> Study:
    """A trunk with three roles a seed."""
    found = study(trunks=seeds, branches=3, seconds=0.0, points=2)
    trials = tuple(
        replace(trial, parameters={**trial.parameters, "seed": trial.parameters["trunk"]}) for trial in found.trials
    )
    asked = {"quantities": (QUANTITY,), "questions": (PRIMARY,), "looks": (5, 6, 8)}
    axis = schema.Axis(name="seed", label="Seed", values=tuple(range(seeds)))
    return Study(declaration=replace(found.declaration, axes=(axis,), **asked), trials=trials)


def answered(verdict: str, *, valid: bool = True, primary: bool = True) -> Answered:
    return Answered(name=verdict, primary=primary, verdict=verdict, sentence=f"It is {verdict}.", valid=valid)


class Sweep:
    """A settling sweep without Ray: `answers` gives the answers at each number of seeds."""

    def __init__(self, root: Path, answers: dict[int, list[Answered]], **limits: Any) -> None:
        self.tracking, self.store, self.now = FakeStore(), Store(root), 0.0
        self.told: list[str] = []
        self.looked: list[int] = []
        self.answers = answers
        self.settle = Settle(study_of=study_of, looks=study_of(5).declaration.looks, answers=self.at, **limits)
        self.state = Settling(self.settle, self.store, tell=self.told.append, clock=lambda: self.now)

    def at(self, sweep: str) -> tuple[Answered, ...]:
        assert sweep == self.state.study.key
        seeds = len({trial.parameters["seed"] for trial in self.state.study.trials})
        self.looked.append(seeds)
        run = next(run for run in self.tracking.runs.values() if run.data.tags[schema.TAG_KIND] == "sweep")
        declared = schema.Declaration.from_json(run.data.artifacts[schema.DECLARATION])
        assert len(declared.axes[0].values) == seeds  # what is published is what is asked about
        return tuple(self.answers[seeds])

    def run(self) -> list[str]:
        study, plan = self.state.study, self.state.plan
        publisher = Publisher(
            "", experiment="fakes", description="?", sweep=study.key, client=self.tracking, pause=0.01
        )
        publishing = Publishing(study, plan, self.store, publisher, {})
        publishing.update()
        self.state.begin(publishing, 1)
        while self.state.feed():
            stage = plan.take()
            assert stage is not None
            plan.completed(stage.key, run_stage(stage, self.store))
            self.now += 1.0
            publishing.update()
        publishing.finish("FINISHED", {}, complete=self.state.complete)
        assert publisher.close(patience=5.0) == []
        return self.state.findings()


def test_it_looks_at_the_declared_seeds_and_stops_when_every_primary_is_answered(tmp_path: Path):
    undecided, effect = answered("undecided"), answered("effect")
    sweep = Sweep(
        tmp_path, {5: [undecided, effect], 6: [effect, answered("equivalent"), answered("undecided", primary=False)]}
    )
    assert sweep.run() == ["settled at 6 seeds: every primary question is answered"]
    assert sweep.looked == [5, 6]
    assert sweep.told == [
        "look 1 of 3, at 5 seeds: It is undecided.", "look 1 of 3, at 5 seeds: It is effect.",
        "look 2 of 3, at 6 seeds: It is effect.", "look 2 of 3, at 6 seeds: It is equivalent.",
    ]  # fmt: skip
    assert len(sweep.state.study.trials) == 18
    assert {trial.key for trial in study_of(6).trials} == {trial.key for trial in sweep.state.study.trials}


def test_the_same_command_takes_the_same_decisions_without_computing_anything(tmp_path: Path):
    answers = {5: [answered("undecided")], 6: [answered("effect")]}
    first = Sweep(tmp_path, answers)
    first.run()
    again = Sweep(tmp_path, answers)
    assert again.state.study.key == first.state.study.key
    again.run()
    assert (again.looked, again.told, again.now) == (first.looked, first.told, 0.0)


def test_max_seeds_ends_it_undecided_and_more_continue_the_same_sweep(tmp_path: Path):
    answers = {5: [answered("undecided")], 6: [answered("undecided")], 8: [answered("effect")]}
    sweep = Sweep(tmp_path, answers, most=7)
    assert sweep.run() == [
        "not settled at 6 seeds, the last look within --max-seeds 7: 1 of 1 primary question undecided"
    ]
    assert not sweep.state.complete
    more = Sweep(tmp_path, answers)
    assert more.state.study.key == sweep.state.study.key
    assert more.run() == ["settled at 8 seeds: every primary question is answered"]
    assert more.now == 8  # two seeds of four stages


def test_a_look_beyond_the_budget_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("halflife.sweep.report.compute_seconds", lambda plan, keys: 60.0 * len(keys))
    answers = {5: [answered("undecided")], 6: [answered("effect")]}
    sweep = Sweep(tmp_path, answers, seconds=240.0)
    [finding] = sweep.run()  # 20 stages took 20 s here; the next look's four take 240 s
    assert finding.startswith(
        "not settled at 5 seeds: the next look, at 6, takes about 4 min 0 s more, and 3 min 40 s of"
    )
    assert sweep.looked == [5]
    assert Sweep(tmp_path, answers, seconds=261.0).run()[0].startswith("settled at 6 seeds")


def test_a_check_that_fails_is_not_mended_by_more_seeds(tmp_path: Path):
    sweep = Sweep(tmp_path, {5: [answered("undecided", valid=False)]})
    assert sweep.run() == ["not settled at 5 seeds: a required check fails, and more seeds would not mend it"]


def test_a_failed_stage_leaves_no_look(tmp_path: Path):
    sweep = Sweep(tmp_path, {})
    publisher = Publisher("", experiment="fakes", description="?", sweep="s", client=sweep.tracking, pause=0.01)
    plan = sweep.state.plan
    sweep.state.begin(Publishing(sweep.state.study, plan, sweep.store, publisher, {}), 1)
    while stage := plan.take():
        plan.failed(stage.key, "as asked")
    assert not sweep.state.feed()
    assert sweep.state.findings() == ["no look at 5 seeds: 5 stages failed"]
    publisher.close(patience=5.0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"looks": ()}, "declares no looks"),
        ({"most": 4}, "--max-seeds 4: expected at least the 5 seeds"),
        ({"study_of": lambda seeds: study(trunks=seeds, branches=3)}, "declares no primary question"),
    ],
)
def test_what_cannot_be_settled_is_refused(changes: dict[str, Any], said: str):
    given: dict[str, Any] = {"study_of": study_of, "looks": (5, 6, 8), "answers": lambda sweep: ()}
    with pytest.raises(UserError, match=said):
        Settle(**{**given, **changes})


def test_a_dry_run_says_what_each_look_adds_and_which_question_ends_it(tmp_path: Path):
    site = ExecutionSite(results=tmp_path, device="cpu", max_concurrent=1)
    settle = Settle(study_of=study_of, looks=(5, 6, 8), answers=lambda sweep: (), most=7)
    lines = costs(settle, Store(tmp_path), site.placements())
    assert lines[0].startswith("look 1 of 3, at 5 seeds: 20 stages, about ")
    assert lines[1].startswith("look 2 of 3, at 6 seeds: 4 more stages, about ")
    assert lines[1].endswith(" in all")
    assert lines[2:] == ["it stops at the first look that answers “?”"]


def test_a_plan_of_more_seeds_contains_that_of_fewer(tmp_path: Path):
    few, many = (Plan(study_of(seeds).stages, Store(tmp_path)) for seeds in (5, 8))
    assert few.stages.keys() < many.stages.keys()
