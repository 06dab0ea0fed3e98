"""What data cannot say is said: scatter of counts, too few data, data that a law is not for, bounds for values."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from analysis.errors import UserError
from analysis.fitting.command import Columns, fitted
from analysis.fitting.dispersion import dispersion
from analysis.fitting.fit import fit
from analysis.fitting.intervals import intervals
from analysis.fitting.objectives import Binomial, Gaussian, Huber, Objective
from analysis.fitting.observations import Observations
from analysis.fitting.selection import compare
from analysis.laws import LAWS

BOUNCING = Observations(
    x=np.array([0, 10, 20, 40, 60, 80, 120, 160, 240, 320.0]),
    hits=np.array([97, 62, 88, 30, 71, 22, 45, 9, 18, 2.0]), trials=np.full(10, 100.0),
)  # fmt: skip
FLOPS = np.array([1e16, 1e17, 1e18, 1e19])
OPTIMAL = np.array([1.2e6, 8.3e6, 5.1e7, 3.9e8])
STEPS = np.array([0, 5, 10, 20, 30, 40, 60, 80, 120, 160, 240, 320.0])


@pytest.mark.parametrize(("objective", "exponent"), [(Gaussian(log=True), 0.8324), (Gaussian(), 0.880)])
def test_optimal_sizes_over_flops_have_their_exponent(objective: Objective, exponent: float):
    made = fit(LAWS["power"], Observations(x=FLOPS, y=OPTIMAL), objective=objective)
    assert -made.parameters["b"] == pytest.approx(exponent, abs=5e-4)
    assert made.starts_at_optimum > 0.5


def test_hubers_exponent_over_flops_is_found_from_most_starts():
    made = fit(LAWS["power"], Observations(x=FLOPS, y=OPTIMAL), objective=Huber())
    assert -made.parameters["b"] == pytest.approx(0.837, abs=2e-3)
    assert made.starts_at_optimum > 0.5


def test_half_lives_of_a_hundred_thousand_steps_have_closed_intervals():
    times = np.array([54023, 93623, 179860, 303164, 505659.0])
    made = fit(LAWS["half_life_size"], Observations(x=np.array([1e5, 1e6, 1e7, 1e8, 1e9]), y=times))
    found = intervals(made).parameters["gamma"]
    assert (found.estimate, found.low, found.high) == pytest.approx((0.2331, 0.2136, 0.2540), abs=1e-4)


def test_a_scale_of_1e25_flops_meets_no_bound():
    x = np.geomspace(1e22, 3.2e25, 14)
    y = LAWS["logistic_log"].value(np.array([0.9, 9e24, 1.1]), x[:, None])
    made = fit(LAWS["logistic_log"], Observations(x=x, y=y + 0.004 * np.random.default_rng(0).standard_normal(14)))
    assert made.parameters["T"] == pytest.approx(9e24, rel=0.1)
    assert not any("bound" in warning for warning in made.warnings)


def test_bouncing_counts_are_fitted_by_the_beta_binomial_and_it_is_said():
    made = fit(LAWS["exponential"], BOUNCING)
    half = intervals(made).half_life
    assert made.error.name == "beta-binomial"
    assert half is not None
    assert (half.low, half.high) == pytest.approx((50, 221), rel=0.01)
    assert "counts scatter more than a binomial's (chi-square 18 per degree of freedom, p < 1e-4)" in made.warnings[0]


def test_whoever_asks_for_binomial_errors_of_bouncing_counts_is_told_that_they_are_too_narrow():
    made = fit(LAWS["exponential"], BOUNCING, objective=Binomial())
    assert made.error.name == "binomial"
    assert any("intervals are too narrow; use --error beta-binomial" in warning for warning in made.warnings)


def test_the_dispersion_of_binomial_counts_is_one_and_called_more_or_less_at_its_level():
    rng, trials, rate = np.random.default_rng(0), np.full(12, 40.0), np.linspace(0.95, 0.05, 12)
    draws = rng.binomial(40, rate, (2000, 12)).astype(float)
    found = [dispersion(Observations(x=np.arange(12.0), hits=h, trials=trials), rate, 0) for h in draws]
    known = [each for each in found if each is not None]
    assert np.mean([each.ratio for each in known]) == pytest.approx(1.0, abs=0.03)
    assert np.mean([each.over for each in known]) == pytest.approx(0.01, abs=0.008)
    assert np.mean([each.under for each in known]) == pytest.approx(0.01, abs=0.008)


def same_items(seed: int, items: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Each item is lost once, after an exponential time: what was answered, (items, STEPS); and the half-life."""
    lost = np.random.default_rng(seed).exponential(60, items)
    return (lost[:, None] > STEPS).astype(float), np.array(60 * np.log(2))


def test_the_same_items_at_every_point_scatter_too_little_and_no_law_wins_on_them():
    hits = np.round(100 * LAWS["exponential"].value(np.array([0.95, 60.0]), STEPS[:, None]))
    data = Observations(x=STEPS, hits=hits, trials=np.full(STEPS.size, 100.0))
    fits = [fit(LAWS[name], data, starts=32) for name in ("exponential", "hyperbolic")]
    assert any("counts scatter less than a binomial's" in warning for warning in fits[0].warnings)
    found = compare(fits)
    assert found.ranked[1].delta > 2
    assert found.winner is None
    assert found.text.startswith("no winner: counts scatter less than a binomial's")


def test_intervals_over_items_hold_where_binomial_ones_take_each_answer_for_another_item():
    answered, half = same_items(1, 60)
    data = Observations(
        x=np.tile(STEPS, 60), hits=answered.ravel(), trials=np.ones(answered.size),
        group=np.repeat(np.arange(60), STEPS.size),
    )  # fmt: skip
    made = fit(LAWS["exponential"], data, starts=8)
    found = intervals(made)
    assert "jackknife" in found.method
    assert found.half_life is not None
    assert found.half_life.low is not None
    assert found.half_life.high is not None
    assert found.half_life.low < half < found.half_life.high
    naive = intervals(fit(LAWS["exponential"], Observations(x=data.x, hits=data.hits, trials=data.trials),
                          objective=Binomial(), starts=8)).half_life  # fmt: skip
    assert naive is not None
    assert naive.low is not None
    assert naive.high is not None
    assert found.half_life.high - found.half_life.low > 1.5 * (naive.high - naive.low)


def test_without_degrees_of_freedom_there_is_no_interval():
    made = fit(LAWS["exponential"], Observations(x=np.array([0, 100.0]), y=np.array([1, 0.5])))
    found = intervals(made)
    assert [(each.low, each.high) for each in found.parameters.values()] == [(None, None)] * 2
    assert found.half_life is not None
    assert (found.half_life.low, found.half_life.high) == (None, None)
    assert "no degrees of freedom" in found.method
    assert any("leave no degrees of freedom" in warning for warning in made.warnings)


RISE = np.linspace(0, 50, 9)
NOISE = 0.01 * np.random.default_rng(2).standard_normal(9)


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("exponential", Observations(x=np.repeat(RISE, 2), y=np.repeat(np.exp(-RISE / 30) + NOISE, 2)), "9 of 18"),
        ("exponential", Observations(x=RISE, y=0.1 + RISE / 60 + NOISE), "y rises with x (rank correlation 1.00)"),
        ("exponential", Observations(x=RISE, hits=np.arange(5, 95, 10.0), trials=np.full(9, 100.0)), "the rate rises"),
    ],
)  # fmt: skip
def test_data_that_are_copied_or_rise_are_warned_of(name: str, data: Observations, expected: str):
    assert any(expected in warning for warning in fit(LAWS[name], data, starts=16).warnings)


def test_measured_repeats_of_a_run_are_told_from_independent_runs():
    """The scatter within a size is that of measurements, the scatter about the law that of runs."""
    rng, sizes = np.random.default_rng(3), np.repeat(np.geomspace(1e6, 1e9, 6), 5)
    law, run = LAWS["half_life_size"], np.repeat(0.3 * rng.standard_normal(6), 5)
    clean = law.value(np.array([100, 0.25]), sizes[:, None])
    repeated = clean * np.exp(run + 0.02 * rng.standard_normal(30))
    independent = clean * np.exp(0.3 * rng.standard_normal(30))
    for y, said in ((repeated, True), (independent, False)):
        warnings = fit(law, Observations(x=sizes, y=y), objective=Gaussian(log=True), starts=8).warnings
        assert any("name the column of runs with --group" in warning for warning in warnings) == said


@pytest.mark.parametrize(
    ("name", "data", "objective", "complaint"),
    [
        ("exponential_floor", Observations(x=np.repeat([1, 2.0], 9), y=np.arange(1, 19.0)), None, "x has 2 different"),
        ("exponential", Observations(x=RISE, y=np.zeros(9)), None, "y is 0 in all 9 rows"),
        ("ebbinghaus", Observations(x=RISE + 0.5, y=np.exp(-RISE)), None, "leave them out; x must be 1 or more"),
        ("exponential", Observations(x=RISE - 1, y=np.exp(-RISE)), None, "x must be 0 or more"),
        ("exponential", Observations(x=RISE, hits=np.arange(9.0), trials=np.full(9, 40.0)), Binomial(chance=0.25),
         "no rate is above --chance 0.25: the highest is 0.2"),
    ],
)  # fmt: skip
def test_data_that_say_nothing_are_refused_in_one_line(
    name: str, data: Observations, objective: Objective | None, complaint: str
):
    with pytest.raises(UserError, match=complaint) as error:
        fit(LAWS[name], data, objective=objective)
    assert "\n" not in str(error.value)


def test_chance_is_refused_for_a_response_and_doubted_above_the_counts():
    frame = pl.DataFrame({"x": RISE, "y": np.exp(-RISE / 20), "k": np.arange(18, 0, -2), "n": [40] * 9})
    with pytest.raises(UserError, match=r"--chance 0.25 is for counts"):
        fitted(frame, "exponential", Columns(x="x", y="y", chance=0.25))
    made, *_ = fitted(frame, "exponential", Columns(x="x", hits="k", trials="n", chance=0.3))
    assert any("below --chance 0.3" in warning for warning in made.warnings)


def half_lives(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """5 sizes x 5 runs, gamma .25; the longest 30 % are seen only to the end of the runs."""
    rng, sizes = np.random.default_rng(seed), np.repeat(np.geomspace(1e6, 1e8, 5), 5)
    times = LAWS["half_life_size"].value(np.array([100, 0.25]), sizes[:, None]) * np.exp(0.3 * rng.standard_normal(25))
    return sizes, times, times > np.quantile(times, 0.7)


def test_bounds_for_values_find_the_slope_that_dropping_them_flattens():
    dropped, bounded = [], []
    for seed in range(12):
        sizes, times, late = half_lives(seed)
        seen = np.where(late, times[~late].max(), times)
        data = Observations(x=sizes, low=seen, high=np.where(late, np.inf, seen))
        made = fit(LAWS["half_life_size"], data, objective=Gaussian(log=True), starts=8, diagnosed=False)
        assert made.error.name == "lognormal, censored"
        bounded.append(made.parameters["gamma"])
        short = Observations(x=sizes[~late], y=times[~late])
        dropped.append(fit(LAWS["half_life_size"], short, objective=Gaussian(log=True), starts=8).parameters["gamma"])
    assert np.mean(bounded) == pytest.approx(0.25, abs=0.03)
    assert np.mean(dropped) < 0.2


def test_without_bounds_censored_errors_are_those_of_the_uncensored_ones():
    sizes, times, _ = half_lives(0)
    data = Observations(x=sizes, low=times, high=np.append(np.inf, times[1:]))
    last = Observations(x=sizes[1:], y=times[1:])
    one, other = (fit(LAWS["half_life_size"], d, objective=Gaussian(log=True), starts=8) for d in (data, last))
    assert data.censored is not None
    assert one.parameters["gamma"] == pytest.approx(other.parameters["gamma"], abs=0.05)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"low": [1.0, 2.0], "high": [0.5, 3.0]}, "low is above high, or missing, at 1 of 2 points"),
        ({"low": [-np.inf, 1.0], "high": [np.inf, 1.0]}, "1 of 2 values have no bound at all"),
        ({"low": [1.0, 1.0]}, "one bound is missing"),
        ({"low": [1.0, 1.0], "high": [2.0, 1.0], "hits": [1, 1], "trials": [2, 2]}, "counts cannot be censored"),
    ],
)
def test_bad_bounds_are_refused(given: dict, complaint: str):
    with pytest.raises(UserError, match=complaint):
        Observations(x=np.array([1.0, 2.0]), **{name: np.array(values) for name, values in given.items()})


@pytest.mark.parametrize(
    ("points", "law", "told"), [(4, "power", True), (6, "power", False), (6, "saturating_power", True)]
)
def test_intervals_of_hubers_loss_are_doubted_where_few_points_are_left(points: int, law: str, told: bool):
    x = np.geomspace(1e6, 1e9, points)
    y = (1.7 + 100 * x**-0.3) * np.exp(0.01 * np.random.default_rng(0).normal(size=points))
    found = fit(LAWS[law], Observations(x=x, y=y), objective=Huber(), starts=8).warnings
    assert any("intervals of Huber's loss are then too narrow" in line for line in found) == told
    even = fit(LAWS[law], Observations(x=x, y=y), objective=Gaussian(log=True), starts=8).warnings
    assert not any("degrees of freedom" in line for line in even)


def test_equal_inputs_are_summed_without_changing_what_is_found():
    rng, x = np.random.default_rng(4), np.repeat(STEPS, 40)
    rate = LAWS["exponential"].value(np.array([0.9, 80.0]), x[:, None])
    hits = rng.binomial(1, rate).astype(float)
    rows = fit(LAWS["exponential"], Observations(x=x, hits=hits, trials=np.ones(x.size)), starts=16)
    sums = fit(LAWS["exponential"], Observations(x=STEPS, hits=hits.reshape(-1, 40).sum(axis=1),
                                                 trials=np.full(STEPS.size, 40.0)), starts=16)  # fmt: skip
    np.testing.assert_allclose(rows.theta, sums.theta, rtol=1e-6)
    assert rows.log_likelihood == pytest.approx(sums.log_likelihood, rel=1e-10)
    y = rate + 0.05 * rng.standard_normal(x.size)
    data = Observations(x=x, y=y, weights=rng.uniform(0.5, 2, x.size))
    apart = Observations(x=x * (1 + 1e-12 * rng.standard_normal(x.size)), y=y, weights=data.weights)
    one, other = (fit(LAWS["exponential"], d, starts=16) for d in (data, apart))
    assert one.objective == pytest.approx(other.objective, rel=1e-6)
    np.testing.assert_allclose(one.theta, other.theta, rtol=1e-6)
    for a, b in zip(intervals(one).parameters.values(), intervals(other).parameters.values(), strict=True):
        assert (a.low, a.high) == pytest.approx((b.low, b.high), rel=1e-4)
