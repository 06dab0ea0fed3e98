from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.errors import UserError
from analysis.fitting.fit import by_group, fit, fit_many
from analysis.fitting.groups import last_seen
from analysis.fitting.intervals import HalfLife, cluster_bootstrap, intervals
from analysis.fitting.objectives import Binomial, Gaussian, Huber
from analysis.fitting.observations import Observations
from analysis.fitting.problem import Problem
from analysis.fitting.profile import coordinate, profile
from analysis.fitting.result import Fit
from analysis.laws import LAWS
from analysis.stats.imputation import augment, few_censored, interval_over_seeds, mean_over_seeds, slopes_over_seeds
from analysis.stats.intervals import Interval, t_interval

STEPS = np.array([0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192.0])
TRUTH = np.array([0.95, 30.0, 0.2])
LAW = LAWS["exponential_floor"]


def known(found: Interval | HalfLife | None) -> np.ndarray:
    """estimate, low and high of an interval that has them."""
    assert found is not None
    assert found.estimate is not None
    assert found.low is not None
    assert found.high is not None
    return np.array([found.estimate, found.low, found.high])


def width(found: Interval | HalfLife | None) -> float:
    return float(known(found)[2] - known(found)[1])


def counted(seed: int = 0, seeds: int = 0) -> Fit:
    """One run, or several seeds with different half-lives."""
    rng = np.random.default_rng(seed)
    many = max(seeds, 1)
    theta = np.tile(TRUTH, (many, 1))
    theta[:, 1] *= np.exp((0.3 if seeds else 0.0) * rng.standard_normal(many))
    hits = rng.binomial(200, LAW.value(theta, STEPS[:, None])).astype(float).ravel()
    group = np.repeat(np.arange(many), STEPS.size) if seeds else None
    data = Observations(x=np.tile(STEPS, many), hits=hits, trials=np.full(hits.size, 200.0), group=group)
    return fit(LAW, data, objective=Binomial(), starts=32)


def noisy(noise: float, seed: int = 0, error=None, n: int = 12) -> Fit:
    rng = np.random.default_rng(seed)
    x = np.geomspace(1, 100, n)
    return fit(LAWS["log"], Observations(x=x, y=10 - 0.5 * np.log(x) + noise * rng.standard_normal(n)), objective=error)


def test_the_profile_of_a_line_is_its_t_interval():
    made = noisy(0.1)
    x, y = np.log(made.observations.x[:, 0]), made.observations.response
    design = np.column_stack([np.ones(x.size), -x])
    theta, (squares,), *_ = np.linalg.lstsq(design, y)
    error = np.sqrt(np.linalg.inv(design.T @ design)[1, 1] * squares / (x.size - 2))
    half_width = stats.t.ppf(0.975, x.size - 2) * error
    expected = theta[1] + half_width * np.array([0, -1, 1])
    assert known(intervals(made).parameters["b"]) == pytest.approx(expected, abs=1e-4 * half_width)


def test_the_likelihood_at_the_ends_of_a_profile_is_lower_by_half_a_chi_square():
    made = counted()
    found = intervals(made)
    for name, ends in found.parameters.items():
        for end in known(ends)[1:]:
            held = fit_many(LAW, made.observations, fixed={name: end}, around=made)
            assert held.objective[0] - made.objective == pytest.approx(1.9207, rel=5e-3)


def test_the_half_life_has_its_own_profile_that_holds_the_planted_one():
    half = intervals(counted()).half_life
    estimate, low, high = known(half)
    assert not getattr(half, "censored", True)
    assert low < float(np.asarray(LAW.half_life(TRUTH))) < high
    assert low < estimate < high


def test_a_half_life_beyond_the_data_is_censored_and_one_never_reached_has_no_estimate():
    data = counted().observations
    early = fit(LAWS["exponential"], data.take(data.x[:, 0] <= 12))
    late = intervals(early).half_life
    assert late is not None
    assert late.censored
    assert known(late)[0] > 12
    never = intervals(fit(LAWS["constant"], data)).half_life
    assert never is not None
    assert (never.estimate, never.low, never.high, never.censored) == (None, None, None, True)


def test_a_floor_that_may_be_zero_has_an_interval_from_zero():
    hits = np.round(200 * 0.95 * np.exp(-STEPS / 20))
    made = fit(LAW, Observations(x=STEPS, hits=hits, trials=np.full(STEPS.size, 200.0)))
    assert intervals(made).parameters["f"].low == 0


def test_an_end_that_the_data_do_not_bound_is_none():
    hits = np.round(200 * 0.9 * np.exp(-STEPS / 30))  # no heavy tail: its exponent has no upper bound
    made = fit(LAWS["shifted_power"], Observations(x=STEPS, hits=hits, trials=np.full(STEPS.size, 200.0)))
    found = intervals(made).parameters["b"]
    assert found.low is not None
    assert found.high is None


def test_data_without_noise_have_an_interval_of_almost_no_width():
    ends = known(intervals(noisy(0.0)).parameters["b"])
    assert ends == pytest.approx(np.full(3, 0.5), abs=1e-6)
    assert ends[1] <= 0.5 + 1e-9
    assert ends[2] >= 0.5 - 1e-9


def test_every_group_is_fitted_and_students_t_taken_over_groups():
    made = counted(seeds=4)
    found = intervals(made)
    halves = []
    for seed in range(4):
        own = made.observations.take(made.observations.group == seed)
        halves.append(fit(LAW, Observations(x=own.x, hits=own.hits, trials=own.trials)).half_life)
    expected = np.exp(known(t_interval(np.log(halves))))
    assert known(found.half_life) == pytest.approx(expected, rel=1e-4)
    assert found.parameters["a"].count == 4
    assert "t over 4 groups" in found.method.lower()


def test_intervals_over_groups_stay_within_the_bounds_of_the_law():
    floors, many = np.array([0.0, 0.0, 0.5]), 3
    theta = np.stack([np.full(many, 0.95), np.full(many, 30.0), floors], axis=1)
    y = LAW.value(theta, STEPS[:, None]).ravel()
    y = y + 0.01 * np.random.default_rng(0).standard_normal(y.size)
    group = np.repeat(np.arange(many), STEPS.size)
    made = fit(LAW, Observations(x=np.tile(STEPS, many), y=y, group=group), starts=32)
    whole = intervals(made)
    assert whole.half_life is not None
    assert whole.half_life.high is None  # beyond the largest number
    found = known(whole.parameters["f"])
    half_width = known(t_interval(by_group(made).theta[:, 2]))
    low = LAW.bounds[0][2]
    assert half_width[1] < low
    assert found == pytest.approx([half_width[0], low, min(half_width[2], LAW.bounds[1][2])])


def test_groups_at_one_size_each_are_jackknifed_which_for_a_mean_is_the_t_interval():
    rng = np.random.default_rng(0)
    y = np.repeat(rng.normal(5, 1, 6), 2)
    x = np.geomspace(1, 10, 6).repeat(2)
    made = fit(LAWS["constant"], Observations(x=x, y=y, group=np.repeat(np.arange(6), 2)))
    found = intervals(made)
    assert "jackknife" in found.method
    assert known(found.parameters["a"]) == pytest.approx(known(t_interval(y[::2])))


def test_a_bootstrap_of_few_groups_or_replicates_is_refused_and_says_why():
    with pytest.raises(UserError, match=r"cannot bootstrap 4 groups: expected at least 10"):
        cluster_bootstrap(counted(seeds=4), 1000)
    with pytest.raises(UserError, match=r"99 bootstrap replicates: expected at least 100"):
        cluster_bootstrap(counted(), 99)


def test_the_bootstrap_resamples_groups_and_not_rows():
    """Repeating a row within its group adds no data."""
    y = np.random.default_rng(2).normal(5, 1, 12)
    once = fit(LAWS["constant"], Observations(x=np.arange(12.0), y=y))
    repeated = Observations(x=np.arange(48.0), y=y.repeat(4), group=np.arange(12).repeat(4))
    rows, groups = (cluster_bootstrap(made, 500) for made in (once, fit(LAWS["constant"], repeated)))
    assert known(groups.parameters["a"]) == pytest.approx(known(rows.parameters["a"]))
    assert (rows.method, groups.method) == (
        "bootstrap over 12 rows, 500 replicates", "bootstrap over 12 groups, 500 replicates",
    )  # fmt: skip


def test_the_bootstrap_of_a_half_life_holds_the_planted_one_and_is_open_where_draws_never_reach_half():
    made = counted()
    estimate, low, high = known(cluster_bootstrap(made, 400).half_life)
    assert low < float(np.asarray(LAW.half_life(TRUTH))) < high
    assert estimate == made.half_life
    y = 0.49 + 0.5 * np.exp(-STEPS / 20) + 0.05 * np.random.default_rng(1).standard_normal(STEPS.size)
    half = cluster_bootstrap(fit(LAW, Observations(x=STEPS, y=y), starts=32), 400).half_life
    assert half is not None
    assert half.low is not None
    assert half.high is None


def test_the_bootstrap_of_a_mean_is_as_wide_as_its_t_interval():
    y = np.random.default_rng(1).normal(5, 1, 12)
    made = fit(LAWS["constant"], Observations(x=np.arange(12.0), y=y))
    assert width(cluster_bootstrap(made, 4000).parameters["a"]) == pytest.approx(width(t_interval(y)), rel=0.06)


def test_profiles_under_hubers_loss_are_wider_than_least_squares_by_its_efficiency_under_normal_noise():
    widths = {}
    for error in (Gaussian(log=True), Huber(delta=1e-3)):
        found = [intervals(noisy(0.1, seed, error, n=40)).parameters["b"] for seed in range(12)]
        widths[error.name] = np.median([width(each) for each in found])
    assert 1.0 < widths["huber"] / widths["lognormal"] < 1.7  # least absolute values: sqrt(pi / 2) = 1.25


def test_profiles_of_many_replicates_equal_those_of_each():
    rng = np.random.default_rng(3)
    hits = rng.binomial(200, LAW.value(TRUTH, STEPS[:, None]), (3, STEPS.size)).astype(float)
    data = Observations(x=STEPS, hits=hits[0], trials=np.full(STEPS.size, 200.0))
    fits = fit_many(LAW, data, hits=hits)
    problem = Problem(LAW, Binomial(), data, hits=hits)
    together = profile(problem, problem.solved(fits.theta), [coordinate(problem, 1)])[0]
    for row in range(3):
        data = Observations(x=STEPS, hits=hits[row], trials=np.full(STEPS.size, 200.0))
        made = fit(LAW, data, objective=Binomial())
        alone = known(intervals(made).parameters["T"])[1:]
        assert np.exp([together.low[row], together.high[row]]) == pytest.approx(alone, rel=1e-3)


def test_a_run_with_all_hits_at_the_drop_is_not_fitted_with_a_rate_above_one():
    hits = [128, 119, 115, 121, 117, 97, 108, 115, 74, 109, 97, 97, 108, 90, 72, 67]
    made = fit(LAW, Observations(x=STEPS, hits=np.array(hits), trials=np.full(STEPS.size, 128.0)))
    assert made.parameters["a"] < 1.1
    assert made.half_life is not None
    assert made.half_life > 16


X = np.log([1e5, 3e5, 1e6, 3e6])


@settings(max_examples=20)
@given(st.integers(2, 8), st.integers(0, 10_000))
def test_without_censoring_the_slope_over_seeds_is_the_t_interval_over_one_slope_per_seed(seeds, seed):
    y = np.random.default_rng(seed).normal(size=(seeds, X.size))
    expected = t_interval([np.polyfit(X, row, 1)[0] for row in y])
    assert known(interval_over_seeds(X, y, y)) == pytest.approx(known(expected))


def test_imputation_moves_slopes_beyond_those_at_the_bounds_and_widens_their_intervals():
    """In every data set the slope rises; the interval is wider in most, and in the median by a tenth at least."""
    rng = np.random.default_rng(0)
    y = 0.5 * (X - X[0]) + rng.normal(0, 0.2, (100, 5, 4))
    cut = 1.6
    low, high = np.minimum(y, cut), np.where(y > cut, np.inf, y)
    some = (y > cut).any(axis=(1, 2)) & few_censored(y > cut)
    at_bound, found = (slopes_over_seeds(X, low[some], ends[some]) for ends in (low, high))
    assert some.sum() > 50
    assert (found[0] > at_bound[0]).all()
    wider = (found[2] - found[1]) / (at_bound[2] - at_bound[1])
    assert np.median(wider) > 1.1
    assert (wider > 1).mean() > 0.6


def test_a_missing_value_does_not_move_a_slope_that_the_others_determine():
    y = 0.5 * X + np.array([[-0.1], [0.0], [0.2]])
    low, high = y.copy(), y.copy()
    low[0, 1], high[0, 1] = -np.inf, np.inf
    assert interval_over_seeds(X, low, high).estimate == pytest.approx(0.5, abs=1e-3)


def test_the_mean_of_interval_censored_values_lies_between_the_means_of_their_bounds():
    low, high = np.array([1.0, 1.2, 0.9, 2.0]), np.array([1.1, 1.3, 1.0, 2.5])
    found = mean_over_seeds(low, high)
    assert low.mean() < found.estimate < high.mean()


def test_draws_are_reproducible():
    low, high = np.array([[1.0, 2.0], [1.5, 1.8]])[None], np.array([[1.0, np.inf], [1.5, 1.8]])[None]
    first, again = (augment(X[:2], low, high, seed=3).centre for _ in range(2))
    assert np.array_equal(first, again)


def test_data_sets_with_much_censoring_have_no_slope():
    y = np.random.default_rng(0).normal(size=(2, 3, 4))
    high = y.copy()
    high[0, :, 1:] = np.inf
    _, low_end, high_end = slopes_over_seeds(X, y, high)
    assert (low_end[0], high_end[0]) == (-np.inf, np.inf)
    assert np.isfinite([low_end[1], high_end[1]]).all()


def test_a_group_with_a_shorter_run_is_censored_at_its_own_end():
    """Four runs with a half-life of 20, one of which ended at 15: later evaluations of the others do not inform it."""
    x = np.concatenate([np.geomspace(0.5, 15 if run == 0 else 200, 24) for run in range(4)])
    rng = np.random.default_rng(1)
    y = np.exp(-x * np.log(2) / 20) + 0.002 * rng.normal(size=x.size)
    made = fit(LAWS["exponential"], Observations(x=x, y=y, group=np.repeat(np.arange(4), 24)))
    assert last_seen(made.observations).tolist() == pytest.approx([15, 200, 200, 200])
    half = intervals(made).half_life
    assert half is not None
    assert half.censored
    assert half.low is not None
    assert half.high is not None
    assert half.low < 20 < half.high
