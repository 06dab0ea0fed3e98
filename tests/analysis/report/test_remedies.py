"""Every check that fails says what would mend it, with flags and values from the run's own numbers."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from analysis.answers.judging import answers
from analysis.answers.sentences import sentence
from analysis.checks.check import Check
from analysis.checks.sweep import checks
from analysis.runs.load import load_study
from analysis.runs.study import StudyData
from halflife.kits.backdoor_questions import LEVERS
from tests.analysis import planted
from tests.analysis.conftest import SMALL

SETTINGS = {"trunk_tokens": 1_000_000, "branch_tokens": 400_000, "poison_counts": [250], "num_eval": 128, "lr": 5e-3}


def read(folder, **changes) -> StudyData:
    plan = replace(SMALL, relearn=False, **changes)
    data = load_study(planted.write(folder, plan), plan.study)
    return replace(data, declaration=replace(data.declaration, levers=LEVERS, settings=SETTINGS))


def remedies(data: StudyData) -> dict[str, str]:
    return {check.name: check.remedy for check in checks(data) if check.passed is False}


def with_trunk(data: StudyData, rates: list[float]) -> StudyData:
    """Trunks that were evaluated with these rates of success."""
    rows = [
        (trial, "trunk", 100_000 * (i + 1), f"backdoor/{name}", value)
        for trial in data.trials["trial"]
        for i, rate in enumerate(rates)
        for name, value in (("hits", round(128 * rate)), ("trials", 128.0))
    ]
    added = pl.DataFrame(rows, schema=data.points.schema, orient="row")
    other = data.points.filter(~((pl.col("phase") == "trunk") & pl.col("name").str.starts_with("backdoor/")))
    return replace(data, points=pl.concat([other, added]))


@pytest.fixture(scope="module")
def never(tmp_path_factory: pytest.TempPathFactory) -> StudyData:
    trunks = tuple(("100k", seed) for seed in range(3))
    return read(tmp_path_factory.mktemp("never"), never_implanted=trunks)


def test_a_trunk_that_still_rises_gets_more_tokens_and_a_flat_one_more_poison(never):
    there = "The backdoor was there at the drop"
    rising = remedies(with_trunk(never, [0.0, 0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4]))[there]
    assert "still rising at the end: a longer trunk, --trunk-tokens 2300000" in rising
    flat = remedies(with_trunk(never, [0.0, 0.1, 0.2, 0.21, 0.22, 0.2, 0.219, 0.21, 0.22]))[there]
    assert flat == "success is 0.219 and not rising at the end: more of the cause, --poison-counts 500"


def test_the_answer_that_is_not_valid_says_the_remedy(never):
    data = with_trunk(never, [0.2] * 9)
    found = [sentence(answer, data) for answer in answers(data)]
    assert all(text.endswith("more of the cause, --poison-counts 500.") for text in found)


def test_poison_that_costs_clean_loss_is_lowered_by_as_much_as_it_is_too_much(tmp_path):
    text = remedies(read(tmp_path, clean_gap=0.2))["Learning the backdoor left the trunk's clean loss unchanged"]
    assert text.startswith("less of the cause, --poison-counts 1")  # by what the bound is of the gap
    assert text.endswith("or a longer trunk, --trunk-tokens 2000000")


def test_diverged_runs_get_a_lower_rate_and_others_the_same_command(tmp_path):
    data = read(tmp_path)
    trials = data.trials.with_columns(outcome_branch=pl.lit("diverged: loss is nan"))
    assert remedies(replace(data, trials=trials))["Trials complete"] == "a lower learning rate, --lr 0.0025"
    trials = data.trials.with_columns(outcome_branch=pl.lit("failed: out of memory"))
    assert "run the same command again" in remedies(replace(data, trials=trials))["Trials complete"]


def test_a_check_cannot_fail_without_a_remedy():
    with pytest.raises(ValueError, match="fails without a remedy"):
        Check(name="a", expected="b", found="c", passed=False)
