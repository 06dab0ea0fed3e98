"""Means over seeds where too many values are only bounds to impute them: valid whatever lies behind the bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.stats.estimates import Censored, Estimates
from analysis.stats.intervals import t_interval
from analysis.stats.verdicts import Question, judge


def differences(low: np.ndarray, high: np.ndarray) -> Estimates:
    values = np.where(np.isfinite(low), low, high)
    return Estimates(values=values, censored=Censored(x=np.zeros(1), low=low[:, None], high=high[:, None]))


def test_differences_that_are_mostly_upper_bounds_show_an_effect_below():
    """Half-lives of which the longer one mostly outlasts the runs: ln ratios of five seeds."""
    high = np.array([-1.88, -0.87, -1.15, -1.28, -0.64])
    low = np.where([True, False, True, True, False], -np.inf, high)
    [verdict] = judge([Question(estimates=differences(low, high), margin=0.22)])
    assert verdict.answer == "effect"
    expected = t_interval(high)
    assert expected is not None
    assert verdict.interval is not None
    assert (verdict.interval.low, verdict.interval.high) == (-np.inf, pytest.approx(expected.high))
    assert verdict.interval.estimate == pytest.approx(high.mean())


def test_bounds_from_above_never_show_an_effect_above_nor_equivalence():
    high = np.array([0.9, 1.0, 1.1, 1.0, 0.95])
    for sign in (1.0, 0.01):
        [verdict] = judge([Question(estimates=differences(np.full(5, -np.inf), sign * high), margin=0.5)])
        assert verdict.answer == "undecided"


def test_without_any_bound_on_one_side_there_is_no_estimate():
    low, high = np.array([-np.inf, 0.5, 0.6]), np.array([0.1, np.inf, np.inf])
    assert differences(low, high).at(3).interval(2.0) is None


@given(st.integers(0, 2**32 - 1), st.integers(2, 12))
@settings(deadline=None, max_examples=50)
def test_the_interval_from_bounds_contains_that_of_the_values_behind_them_on_the_censored_side(seed: int, count: int):
    rng = np.random.default_rng(seed)
    x = np.log([3e4, 1e5, 3e5])
    behind = rng.normal(11, 0.5, (count, 3))
    high = np.full((count, 3), np.inf)
    end = np.quantile(behind, 0.4)
    late = behind > end
    low = np.where(late, end, behind)
    known = np.where(late, high, behind)
    estimates = Estimates(values=np.zeros(count), censored=Censored(x=x, low=low, high=known))
    evidence = estimates.at(count)
    if evidence.bounds is None:
        return
    weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    slopes = behind @ weights
    below, above = evidence.bounds
    assert (below <= slopes + 1e-12).all()
    assert (slopes <= above + 1e-12).all()


def test_false_effects_stay_below_five_percent_with_most_values_censored():
    """No difference, and runs that end where 60 % of the longer times are not over: 2,000 data sets of 8 seeds."""
    rng = np.random.default_rng(0)
    false = 0
    for _ in range(2000):
        treatment, control = rng.normal(12, 0.5, 8), rng.normal(12, 0.5, 8)
        seen = np.minimum(treatment, 11.87)
        high = control - seen
        low = np.where(treatment > 11.87, -np.inf, high)
        [verdict] = judge([Question(estimates=differences(low, high))])
        false += verdict.answer == "effect"
    assert false <= 0.05 * 2000 + 2.6 * (2000 * 0.05 * 0.95) ** 0.5
