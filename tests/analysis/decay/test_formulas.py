from __future__ import annotations

import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.decay.formulas import MIN_GAP, area, crossing, final_retention, mean_retention, retention
from analysis.decay.retention import areas, retention_curves
from analysis.runs.study import StudyData
from tests.analysis import planted

TIME = np.array(planted.cadence(400), dtype=float)


@given(st.floats(2.0, 300.0))
def test_half_life_of_an_exponential_lies_between_its_evaluations(half_life):
    found = crossing(TIME, 2.0 ** (-TIME / half_life))
    assert found is not None
    assert found.kind == "observed"
    assert found.low <= half_life <= found.high
    assert found.estimate == pytest.approx(half_life, rel=0.02)


@given(st.floats(401.0, 1e6))
def test_a_half_life_not_reached_is_censored_and_has_no_estimate(half_life):
    found = crossing(TIME, 2.0 ** (-TIME / half_life))
    assert found is not None
    assert (found.kind, found.low, found.high, found.estimate) == ("censored", 400.0, None, None)


def test_first_and_sustained_crossings_differ_if_a_curve_bounces():
    clock = np.array([0, 16, 24, 32, 48, 64.0])
    success = np.array([1.0, 0.98, 0.31, 0.92, 0.83, 0.00])  # one real run
    first, sustained = crossing(clock, success), crossing(clock, success, sustained=True)
    assert first is not None
    assert sustained is not None
    assert (first.low, first.high) == (16, 24)
    assert (sustained.low, sustained.high) == (48, 64)


def test_a_curve_that_ends_above_the_threshold_has_no_sustained_crossing():
    found = crossing(np.arange(4.0), np.array([1.0, 0.2, 0.3, 0.9]), sustained=True)
    assert found is not None
    assert found.kind == "censored"


def test_a_crossing_before_the_first_evaluation_is_interpolated_from_zero():
    found = crossing(np.array([0.0, 4.0]), np.array([1.0, 0.0]))
    assert found is not None
    assert found.estimate == pytest.approx(2.0)


def test_a_curve_below_from_the_start_has_no_time():
    found = crossing(np.array([0.0, 1.0]), np.array([0.1, 0.0]))
    assert found is not None
    assert (found.kind, found.estimate) == ("at-start", None)


def test_missing_values_are_skipped_and_too_few_points_give_nothing():
    nan = np.nan
    found = crossing(np.array([0, 1, 2, 4.0]), np.array([1.0, nan, 0.75, 0.25]))
    assert found is not None
    assert (found.low, found.high) == (2, 4)
    assert crossing(np.array([0.0, 1.0]), np.array([1.0, nan])) is None


@given(st.floats(0.05, 1.0))
def test_area_of_a_constant_is_the_constant(level):
    assert area(TIME, np.full(TIME.size, level), 2.0, 300.0) == pytest.approx(level)


def test_area_is_over_log_time():
    # Linear in log time from 1 to 0: its mean is one half at any spacing of the evaluations.
    found = area(TIME, 1 - np.log(np.maximum(TIME, 1)) / np.log(400), 1.0, 400.0)
    assert found == pytest.approx(0.5, abs=1e-9)


def test_area_of_a_curve_that_ends_before_the_horizon_is_missing():
    assert area(TIME, np.ones(TIME.size), 1.0, 500.0) is None


def series(data: StudyData, trial: str) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and log-probability of a trial's branch, as a search reads them."""
    own = (pl.col("trial") == trial) & (pl.col("phase") == "branch") & (pl.col("name") == "backdoor/logprob")
    points = data.points.filter(own).sort("step")
    return points["step"].to_numpy(), points["value"].to_numpy()


def test_a_searchs_retention_is_the_reports(small):
    curves = retention_curves(small)
    treated = curves.filter(pl.col("role") == "treatment")
    reported = dict(areas(curves).select("trial", "area").iter_rows())
    last = dict(treated.group_by("trial").agg(pl.col("retention_logprob").last()).iter_rows())
    pairs = dict(treated.select("trial", "absent").unique().iter_rows())
    assert len(pairs) > 10
    for trial, absent in pairs.items():
        own, control = series(small, trial), series(small, absent)
        assert mean_retention(*own, *control) == pytest.approx(reported[trial], abs=1e-12)
        assert own[0][-1] == control[0][-1]
        assert final_retention(own[1], control[1]) == pytest.approx(last[trial], abs=1e-12)


def test_without_a_gap_to_the_control_there_is_no_retention():
    levels = np.array([-1.0, -2.0, -3.0])
    assert retention(levels, levels[0] - MIN_GAP) == pytest.approx([1.0, -1.0, -3.0])
    assert np.isnan(retention(levels, levels[0] - 0.9 * MIN_GAP)).all()
    drifting = np.array([-4.0, -4.0, -1.1])
    assert np.isnan(retention(levels, drifting)).tolist() == [False, False, True]
    tokens = np.array([0, 1, 2])
    assert np.isnan(mean_retention(tokens, levels, tokens, drifting))
    assert np.isnan(final_retention(levels, drifting))


def test_the_formulas_need_numpy_and_polars_alone():
    code = "import sys, analysis.decay.formulas; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"numpy", "polars"} <= set(loaded)
    assert not {"scipy", "matplotlib", "mlflow", "pandas", "lifelines", "halflife", "torch"} & set(loaded)
