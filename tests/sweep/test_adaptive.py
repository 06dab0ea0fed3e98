"""An adaptive search: suggestions, evaluation, resuming. test_search_on_ray.py runs it on Ray."""

from __future__ import annotations

import math
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from halflife.errors import UserError
from halflife.store.run import run_stage
from halflife.sweep.findings import findings
from halflife.tracking import schema
from tests.sweep.searches import (
    OBJECTIVE,
    Carried,
    Setting,
    above_absent,
    computed,
    conditional,
    controls,
    height,
    last,
    plane,
    search,
    states,
    two_objectives,
    unfold,
)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch):
    """No fsync: these tests do not simulate power cuts."""
    monkeypatch.setattr("os.fsync", lambda file: None)


def parameters(carried: Carried) -> list[dict[str, Any]]:
    return [trial.params for trial in carried.study.trials]


def test_every_setting_is_computed_and_reported(tmp_path: Path):
    carried = Carried(search(), tmp_path).run()
    trials = carried.study.trials
    assert len(trials) == 6
    for trial in trials:
        assert trial.value == pytest.approx(height(trial.params["x"], trial.params["y"]))


def test_a_second_run_computes_and_suggests_nothing(tmp_path: Path):
    first = Carried(search(), tmp_path).run()
    before, journal = computed(tmp_path), first.journal.read_bytes()
    again = Carried(search(), tmp_path)
    assert not again.campaign.feed()
    assert again.campaign.plan.finished
    again.end()
    assert computed(tmp_path) == before
    assert again.journal.read_bytes() == journal


def test_more_trials_continue_the_search(tmp_path: Path):
    Carried(search(), tmp_path).run()
    more = Carried(search(budget={"trials": 9}), tmp_path / "anew").run()
    longer = Carried(search(budget={"trials": 9}), tmp_path).run()
    assert parameters(longer) == parameters(more)


def test_ctrl_c_leaves_no_suggestion_running(tmp_path: Path):
    stopped = Carried(search(), tmp_path).run(5)
    assert "RUNNING" in states(stopped)
    stopped.end("KILLED")
    assert states(stopped)[-1] == "WAITING"
    resumed = Carried(search(), tmp_path).run()
    assert states(resumed) == ["COMPLETE"] * 6


def test_a_half_suggested_setting_is_completed(tmp_path: Path):
    whole = Carried(search(), tmp_path / "whole").run()

    def dies(trial: Any) -> Setting:
        x = trial.suggest_float("x", 0, 1)
        if trial.number == 2 and hasattr(trial, "study"):
            raise KeyboardInterrupt
        return Setting(x, trial.suggest_float("y", 0, 1))

    results = tmp_path / "killed"
    dying = Carried(search(), results)
    dying.campaign._suggestions._search = search(suggest=dies)
    with pytest.raises(KeyboardInterrupt):
        dying.run()
    assert set(dying.study.trials[2].params) == {"x"}
    assert parameters(Carried(search(), results).run()) == parameters(whole)


@pytest.mark.parametrize("deed", ["nan", "diverge", "raise"])
def test_a_setting_that_cannot_be_measured_is_reported_as_failed(tmp_path: Path, deed: str):
    def suggest(trial: Any) -> Setting:
        setting = plane(trial)
        return Setting(setting.x, setting.y, deed=deed if setting.x < 0.5 else "")

    carried = Carried(search(suggest=suggest, budget={"trials": 10}), tmp_path).run()
    for trial in carried.study.trials:
        assert trial.state == (TrialState.FAIL if trial.params["x"] < 0.5 else TrialState.COMPLETE)
    reason = next(t.user_attrs["failed"] for t in carried.study.trials if t.state == TrialState.FAIL)
    assert {"nan": "height is not finite (seed 0)", "diverge": "diverged", "raise": "as asked"}[deed] in reason
    runs = [run for run in carried.tracking.runs.values() if schema.TAG_RESULT in run.data.tags]
    assert {run.data.tags[schema.TAG_RESULT].split(":")[0] for run in runs} == {"complete", "failed"}
    before = computed(tmp_path)
    Carried(search(suggest=suggest, budget={"trials": 10}), tmp_path).run()
    assert computed(tmp_path) == before


def test_an_invalid_setting_is_reported_as_failed_and_the_next_one_suggested(tmp_path: Path):
    begun = [False]

    def refuse(setting: Setting, seed: int) -> Any:
        if setting.x > 0.75 and begun[0]:  # not among the examples in the search's identity
            raise UserError("x is too large")
        return unfold(setting, seed)

    def begin() -> None:
        begun[0] = True

    made = search(unfold=refuse, budget={"trials": 12})
    carried = Carried(made, tmp_path, before=begin).run()
    for trial in carried.study.trials:
        assert (trial.state == TrialState.FAIL) == (trial.params["x"] > 0.75)
    begun[0] = False
    assert Carried(made, tmp_path, before=begin).run().campaign.numbers() == carried.campaign.numbers()


def test_an_invalid_space_is_refused_before_any_compute(tmp_path: Path):
    def refuse(setting: Setting, seed: int) -> Any:
        raise UserError("x is too large")

    with pytest.raises(UserError, match="x is too large"):
        Carried(search(unfold=refuse), tmp_path)
    assert not list(tmp_path.glob("optuna/*"))


def test_a_space_may_be_conditional(tmp_path: Path):
    carried = Carried(search(suggest=conditional, budget={"trials": 20}), tmp_path).run()
    assert {("bend" in t.params, t.params["kind"]) for t in carried.study.trials} == {(True, "bent"), (False, "plain")}
    assert states(carried) == ["COMPLETE"] * 20


def test_the_front_is_pareto_optimal(tmp_path: Path):
    carried = Carried(two_objectives(budget={"trials": 20}), tmp_path).run()
    values = {trial.number: trial.values for trial in carried.study.trials}
    front = [
        number
        for number, (up, down) in values.items()
        if not any(o[0] >= up and o[1] <= down and o != [up, down] for o in values.values())
    ]
    best = carried.campaign._suggestions.best()
    assert sorted(best) == sorted(front)
    assert [values[number][0] for number in best] == sorted((values[number][0] for number in best), reverse=True)


def test_settings_that_violate_a_constraint_are_not_among_the_best_and_become_rarer(tmp_path: Path):
    bound = schema.Constraint(name="narrow", label="Cost below 0.5", at_most=0.5)
    measures = {"height": last("score/value"), "narrow": last("score/cost")}
    made = search(
        measures=measures, declared={"objectives": (OBJECTIVE,), "constraints": (bound,)}, budget={"trials": 40}
    )
    carried = Carried(made, tmp_path).run()
    trials = carried.study.trials
    for trial in trials:
        assert trial.constraints["narrow"] == pytest.approx(trial.params["x"] - 0.5)
    best = carried.campaign._suggestions.best()
    assert best
    assert all(trials[number].params["x"] <= 0.5 for number in best)
    assert carried.study.best_trial.number == best[0]  # Optuna agrees
    free = Carried(search(budget={"trials": 40}), tmp_path / "free").run()  # its peak is at 0.7
    met = [sum(trial.params["x"] <= 0.5 for trial in each[20:]) for each in (trials, free.study.trials)]
    assert met[0] > met[1] + 5


NARROW = schema.Constraint(name="narrow", label="Cost", at_most=0.5)


def bounded(**changes: Any) -> Any:
    """A search with the constraint x + 0.3 * seed <= 0.5."""

    def narrow(finished: Any) -> float:
        return last("score/cost")(finished) + 0.3 * finished.trial.parameters["seed"]

    return search(
        measures={"height": last("score/value"), "narrow": narrow},
        declared={"objectives": (OBJECTIVE,), "constraints": (NARROW,)},
        **changes,
    )


def test_a_constraint_has_to_hold_on_every_seed(tmp_path: Path):
    carried = Carried(bounded(seeds=(0, 1), budget={"trials": 20}), tmp_path).run()
    trials = carried.study.trials
    for trial in trials:
        assert trial.constraints["narrow"] == pytest.approx(trial.params["x"] + 0.3 - 0.5)
    best = carried.campaign._suggestions.best()
    assert best
    assert all(trials[number].params["x"] <= 0.2 for number in best)
    assert any(0.2 < trial.params["x"] <= 0.35 for trial in trials)  # with a mean within the bounds


def told(measured: list[tuple[float, float]]) -> str:
    """The finding for a setting with these heights and costs on fresh seeds."""
    values = [{"height": high, "narrow": wide} for high, wide in measured]
    made = bounded(fresh_seeds=tuple(range(1, 1 + len(values))))
    chosen = {3: [{"height": 1.0, "narrow": 0.1}]}
    return findings(made, {3: {"x": 0.2}}, chosen, {3: ("", values)})[1]


def test_the_findings_count_the_fresh_seeds_on_which_a_constraint_is_met():
    assert told([(0.5, 0.1), (0.7, 0.5)]) == "#3 (x 0.2): height 0.6 [0.5, 0.7] (1)"
    broken = told([(0.5, 0.1), (0.7, 0.9), (0.6, math.nan)])
    assert broken.endswith("; the constraint 'cost at most 0.5' is met on 1 of 3 seeds")


def test_the_findings_count_the_fresh_seeds_that_were_measured():
    assert "height 0.6 [0.5, 0.7] on 2 of 3 seeds" in told([(0.5, 0.1), (math.nan, 0.1), (0.7, 0.1)])
    assert "height could not be measured" in told([(math.nan, 0.1)])


def failing_once(role: str, **changes: Any) -> Any:
    """A search that uses its absent control; the first attempt at the control of this role raises."""
    return search(measures={"height": above_absent}, controls=partial(controls, deeds={role: "raise-once"}), **changes)


def test_a_failed_control_that_no_measure_reads_fails_no_setting(tmp_path: Path):
    first = Carried(failing_once("positive"), tmp_path).run()
    assert states(first) == ["COMPLETE"] * 6
    assert list(first.campaign.plan.failures.values()) == ["as asked"]
    before = computed(tmp_path)
    assert states(Carried(failing_once("positive"), tmp_path).run()) == ["COMPLETE"] * 6
    assert computed(tmp_path)[len(before) :] == [controls(0, {"positive": "raise-once"})[1].stages["branch"].key]


@pytest.mark.parametrize("slots", [1, 3])
def test_settings_that_need_a_failed_control_are_measured_by_a_second_run(tmp_path: Path, slots: int):
    made = failing_once("absent", seeds=(0, 1), budget={"at_once": slots})
    first = Carried(made, tmp_path, slots=slots).run()
    assert set(states(first)) == {"WAITING"}  # neither failed nor abandoned
    (said,) = first.campaign.findings()
    assert "a control that failed (branch of seed 0 · absent: as asked)" in said
    again = Carried(made, tmp_path, slots=slots).run()
    assert states(again) == ["COMPLETE"] * 6
    twice = {key for key in computed(tmp_path) if computed(tmp_path).count(key) > 1}
    assert twice == {control.stages["branch"].key for seed in (0, 1) for control in made.controls(seed)[:1]}


def test_finalists_that_need_a_failed_control_are_measured_by_a_second_run(tmp_path: Path):
    def fails_on_7(seed: int) -> Any:
        return controls(seed, {"absent": "raise-once"} if seed == 7 else {})

    made = search(measures={"height": above_absent}, controls=fails_on_7, fresh_seeds=(7,))
    first = Carried(made, tmp_path).run()
    assert states(first) == ["COMPLETE"] * 6
    assert all("failed: branch of seed 7 · absent: as asked" in line for line in first.campaign.findings()[1:])
    assert not any("failed" in line for line in Carried(made, tmp_path).run().campaign.findings())


@pytest.mark.parametrize("at_once", [1, None])
def test_nothing_more_is_suggested_while_a_control_that_is_needed_fails(tmp_path: Path, at_once: int | None):
    budget = {"at_once": at_once}
    whole = Carried(search(measures={"height": above_absent}, budget=budget), tmp_path / "whole").run()
    first = Carried(failing_once("absent", budget=budget), tmp_path / "failed").run()
    assert len(first.study.trials) == 1
    again = Carried(failing_once("absent", budget=budget), tmp_path / "failed").run()
    assert parameters(again) == parameters(whole)  # none was suggested without results


def test_the_best_and_the_first_are_evaluated_again_on_fresh_seeds(tmp_path: Path):
    made = search(seeds=(0, 1), fresh_seeds=(7, 8, 9), first=({"x": 0.1, "y": 0.9},), budget={"finalists": 2})
    carried = Carried(made, tmp_path).run()
    held = [t for t in carried.campaign.study.trials if t.role == schema.ROLE_HELD_OUT]
    assert {t.parameters["seed"] for t in held} == {7, 8, 9}
    best = carried.campaign._suggestions.best()
    assert {t.parameters[schema.SUGGESTION] for t in held} == {*best[:2], 0}
    searched = [t for t in carried.campaign.study.trials if t.role == "treatment"]
    assert {t.parameters["seed"] for t in searched} == {0, 1}
    told = carried.study.user_attrs["held out"]
    top = carried.study.trials[best[0]]
    assert [each["height"] for each in told[f"#{best[0]}"]] == pytest.approx(
        [height(**top.params) + 1e-3 * seed for seed in (7, 8, 9)]
    )
    findings = carried.campaign.findings()
    assert "3 fresh seeds" in findings[0]
    assert any(line.startswith("#0 (x 0.1, y 0.9, evaluated first): height ") for line in findings)
    roles = {(t.role, t.parameters["seed"]) for t in carried.campaign.study.trials}
    assert {(role, seed) for role in ("absent", "positive") for seed in (0, 1, 7, 8, 9)} <= roles


def test_each_seed_has_a_run_with_its_own_objective_and_the_search_gets_the_mean(tmp_path: Path):
    carried = Carried(search(seeds=(0, 1, 2)), tmp_path).run()
    found: dict[int, list[float]] = {}
    for run in carried.tracking.runs.values():
        if run.data.tags[schema.TAG_KIND] == "trial" and schema.SUGGESTION in run.data.params:
            points = [point[2] for point in run.data.points if point[0] == "objective/height"]
            assert len(points) == 1
            found.setdefault(int(run.data.params[schema.SUGGESTION]), []).append(points[0])
            assert run.data.tags[schema.TAG_RESULT] == "complete"
            assert run.data.tags[schema.TAG_PUBLISHED] == "complete"
    for trial in carried.study.trials:
        assert len(found[trial.number]) == 3
        assert trial.value == pytest.approx(statistics.fmean(found[trial.number]))


def test_a_search_can_be_published_again_from_the_store_and_the_journal(tmp_path: Path):
    first = Carried(search(seeds=(0, 1), fresh_seeds=(5,)), tmp_path).run()
    again = Carried(search(seeds=(0, 1), fresh_seeds=(5,)), tmp_path).run()

    def content(carried: Carried) -> dict[str, Any]:
        runs = [run for run in carried.tracking.runs.values() if run.data.tags[schema.TAG_KIND] == "trial"]
        return {
            run.info.name: (run.data.params, sorted(p[:3] for p in run.data.points if p[0].startswith("objective")))
            for run in runs
        }

    assert content(again) == content(first)
    assert len(content(first)) == 2 * 6 + 5 + 2 * 3  # settings, finalists, controls


def coarse(trial: Any) -> Setting:
    return Setting(trial.suggest_categorical("x", [0.2, 0.7]), trial.suggest_categorical("y", [0.2, 0.9]))


def test_a_repeated_setting_is_reported_again_and_computed_once(tmp_path: Path):
    carried = Carried(search(suggest=coarse, budget={"trials": 12}), tmp_path).run()
    assert states(carried) == ["COMPLETE"] * 12
    assert len(computed(tmp_path)) == len(set(computed(tmp_path))) <= 2 + 2 + 4  # controls, trunks, ends
    held_out = Carried(search(suggest=coarse, budget={"trials": 12}, fresh_seeds=(5,)), tmp_path).run()
    again = [t for t in held_out.campaign.study.trials if t.role == schema.ROLE_HELD_OUT]
    assert len({trial.stages["branch"].key for trial in again}) == len(again) == 4  # no finalist twice


def test_a_stage_that_a_later_setting_shares_is_published_for_both(tmp_path: Path):
    carried = Carried(search(suggest=coarse, budget={"trials": 8}), tmp_path).run()
    runs = list(carried.tracking.runs.values())
    shared = {run.data.tags[schema.TAG_STAGE] for run in runs if run.data.tags[schema.TAG_KIND] == "stage"}
    trials = [run for run in runs if schema.SUGGESTION in run.data.params]
    assert len(trials) == 8
    for run in trials:
        for phase in ("trunk", "branch"):
            own = {point[0] for point in run.data.points if point[0].startswith(f"{phase}/")}
            assert own or run.data.tags[schema.TAG_STAGE_PREFIX + phase] in shared
            assert run.data.tags[schema.TAG_OUTCOME_PREFIX + phase] == "complete"
        assert run.data.tags[schema.TAG_PUBLISHED] == "complete"


def test_after_a_timeout_nothing_is_suggested_and_pending_settings_are_finished(tmp_path: Path):
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    made = search(budget={"trials": 500, "timeout": "60"}, fresh_seeds=(5,))
    carried = Carried(made, tmp_path, clock=clock).run()
    count = len(carried.study.trials)
    assert 2 <= count < 100
    assert set(states(carried)) == {"COMPLETE"}
    assert "fresh seed" in carried.campaign.findings()[0]
    assert f"{500 - count} settings left" in carried.campaign.findings()[-1]


def test_settings_fill_the_slots_and_no_more(tmp_path: Path):
    carried = Carried(search(budget={"at_once": None}), tmp_path, slots=2)
    plan = carried.campaign.plan
    carried.campaign.feed()
    assert states(carried) == []  # the controls come first
    while stage := plan.take():
        plan.completed(stage.key, run_stage(stage, carried.store))
    carried.campaign.feed()
    assert len(plan.ready()) == 1
    plan.take()
    carried.campaign.feed()
    assert len(plan.ready()) == 1
    plan.take()
    carried.campaign.feed()
    assert plan.ready() == []
    assert states(carried) == ["RUNNING", "RUNNING"]
    carried.end("KILLED")
