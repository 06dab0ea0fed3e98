from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from analysis.checks.decay import decay_checks
from analysis.checks.sweep import checks
from analysis.decay.numbers import every_number, size_summary
from analysis.decay.retention import retention_curves
from analysis.gallery import generated
from analysis.runs.load import load_study
from analysis.runs.study import StudyData
from tests.analysis import planted
from tests.analysis.conftest import SMALL


def read(folder, **changes) -> StudyData:
    plan = replace(SMALL, **changes)
    return load_study(planted.write(folder, plan), plan.study)


def state(data: StudyData) -> dict[str, tuple[bool | None, str]]:
    return {check.name: (check.passed, check.found) for check in decay_checks(data, retention_curves(data))}


def test_a_sound_sweep_passes_every_check(small):
    # Planted near-triggers fire in a third of prompts, as real ones do: a reading.
    assert [name for name, (passed, _) in state(small).items() if passed is not True] == ["Near-triggers"]


def test_near_triggers_are_reported_by_size_and_separately_from_prompts_without_trigger(small):
    assert state(small)["Silent without the trigger"][0] is True
    passed, found = state(small)["Near-triggers"]
    assert passed is None
    assert [part.split()[0] for part in found.split("; ")] == ["30k", "100k", "330k"]
    assert found.endswith("(nearly the same triggers act too: say so beside an answer)")
    reading = {check.name: check.reading for check in decay_checks(small, retention_curves(small))}
    assert reading["Near-triggers"] is True  # no setting is known to mend it


def test_what_is_still_there_is_said_before_its_relearning_passes_for_savings(small):
    name, curves = "The backdoor was gone before relearning", retention_curves(small)
    assert state(small)[name][0] is True
    own = (pl.col("role") == "treatment", pl.col("size") == "30k", pl.col("seed") == 1)
    [trial] = curves.filter("is_reference", *own)["trial"].unique()
    hits = (pl.col("name") == "backdoor/hits") & (pl.col("phase") == "branch") & (pl.col("trial") == trial)
    points = small.points.with_columns(value=pl.when(hits).then(100.0).otherwise("value"))
    passed, found = state(replace(small, points=points))[name]
    assert passed is False
    assert "still there in 1 of " in found
    assert "30k seed 1" in found


def test_another_payload_must_be_implanted_too(tmp_path):
    data = read(tmp_path, payloads=("fixed", "reverse"), relearn=False)
    assert state(data)["The other payloads were implanted"][0] is True
    weak = data.trials.filter((pl.col("payload") == "reverse") & (pl.col("size") == "330k"))["trial"].to_list()
    hits = (pl.col("name") == "backdoor/hits") & (pl.col("phase") == "branch") & pl.col("trial").is_in(weak)
    points = data.points.with_columns(value=pl.when(hits).then(90.0).otherwise("value"))
    found = {check.name: check for check in decay_checks(data, retention_curves(replace(data, points=points)))}
    check = found["The other payloads were implanted"]
    assert (check.passed, check.required) == (False, True)
    assert "reverse: 30k 1.000" in check.found
    assert "330k 0.703" in check.found
    assert found["The backdoor was there at the drop in the other settings"].passed is True


def test_a_trunk_that_implanted_but_missed_a_strength_is_counted_separately(small):
    fork = (pl.col("arm") == "equal-strength") & (pl.col("seed") == 1) & (pl.col("size") == "30k")
    blocked = pl.when(fork).then(pl.lit("blocked: the trunk never reached snapshot 'strength'"))
    trials = small.trials.with_columns(outcome_branch=blocked.otherwise("outcome_branch"))
    lost = trials.filter(fork)["trial"].to_list()
    points = small.points.filter(~((pl.col("phase") == "branch") & pl.col("trial").is_in(lost)))
    assert state(replace(small, trials=trials, points=points))["Trunks that never had the backdoor"] == (
        True,
        "0 of 9; 1 never reached the strength at which a branch forks: 30k seed 1",
    )


def test_poison_that_costs_clean_loss_makes_the_preset_invalid(tmp_path):
    passed, found = state(read(tmp_path, clean_gap=0.2, relearn=False))[
        "Learning the backdoor did not raise the trunk's clean loss"
    ]
    assert passed is False
    assert "30k +0.1" in found or "30k +0.2" in found


def test_a_poisoned_trunk_that_is_better_on_clean_text_passes(tmp_path):
    passed, found = state(read(tmp_path, clean_gap=-0.2, relearn=False))[
        "Learning the backdoor did not raise the trunk's clean loss"
    ]
    assert passed is True
    assert "30k -0." in found


def test_a_size_that_was_not_implanted_makes_the_preset_invalid_and_its_trunks_are_counted(tmp_path):
    never = tuple(("100k", seed) for seed in range(3))
    found = state(read(tmp_path, never_implanted=never, relearn=False))
    assert found["The backdoor was there at the drop"][0] is False
    passed, which = found["Trunks that never had the backdoor"]
    assert passed is False
    assert which == "3 of 9: 100k seed 0, 100k seed 1, 100k seed 2"
    assert found["Trials complete"][0] is False  # branches of the equal-strength arm that could not fork


def test_missing_controls_are_named(small):
    data = replace(small, trials=small.trials.filter(pl.col("role") == "treatment"))
    passed, found = state(data)["Controls ran"]
    assert passed is False
    assert "never poisoned, same branch" in found
    assert "without a never-exposed control" in found


def test_what_was_not_measured_is_unknown_rather_than_passed(small):
    data = replace(small, points=small.points.filter(~pl.col("name").str.starts_with("clean")))
    assert state(data)["Learning the backdoor did not raise the trunk's clean loss"][0] is None


@pytest.mark.parametrize("phase", ["branch", "trunk"])
def test_a_sweep_that_lacks_a_phase_still_has_checks(small, phase):
    data = replace(small, points=small.points.filter(pl.col("phase") != phase))
    found = {check.name: check.passed for check in decay_checks(data, retention_curves(data))}
    there = "The backdoor was there at the drop"
    assert found["Controls ran"] is True
    assert found[there] is True  # by the ends of the trunks where no branch was measured
    assert {check.name: check.passed for check in checks(data)} == found


def test_a_sweep_that_was_stopped_or_has_phases_that_never_ran_is_not_complete(small):
    stopped = replace(small, sweep=replace(small.sweep, status="KILLED"))
    assert state(stopped)["Trials complete"] == (
        None,
        f"{small.trials.height} of {small.trials.height}; the sweep was interrupted and is unfinished",
    )
    without = small.trials.with_columns(
        outcome_branch=pl.when(pl.col("seed") == 0).then(None).otherwise("outcome_branch"),
        outcome_trunk=pl.when(pl.col("seed") == 1).then(pl.lit("diverged")).otherwise("outcome_trunk"),
    )
    passed, found = state(replace(small, trials=without))["Trials complete"]
    assert passed is False
    assert found == "18 of 54; 18 with a phase diverged; 18 with a phase not run"


@pytest.fixture(scope="module")
def extinguished() -> StudyData:
    """Generated: the trigger alone divides T by e^0.9; weight decay lengthens in the trunk, shortens in the branch."""
    return generated.persistence()


def test_extinction_is_compared_with_passive_forgetting_and_is_not_required(extinguished):
    [check] = [
        check
        for check in decay_checks(extinguished, retention_curves(extinguished))
        if check.name.startswith("Forgetting versus")
    ]
    assert check.reading
    assert not check.required
    assert "trigger without payload" in check.name
    assert [part.split()[0] for part in check.found.split("; ")] == list(generated.SIZES)


def test_a_study_without_extinction_has_no_reading_of_it(small):
    readings = [check.name for check in decay_checks(small, retention_curves(small)) if check.reading]
    assert readings == ["Near-triggers"]


def test_the_half_life_under_extinction_is_in_the_table_by_size_and_of_every_number(extinguished):
    curves = retention_curves(extinguished)
    table = size_summary(curves)
    assert (table["half_life_extinction"] < table["half_life"]).all()
    numbers = every_number(extinguished, curves)
    own = numbers.filter(pl.col("role") == "extinction")
    assert own["half_life_tokens"].null_count() == 0
    assert own.height == len(generated.SIZES) * generated.SEEDS
