from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from analysis.decay.savings import PAIRS, interactions, log_savings, relearning_times, savings_summary
from tests.analysis import planted


def test_planted_savings_are_recovered(full):
    summary = savings_summary(relearning_times(full)).filter(pl.col("threshold") == 0.5)
    ratio = dict(zip(summary["pair"], summary["ratio"], strict=True))
    for pair in PAIRS:
        assert ratio[pair] == pytest.approx(72 / planted.PAIRS[pair], rel=0.12)
    own = summary.row(by_predicate=pl.col("pair") == "own", named=True)
    assert own["low"] < (72 / 16) / ((72 / 44) * (72 / 52)) < own["high"]
    assert own["seeds"] == 5


def test_the_interaction_of_additive_savings_is_zero():
    rows = [
        {"trial": "t", "size": "s", "parameters": 1, "seed": 0, "setting": "", "pair": pair,
         "saving": 0.3 * pair.startswith("old") + 0.5 * pair.endswith("old")}
        for pair in PAIRS
    ]  # fmt: skip
    assert interactions(pl.DataFrame(rows))["own"].item() == pytest.approx(0.0)


def test_the_interaction_adds_the_old_and_new_pairs_and_subtracts_the_mixed_ones():
    savings = {"old-old": 1.5, "new-old": 0.4, "old-new": 0.3, "new-new": 0.05}
    rows = [
        {"trial": "t", "size": "s", "parameters": 1, "seed": 0, "setting": "", "pair": pair, "saving": saving}
        for pair, saving in savings.items()
    ]
    assert interactions(pl.DataFrame(rows))["own"].item() == pytest.approx(1.5 - 0.4 - 0.3 + 0.05)
    assert interactions(pl.DataFrame(rows[:3])).is_empty()


def test_a_pair_that_is_not_relearned_is_censored_and_gives_no_saving(small):
    points = small.points.filter(
        ~(
            (pl.col("phase") == "relearn-new-new")
            & pl.col("trial").str.starts_with("absent")
            & (pl.col("step") > 8 * planted.STEP)
        )
    )
    times = relearning_times(replace(small, points=points))
    cut = times.filter((pl.col("pair") == "new-new") & (pl.col("role") == "absent"))
    assert set(cut["kind"]) == {"censored"}
    assert cut["estimate"].null_count() == cut.height
    savings = log_savings(times)
    assert (
        savings.filter(pl.col("pair") == "new-new")["saving"].null_count()
        == savings.filter(pl.col("pair") == "new-new").height
    )
    bound = savings.filter(pl.col("pair") == "new-new")
    assert set(bound["saving_kind"]) == {"at least"}
    reached = times.filter(
        (pl.col("pair") == "new-new") & (pl.col("role") == "treatment") & (pl.col("threshold") == 0.5)
    )
    expected = (8 * planted.STEP / reached["estimate"]).log()
    assert bound["saving_bound"].to_list() == pytest.approx(expected.to_list())
    assert interactions(savings).is_empty()
    summary = savings_summary(times).filter(pl.col("threshold") == 0.5)
    assert summary.row(by_predicate=pl.col("pair") == "own", named=True)["ratio"] is None


def test_a_control_that_never_learns_is_a_bound_in_the_mean_and_is_not_dropped(full):
    """Seed 0's controls learn the pair last of all: without them the saving would be too small."""
    times = relearning_times(full).filter(pl.col("threshold") == 0.5)
    slow = (pl.col("pair") == "new-new") & (pl.col("role") == "absent") & (pl.col("seed") == 0)
    last = 20 * pl.col("estimate")
    late = times.with_columns(
        kind=pl.when(slow).then(pl.lit("censored")).otherwise("kind"), low=pl.when(slow).then(last).otherwise("low"),
        high=pl.when(~slow).then("high"), estimate=pl.when(~slow).then("estimate"),
    )  # fmt: skip
    whole, cut = (savings_summary(each).row(by_predicate=pl.col("pair") == "new-new", named=True)
                  for each in (times, late))  # fmt: skip
    assert (whole["seeds"], cut["seeds"]) == (5, 5)
    assert cut["ratio"] > 1.3 * whole["ratio"]  # at least 20 times longer in a fifth of the seeds: a factor of 1.8
    assert cut["censored"] > 0


def test_a_skill_that_is_still_there_has_no_relearning_time(small):
    here = (pl.col("phase") == "relearn-old-old") & (pl.col("name") == "backdoor/hits") & (pl.col("step") == 0)
    points = small.points.with_columns(value=pl.when(here).then(128.0).otherwise("value"))
    times = relearning_times(replace(small, points=points)).filter(pl.col("pair") == "old-old")
    assert set(times["kind"]) == {"at-start"}
    assert times["estimate"].null_count() == times.height


def test_a_trunk_that_never_learned_the_backdoor_is_left_out_of_the_savings(rough):
    times = relearning_times(rough).filter(pl.col("role") == "treatment")
    cells = set(times.select("size", "seed").iter_rows())
    assert ("100k", 1) not in cells
    assert ("100k", 0) in cells


def test_reaching_a_threshold_counts_when_it_is_just_met():
    rows = [
        ("t", "relearn-old-old", step, f"backdoor/{name}", value)
        for step, hits in ((0, 0.0), (10, 64.0), (20, 64.0))
        for name, value in (("hits", hits), ("trials", 128.0))
    ]
    points = pl.DataFrame(rows, schema=["trial", "phase", "step", "name", "value"], orient="row")
    trials = pl.DataFrame(
        {"trial": ["t"], "name": ["t"], "role": ["treatment"], "size": ["30k"], "parameters": [30_000], "seed": [0]}
    )
    from analysis.runs.records import Run
    from analysis.runs.study import StudyData

    run = Run(id="r", name="", experiment="1", status="", started=0, ended=None, artifacts="", tags={}, params={})
    data = StudyData(
        declaration=planted.declaration(planted.Plan()), sweep=run, totals={}, trials=trials, points=points,
        parameters=("size", "parameters", "seed"),
    )  # fmt: skip
    times = relearning_times(data)
    half = times.row(by_predicate=pl.col("threshold") == 0.5, named=True)
    assert half["kind"] == "observed"
    assert half["estimate"] == pytest.approx(10.0)
    assert np.isnan(times.row(by_predicate=pl.col("threshold") == 0.9, named=True)["estimate"] or np.nan)
