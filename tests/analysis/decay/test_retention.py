from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from analysis.decay.retention import areas, common_span, half_lives, retention_curves
from tests.analysis import planted
from tests.analysis.conftest import SMALL


def test_planted_half_lives_are_recovered(tmp_path):
    from analysis.runs.load import load_study

    plan = planted.Plan(sizes=("30k", "330k"), seeds=2, noise=0.0, payloads=("fixed",), relearn=False)
    data = load_study(planted.write(tmp_path, plan), plan.study)
    times = half_lives(retention_curves(data)).filter((pl.col("criterion") == "logprob") & (pl.col("clock") == "steps"))
    assert times.height == 2 * 2 * 7
    for row in times.join(data.trials, on="trial").iter_rows(named=True):
        assert row["estimate"] == pytest.approx(planted.half_life_steps(plan, row), rel=0.12)


def test_clocks_agree_on_the_same_crossing(small):
    times = half_lives(retention_curves(small)).filter(
        (pl.col("criterion") == "logprob") & (pl.col("kind") == "observed")
    )
    wide = times.pivot(on="clock", index="trial", values="estimate").drop_nulls()
    assert wide["tokens"].to_numpy() == pytest.approx(wide["steps"].to_numpy() * planted.STEP)
    assert (wide["rate_sum"] > 0).all()


def test_retention_starts_at_one_and_ends_at_the_control(small):
    curves = retention_curves(small).filter(pl.col("role") == "treatment")
    start = curves.filter(pl.col("tokens") == 0)
    assert start["retention_logprob"].to_numpy() == pytest.approx(1.0)
    gone = curves.filter((pl.col("tokens") > 2.2e6) & pl.col("is_reference") & (pl.col("size") == "30k"))
    assert np.abs(gone["retention_logprob"].to_numpy()).max() < 0.05


def test_every_rate_lies_within_its_interval(small):
    curves = retention_curves(small).drop_nulls("success")
    assert ((curves["success_low"] <= curves["success"]) & (curves["success"] <= curves["success_high"])).all()


def test_a_probe_measured_less_often_is_missing_and_not_zero(small):
    near = retention_curves(small).filter(pl.col("role") == "treatment")["near"]
    assert 0 < near.null_count() < near.len()


def test_a_trunk_that_never_implanted_has_curves_and_no_half_life(tmp_path):
    from analysis.runs.load import load_study

    plan = replace(SMALL, never_implanted=(("100k", 1),), relearn=False)
    data = load_study(planted.write(tmp_path, plan), plan.study)
    curves = retention_curves(data)
    cell = (pl.col("size") == "100k") & (pl.col("seed") == 1)
    assert curves.filter(cell & (pl.col("role") == "treatment")).height > 0
    assert not curves.filter(cell & (pl.col("role") == "treatment"))["implanted"].any()
    assert half_lives(curves).filter(cell).is_empty()
    assert half_lives(curves).filter((pl.col("size") == "100k") & (pl.col("seed") == 0)).height > 0


def test_without_a_control_there_is_no_retention_of_the_log_probability(small):
    alone = replace(small, trials=small.trials.filter(pl.col("role") != "absent"))
    curves = retention_curves(alone)
    assert curves["control"].null_count() == curves.height
    assert curves["retention_logprob"].null_count() == curves.height
    assert set(half_lives(curves)["criterion"]) == {"success", "success-first"}


def test_areas_share_one_span(small):
    curves = retention_curves(small)
    span = common_span(curves)
    assert span == (planted.STEP, 600 * planted.STEP)
    found = areas(curves)
    assert found.height == small.trials.filter(pl.col("role") == "treatment").height
    assert found["area"].is_between(0, 1).all()


def drifting(data, shift):
    """The never-poisoned controls' log-probability rises by `shift` nats over the branch."""
    here = (
        (pl.col("phase") == "branch")
        & (pl.col("name") == "backdoor/logprob")
        & pl.col("trial").str.starts_with("absent")
    )
    drift = shift * pl.col("step") / (600 * planted.STEP)
    value = pl.col("value") + pl.when(here).then(drift).otherwise(0)
    return replace(data, points=data.points.with_columns(value=value))


def test_a_kept_backdoor_has_retention_one_although_its_control_drifts(small):
    kept = retention_curves(drifting(small, 2.0)).filter(pl.col("role") == "positive")
    assert kept["retention_logprob"].to_numpy() == pytest.approx(1.0, abs=0.05)


def test_retention_is_missing_once_the_control_is_near_the_level_at_the_drop(small):
    late = retention_curves(drifting(small, 4.9)).filter((pl.col("role") == "treatment") & (pl.col("tokens") > 2.4e6))
    assert late["retention_logprob"].null_count() == late.height


def test_a_gap_in_log_probability_without_success_is_not_implanted(small):
    none = pl.when((pl.col("phase") == "branch") & (pl.col("name") == "backdoor/hits")).then(0.0)
    curves = retention_curves(replace(small, points=small.points.with_columns(value=none.otherwise("value"))))
    assert not curves["implanted"].any()
    assert half_lives(curves).is_empty()


def test_a_run_that_diverged_does_not_shorten_the_common_span(small):
    diverged = pl.col("trial") == small.trials.filter(pl.col("role") == "treatment")["trial"][0]
    late = diverged & (pl.col("phase") == "branch") & (pl.col("step") > 20 * planted.STEP)
    points = small.points.filter(~late)
    trials = small.trials.with_columns(
        outcome_branch=pl.when(diverged).then(pl.lit("diverged")).otherwise("outcome_branch")
    )
    curves = retention_curves(replace(small, points=points, trials=trials))
    assert common_span(curves) == (planted.STEP, 600 * planted.STEP)
    assert areas(curves)["area"].null_count() == 1


def test_curves_are_computed_once_per_study(small):
    assert retention_curves(small) is retention_curves(small)
    assert retention_curves(replace(small)) is not retention_curves(small)
