"""What a verdict waits for, what it costs to settle it, and when none is claimed."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from analysis.answers.judging import answers, first_look
from analysis.answers.questions import ONLY_ABOVE
from analysis.answers.sentences import sentence
from analysis.answers.subjects import Shown
from analysis.answers.write import document
from analysis.stats.intervals import Interval
from halflife.tracking.questions import Crossing, Decay, Quantity, Trend
from halflife.tracking.schema import TAG_COMMAND, Control
from tests.analysis.answers.made import study
from tests.analysis.answers.test_answers import GLOW, SIZES, UP, WAYS, answer, interval, lamps

TIME = Quantity(name="time", label="the time to dim", measure="lamp/glow/lumens", transform="log",
                moment=Crossing(threshold=0.5))  # fmt: skip
SLOWS = Trend(name="g", label="Does size slow the dimming?", quantity="time", axis="parameters")
UNCLEAR = replace(WAYS, margin=0.02, reason="r", primary=True)


def dimming(half, seeds=6):
    """Lamps that dim exponentially with this half-life, or are dim at once (0), or never dim (infinite)."""

    def curves(row):
        at = half(row)
        level = [(step, 0.2 if not at else 2.0 ** (-step / at)) for step in range(2, 301, 2)]
        return {"lamp/glow/lumens": level}

    trials = [{"parameters": n, "seed": seed} for seed in range(seeds) for n in SIZES]
    return study(trials, curves, [TIME], [SLOWS])


@pytest.mark.parametrize("seeds", [1, 6])
def test_a_slope_of_bounds_alone_is_no_estimate(seeds):
    data = dimming(lambda row: math.inf, seeds)
    found = answers(data)[0]
    assert (found.word, interval(found)) == ("undecided", None)
    text = "the slope of the time to dim over parameters cannot be estimated, because all values over"
    assert f"{text} {seeds} seed" in sentence(found, data)


def test_what_had_dimmed_at_the_start_is_counted_where_a_slope_leaves_it_out():
    noise = dict(zip(SIZES, np.random.default_rng(0).normal(0, 0.05, (len(SIZES), 6)), strict=True))
    data = dimming(
        lambda row: 0 if row["seed"] == 2 and row["parameters"] == 1000
        else math.exp(noise[row["parameters"]][row["seed"]]) * math.sqrt(row["parameters"])
    )  # fmt: skip
    found = answers(data)[0]
    assert interval(found).contains(0.5)
    assert interval(found).count == 5
    assert found.missing == {ONLY_ABOVE: 1}
    assert f"1 of 24 trials have no number ({ONLY_ABOVE}: 1)" in sentence(found, data)


def test_an_undecided_question_says_the_seeds_the_hours_and_the_command():
    data = lamps([replace(UNCLEAR, margin=0.016)], looks=(5, 8, 12), noise=0.03, effect=-0.01)
    tags = data.sweep.tags | {TAG_COMMAND: "made.py laptop --seeds 3"}  # which --settle refuses
    data = replace(data, sweep=replace(data.sweep, tags=tags))
    summary = json.dumps({"seconds_computing": 900.0})
    trials = data.trials.with_columns(stage_lamp=pl.col("trial"), summary_lamp=pl.lit(summary))
    text = sentence(answers(replace(data, trials=trials))[0], replace(data, trials=trials))
    assert "look 2 of 3, at 8 seeds (looks at 5, 8, 12)" in text
    assert "in all if the true effect equals the margin" in text
    assert "12 to 33 seeds in all if the true effect equals the margin, 12 to 44 seeds if there is none" in text
    assert ", 8.0 to 72 more hours." in text  # a seed has 8 trials, each a quarter of an hour
    assert text.endswith(" Command: python made.py laptop --settle")


def test_without_looks_the_command_asks_for_the_seeds():
    found = answer(replace(UNCLEAR, margin=0.03))
    text = sentence(found, lamps([]))
    assert "Command: python made.py laptop --seeds " in text


def test_a_required_check_that_fails_leaves_no_verdict():
    missing = Control(kind="absent", label="never lit", role="absent")
    data = lamps([replace(WAYS, margin=0.1)], effect=1.0, controls=(missing,))
    found = answers(data)[0]
    assert (found.word, found.valid, found.invalid) == ("not valid", False, ("Controls ran",))
    assert "a required check fails (Controls ran)" in sentence(found, data)
    [row] = document(data)["questions"]
    assert (row["verdict"], row["valid"]) == ("not valid", False)


def test_while_a_sweep_runs_a_study_without_looks_is_judged_when_all_planned_seeds_are_there():
    data = lamps([UP], slope=1.0)
    running = replace(data, sweep=replace(data.sweep, status="RUNNING"))
    assert first_look(data) is None
    assert first_look(running) == 8
    early = replace(running, trials=running.trials.filter(pl.col("seed") < 6))
    found = answers(early)[0]
    assert found.word == "undecided"
    assert "(no interval)" in sentence(found, early)
    assert "no verdict before 8 seeds" in sentence(found, early)
    assert answers(running)[0].word == "effect"


def test_while_no_trial_of_a_question_is_there_it_has_no_verdict():
    data = lamps([replace(UP, primary=True)], slope=1.0)
    asked = replace(data, trials=data.trials.with_columns(role=pl.lit("absent")))
    running = replace(asked, sweep=replace(data.sweep, status="RUNNING"))
    [found] = answers(running)
    assert found.verdict is None or found.verdict.interval is None
    assert "no trial has been measured yet" in sentence(found, running)


def test_a_look_waits_for_the_last_trial_of_its_seeds():
    data = lamps([UP], slope=1.0, looks=(5, 8))
    ends = pl.when((pl.col("seed") == 4) & (pl.col("parameters") == SIZES[-1])).then(None).otherwise(pl.lit("complete"))
    trials = data.trials.with_columns(stage_lamp=pl.col("trial"), outcome_lamp=ends)
    running = replace(data, trials=trials, sweep=replace(data.sweep, status="RUNNING"))
    found = answers(running)[0].verdict
    assert found is not None
    assert (found.answer, found.look) == ("undecided", None)
    assert answers(replace(running, trials=data.trials))[0].word == "effect"


def test_a_decay_is_asked_about_the_setting_that_it_names(small):
    ask = Decay(name="d", label="How long?", outcome="attack", where={"arm": "equal-strength"})
    data = replace(small, declaration=replace(small.declaration, questions=(ask, replace(ask, name="e", where={}))))
    strong, plain = answers(data)
    assert set(strong.used["arm"]) == {"equal-strength"}
    assert set(plain.used["arm"]) == {"equal-exposure"}
    assert strong.further != plain.further


def test_primaries_are_corrected_by_holm_and_the_others_are_not():
    second = replace(WAYS, name="second", primary=True)
    data = lamps([replace(UP, primary=True), second, WAYS], slope=0.01, effect=0.02)
    one, two, alone = answers(data)
    found = [p for answer in (one, two) if answer.verdict and (p := answer.verdict.p) is not None]
    assert sorted(p for p in (one.p, two.p) if p) == pytest.approx(
        [min(1, 2 * min(found)), max(2 * min(found), max(found))]
    )
    assert ", by Holm" in sentence(one, data)
    assert ", by Holm" not in sentence(alone, data)
    assert GLOW.label in sentence(alone, data)


@pytest.mark.parametrize(
    ("low", "high", "scale", "factor", "said"),
    [
        (-math.inf, -0.5, 1.0, True, "at most 0.301 (its interval ends at 0.607)"),
        (0.5, math.inf, 1.0, True, "at least 0.301 (its interval begins at 1.65)"),
        (-math.inf, -0.5, 1.0, False, "at most -1.20 (its interval ends at -0.500)"),
        (-math.inf, -0.5, -1.0, False, "at least 1.20 (its interval begins at 0.500)"),
    ],
)
def test_a_bound_is_told_as_one(low: float, high: float, scale: float, factor: bool, said: str):
    found = Interval(estimate=-1.2, low=low, high=high, count=5)
    assert Shown("", scale=scale, factor=factor).interval(found) == said
