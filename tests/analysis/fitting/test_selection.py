from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats

from analysis.errors import UserError
from analysis.fitting.extrapolation import held_out, largest, over_groups, predict_largest, rolling
from analysis.fitting.fit import fit
from analysis.fitting.objectives import Gaussian, Huber
from analysis.fitting.observations import Observations
from analysis.fitting.selection import compare
from analysis.laws import LAWS

STEPS = np.array([0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192.0])


def runs(
    name: str, theta: tuple[float, ...], seeds: int = 1, noise: float = 0.01, last: float = np.inf
) -> Observations:
    steps = STEPS[last >= STEPS]
    rng = np.random.default_rng(0)
    value = LAWS[name].value(np.array(theta), steps[:, None])
    y = np.tile(value, seeds) + noise * rng.standard_normal(steps.size * seeds)
    group = np.repeat(np.arange(seeds), steps.size) if seeds > 1 else None
    return Observations(x=np.tile(steps, seeds), y=y, group=group)


def fits(data: Observations, *names: str) -> list:
    return [fit(LAWS[name], data, starts=32) for name in names]


def test_the_planted_law_leads_those_that_cannot_bend_like_it():
    found = compare(fits(runs("exponential_floor", (1, 20, 0.3)), "constant", "exponential", "exponential_floor"))
    assert found.winner is not None
    assert found.winner.fit.law.name == "exponential_floor"
    assert [each.delta for each in found.ranked] == sorted(each.delta for each in found.ranked)
    assert found.text.startswith("exponential_floor leads by ΔAICc")


def test_laws_that_fit_equally_well_have_no_winner_and_each_shows_its_half_life():
    early = runs("exponential", (1, 60), noise=0.03, last=12)  # not yet half: tails differ, data do not
    found = compare(fits(early, "exponential", "hyperbolic"))
    assert found.winner is None
    assert set(found.half_lives) == {"exponential", "hyperbolic"}
    assert "no winner" in found.text
    if not found.agree:
        assert all(name in found.text for name in found.half_lives)


def test_differences_between_seeds_do_not_pass_for_curvature_of_the_law():
    """Exponentials of different rates average to a curve with a tail: pooled, the tail wins; by seed it does not."""
    rng, law = np.random.default_rng(1), LAWS["exponential"]
    scales = [5.0, 15.0, 50.0, 150.0]
    y = np.concatenate([law.value(np.array([1.0, t]), STEPS[:, None]) for t in scales])
    y = y + 0.01 * rng.standard_normal(y.size)
    whole = Observations(x=np.tile(STEPS, 4), y=y)
    by_seed = Observations(x=np.tile(STEPS, 4), y=y, group=np.repeat(np.arange(4), STEPS.size))
    pooled = compare(fits(whole, "exponential", "stretched"))
    assert pooled.winner is not None
    assert pooled.winner.fit.law.name == "stretched"
    assert compare(fits(by_seed, "exponential", "stretched")).ranked[0].fit.law.name == "exponential"


def test_a_loss_that_is_not_a_likelihood_cannot_be_compared():
    data = runs("exponential", (1, 60))
    with pytest.raises(UserError, match="AICc needs a likelihood"):
        compare([fit(LAWS[name], data, objective=Huber()) for name in ("exponential", "hyperbolic")])


@pytest.mark.parametrize("seeds", [1, 4])
def test_aicc_follows_from_the_likelihood_k_and_n_in_the_same_row(seeds: int):
    found = compare(fits(runs("exponential", (1, 20), seeds), "exponential", "exponential_floor"))
    for each in found.ranked:
        k, n = len(each.fit.law.parameters) + 1, STEPS.size  # and a variance, in each of `seeds` fits
        assert [(part.parameters, part.points) for part in each.scores] == [(k, n)] * seeds
        assert each.aicc == pytest.approx(seeds * (2 * k + 2 * k * (k + 1) / (n - k - 1)) - 2 * each.log_likelihood)
    if seeds == 1:
        assert [each.aicc for each in found.ranked] == pytest.approx([each.fit.aicc for each in found.ranked])
    else:
        assert found.ranked[0].log_likelihood > (found.ranked[0].fit.log_likelihood or 0)
        assert "groups' own fits, summed" in found.legend


def test_a_parameter_that_is_held_does_not_count_in_aicc_of_groups_either():
    data = runs("exponential", (1, 20), 4)
    held = fit(LAWS["exponential"], data, starts=32, fixed={"a": 1.0})
    found = compare([held, fit(LAWS["exponential"], data, starts=32)])
    assert {each.scores[0].parameters for each in found.ranked} == {2, 3}


def test_gaussian_and_lognormal_errors_are_ranked_as_densities_of_y():
    rng = np.random.default_rng(3)
    x = np.geomspace(1, 100, 40)
    y = 5 * np.exp(-x / 30) * np.exp(0.2 * rng.normal(size=x.size))
    data = Observations(x=x, y=y)
    made = [fit(LAWS["exponential"], data, objective=Gaussian(log=log), starts=32) for log in (False, True)]
    found = compare(made)
    assert found.ranked[0].fit.error.name == "lognormal"
    curve = made[1].predict(x[:, None])
    density = stats.lognorm.logpdf(y, np.sqrt(np.mean(np.log(y / curve) ** 2)), scale=curve)
    assert found.ranked[0].log_likelihood == pytest.approx(density.sum())
    assert "Jacobian" in found.legend
    assert found.held_out_unit == ""  # errors of y and of ln y
    assert "predicts" not in found.text


def test_likelihoods_of_different_data_are_not_ranked():
    x, y = STEPS, np.exp(-STEPS / 30)
    whole = fit(LAWS["exponential"], Observations(x=x, y=y + 0.01), starts=16)
    others = (Observations(x=x[:-1], y=y[:-1] + 0.01), Observations(x=x, y=100 * y + 1),
              Observations(x=x, hits=(100 * y).astype(np.float64).round(), trials=np.full(x.size, 100.0)))  # fmt: skip
    for other, what in zip(others, ("rows", "values of the response", "counts and measurements"), strict=True):
        with pytest.raises(UserError, match=what):
            compare([whole, fit(LAWS["constant"], other, starts=16)])


def test_the_planted_law_predicts_the_end_of_the_data_to_within_the_noise():
    data = runs("exponential_floor", (1, 20, 0.3), seeds=3)
    own, wrong = (over_groups(rolling(LAWS[name], data)) for name in ("exponential_floor", "exponential"))
    assert own["seen"].to_list() == [0.5, 0.65, 0.8]
    assert own["groups"].to_list() == [3, 3, 3]
    assert own["estimate"][-1] == pytest.approx(0.01, abs=0.006)
    assert wrong["estimate"][-1] > 5 * own["estimate"][-1]
    assert wrong["log_likelihood"][-1] < own["log_likelihood"][-1]


def test_a_cut_that_leaves_too_few_points_to_fit_is_skipped():
    short = Observations(x=np.array([0, 1.0, 100.0, 200.0]), y=np.array([1.0, 0.9, 0.2, 0.1]))
    assert rolling(LAWS["exponential_floor"], short).is_empty()


def test_held_out_likelihood_is_the_density_of_the_held_out_points():
    x = np.arange(1.0, 9.0)
    y = np.array([1.0, 1.2, 0.9, 1.1, 1.0, 0.8, 1.3, 1.0])
    found = rolling(LAWS["constant"], Observations(x=x, y=y), Gaussian(), (0.7,)).row(0, named=True)
    shown = y[x <= np.exp(0.7 * np.log(8))]
    expected = stats.norm.logpdf(y[shown.size :], shown.mean(), shown.std(ddof=1)).mean()
    assert found["log_likelihood"] == pytest.approx(expected)


def test_the_largest_size_is_predicted_from_the_smaller_ones():
    sizes = np.geomspace(1e5, 1e7, 5).repeat(4)
    rng = np.random.default_rng(0)
    y = 60 * (sizes / 1e6) ** 0.3 * np.exp(0.05 * rng.standard_normal(sizes.size))
    found = largest(LAWS["half_life_size"], Observations(x=sizes, y=y), "N", Gaussian(log=True))
    assert found is not None
    assert found.points == 4
    assert found.error < 0.15
    with pytest.raises(UserError, match="no input 'size'"):
        largest(LAWS["half_life_size"], Observations(x=sizes, y=y), "size")


def half_lives(gamma: float, seeds: int = 6, sizes: int = 4, level=0.3, tilt=0.1, run=0.2, seed=0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    n = np.geomspace(1e5, 1e6, sizes)
    rows = []
    for which in range(seeds):
        slope, shift = gamma + tilt * rng.normal(), level * rng.normal()
        rows += [(int(v), which, 50 * (v / 3e5) ** slope * np.exp(shift + run * rng.normal())) for v in n]
    return pl.DataFrame(rows, schema=["parameters", "seed", "estimate"], orient="row")


def test_predicted_over_observed_at_the_largest_size_is_one_on_a_line_and_above_one_if_it_bends_down():
    straight = half_lives(0.4, tilt=0.0, run=0.01)
    found = predict_largest(straight)
    assert found is not None
    assert found.estimate == pytest.approx(1, abs=0.03)
    largest_size = straight["parameters"].max()
    bent = straight.with_columns(
        pl.when(pl.col("parameters") == largest_size)
        .then(pl.col("estimate") / 2)
        .otherwise("estimate")
        .alias("estimate")
    )
    found = predict_largest(bent)
    assert found is not None
    assert found.low is not None
    assert found.low > 1.8


def test_bounds_are_no_values_that_a_prediction_of_held_out_data_could_miss() -> None:
    sizes, late = np.repeat([1e5, 1e6, 1e7, 1e8], 2), np.array([False] * 6 + [True, False])
    times = np.where(late, 1e5, 1e5 * (sizes / 1e6) ** 0.25)  # the run of the first at 1e8 ended long before its half
    data = Observations(x=sizes, low=times, high=np.where(late, np.inf, times))
    found = held_out(fit(LAWS["half_life_size"], data, objective=Gaussian(log=True), starts=16))["the largest N"]
    assert (found.points, found.error) == (1, pytest.approx(0, abs=1e-3))


def test_what_is_held_fixed_is_held_in_the_prediction_of_held_out_data_too() -> None:
    sizes = np.array([1e5, 1e6, 1e7, 1e8])
    times = 1e5 * (sizes / 1e6) ** 0.25
    times[-1] *= 2
    made = {
        gamma: fit(LAWS["half_life_size"], Observations(x=sizes, y=times), objective=Gaussian(log=True),
                   fixed={"gamma": gamma})
        for gamma in (0.25, 0.0)
    }  # fmt: skip
    errors = {gamma: held_out(each)["the largest N"].error for gamma, each in made.items()}
    assert errors[0.25] == pytest.approx(np.log(2), rel=1e-3)
    assert errors[0.0] == pytest.approx(np.log(times[-1] / np.exp(np.log(times[:-1]).mean())), rel=1e-3)
