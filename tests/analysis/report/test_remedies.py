"""Every check that fails says what would mend it, with flags and values from the run's own numbers."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from analysis.answers.judging import answers
from analysis.answers.quantities import ALREADY
from analysis.answers.questions import Answer
from analysis.answers.sentences import mended, not_valid, sentence
from analysis.checks.check import Check
from analysis.checks.sweep import checks
from analysis.report.asked import answered
from analysis.report.rows import axis_rows, progress
from analysis.runs.load import load_study
from analysis.runs.study import StudyData
from halflife.kits.backdoor_questions import HALF_LIFE, LEVERS, RELEARNING
from halflife.tracking.criteria import Criterion
from halflife.tracking.questions import Contrast
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
    weakest = "success is 0.219 in the weakest run and not rising at the end"
    assert flat == f"{weakest}: more of the cause, --poison-counts 500"


def test_why_runs_are_not_valid_and_the_remedy_are_said_once(never):
    data = with_trunk(never, [0.2] * 9)
    said = not_valid(data)
    assert said.startswith("These runs answer nothing: a required check fails (The backdoor was there at the drop).")
    assert said.endswith("more of the cause, --poison-counts 500.")
    asked = Contrast(name="q", label="Is it?", quantity="half_life", axis="seed", high=1, low=0, primary=True)
    data = replace(data, declaration=replace(data.declaration, questions=(asked,)))
    assert [sentence(answer, data) for answer in answers(data)] == [
        "Is it? Not valid: a required check fails (The backdoor was there at the drop)."
    ]
    shown = answered(data)
    assert shown["primary"] == ["Is it? Not valid."]
    assert shown["not_valid"] == said
    mends = list(remedies(data).values())
    assert sum("--poison-counts 500" in text for text in mends) == 1
    assert "as for “The backdoor was there at the drop”" in mends


def test_a_sweep_that_stopped_early_has_the_remedy_of_its_trunks_and_not_the_same_command(never):
    """The number is that of the early stop: both come from the curves of the same trunks."""
    criterion = Criterion(phase="trunk", task="backdoor", what="backdoor", least=0.9)
    declared = replace(never.declaration, criteria=(criterion,))
    data = with_trunk(replace(never, declaration=declared), [0.0, 0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4])
    data = replace(
        data, sweep=replace(data.sweep, status="KILLED"), points=data.points.filter(pl.col("phase") == "trunk"),
        trials=data.trials.with_columns(outcome_branch=pl.lit(None, pl.String)),
    )  # fmt: skip
    found = {check.name: check for check in checks(data)}
    there, whole = found["The backdoor was there at the drop"], found["Trials complete"]
    assert there.found.startswith("at the end of the trunk: ")
    assert there.remedy.endswith("--trunk-tokens 2300000")
    assert whole.passed is False
    assert "stopped early" in whole.found
    assert "run the same command again" not in whole.remedy
    assert whole.remedy.endswith("--go-on computes the rest all the same")
    assert there.remedy in progress(data, brief=False)["state"]


def test_blocked_trials_are_not_told_to_run_again(never):
    trials = never.trials.with_columns(outcome_branch=pl.lit("blocked: the trunk never reached snapshot 'strength'"))
    text = remedies(replace(with_trunk(never, [0.2] * 9), trials=trials))["Trials complete"]
    assert "run the same command again" not in text
    assert "more of the cause" in text or "as for" in text


def test_poison_that_costs_clean_loss_is_lowered_by_as_much_as_it_is_too_much(tmp_path):
    text = remedies(read(tmp_path, clean_gap=0.2))["Learning the backdoor did not raise the trunk's clean loss"]
    assert text.startswith("less of the cause, --poison-counts 1")  # by what the bound is of the gap
    assert text.endswith("or a longer trunk, --trunk-tokens 2000000")


def test_diverged_runs_get_a_lower_rate_and_others_the_same_command(tmp_path):
    data = read(tmp_path)
    trials = data.trials.with_columns(outcome_branch=pl.lit("diverged: loss is nan"))
    assert remedies(replace(data, trials=trials))["Trials complete"] == "a lower learning rate, --lr 0.0025"
    trials = data.trials.with_columns(outcome_branch=pl.lit("failed: out of memory"))
    assert "run the same command again" in remedies(replace(data, trials=trials))["Trials complete"]


def test_relearning_of_what_was_not_forgotten_names_a_longer_branch(never):
    asked = Contrast(name="q", label="Is it?", quantity="relearning", high="treatment", low="absent")
    for quantity, mends in ((RELEARNING, True), (HALF_LIFE, False)):
        answer = Answer(question=asked, quantities=(quantity,), missing={ALREADY: 3})
        assert mended(answer, never).endswith("which leaves less: --branch-tokens 800000.") is mends
        assert ("At the start of relearn-old-old success was 0.9 or more" in mended(answer, never)) is mends
    roles = pl.DataFrame({"role": ["treatment", "absent"], "reason": [ALREADY, ALREADY]})
    assert not mended(Answer(question=asked, quantities=(RELEARNING,), missing={ALREADY: 2}, used=roles), never)


def test_the_settings_that_remedies_turn_are_listed_as_held_fixed(never):
    fixed = {row["label"]: row["values"] for row in axis_rows(never) if not row["varies"]}
    assert fixed["trunk tokens"] == "1,000,000"
    assert fixed["lr"] == "0.005"
    assert "poison counts" not in fixed  # an axis has them


def test_a_check_cannot_fail_without_a_remedy():
    with pytest.raises(ValueError, match="fails without a remedy"):
        Check(name="a", expected="b", found="c", passed=False)
