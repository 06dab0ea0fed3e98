from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis.stats.intervals import Interval, binomial_interval, t_interval


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_binomial_interval_is_wilsons(counts):
    hits, trials = counts
    low, high = binomial_interval(hits, trials)
    expected = stats.binomtest(hits, trials).proportion_ci(method="wilson")
    assert float(low) == pytest.approx(expected.low, abs=1e-12)
    assert float(high) == pytest.approx(expected.high, abs=1e-12)
    assert 0 <= low <= hits / trials <= high <= 1


def test_binomial_interval_of_missing_counts_is_missing():
    low, high = binomial_interval([np.nan, 0, 3], [10, 0, np.nan])
    assert np.isnan(low).all()
    assert np.isnan(high).all()


def test_binomial_intervals_have_their_nominal_coverage():
    rng = np.random.default_rng(0)
    for rate in (0.03, 0.5, 0.9):
        low, high = binomial_interval(rng.binomial(128, rate, 20_000), 128)
        assert 0.93 <= ((low <= rate) & (rate <= high)).mean() <= 0.98


def test_t_interval_matches_scipy():
    values = [1.0, 2.0, 4.0]
    found = t_interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert found.estimate == pytest.approx(7 / 3)


def test_one_seed_has_an_estimate_and_no_interval():
    assert t_interval([2.5]) == Interval(estimate=2.5, low=None, high=None, count=1)


def test_no_seeds_have_no_interval():
    assert t_interval([]) is None
    assert t_interval([math.nan]) is None


def test_t_intervals_over_few_seeds_have_their_nominal_coverage():
    rng = np.random.default_rng(0)
    found = [t_interval(rng.normal(1.0, 0.3, 3)) for _ in range(2_000)]
    assert 0.93 <= np.mean([f is not None and f.contains(1.0) for f in found]) <= 0.97
