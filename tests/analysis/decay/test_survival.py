from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from analysis.decay import survival
from analysis.decay.survival import Covariate, kaplan_meier, study_time_ratios, survival_table, time_ratios
from analysis.errors import UserError
from analysis.stats.censoring import COLUMNS, bounds, log_ratio
from tests.analysis.planted import cadence

GAMMA, DECAY = 0.4, np.log(2)
COVARIATES = (Covariate(name="parameters", scale="log"), Covariate(name="decay", reference="none"))


def planted_times(rng, seeds=6, horizon=1000, shared=0.0, shape=4.0):
    """Weibull times T ~ N ** GAMMA, twice as long under decay, interval-censored or censored at `horizon`."""
    grid = np.array(cadence(horizon), dtype=float)
    rows = []
    for seed in range(seeds):
        of_seed = shared * rng.normal()
        for n in (3e4, 1e5, 3e5, 1e6):
            for decay in ("none", "strong"):
                log = np.log(60) + GAMMA * np.log(n / 1e5) + DECAY * (decay == "strong") + of_seed
                time = np.exp(log) * rng.weibull(shape)
                after = int(np.searchsorted(grid, time))
                ends = ("observed", grid[after - 1], grid[after], time) if after < grid.size else None
                rows.append((seed, n, decay, *(ends or ("censored", grid[-1], None, None))))
    names = {"seed": pl.Int64, "parameters": pl.Float64, "decay": pl.String, **COLUMNS}
    return pl.DataFrame(rows, schema=names, orient="row")


def test_planted_time_ratios_are_recovered_from_censored_times():
    times = planted_times(np.random.default_rng(0), seeds=8, horizon=200)
    assert 0.05 < times.filter(pl.col("kind") == "censored").height / times.height < 0.5
    found = time_ratios(times, COVARIATES)
    size, decay = found.effects.rows(named=True)
    assert (size["term"], decay["term"], decay["value"]) == ("parameters", "decay", "strong")
    assert size["low"] < GAMMA < size["high"]
    assert decay["ratio_low"] < 2 < decay["ratio_high"]
    assert decay["ratio"] == pytest.approx(np.exp(decay["coefficient"]))
    assert found.shape == pytest.approx(4.0, rel=0.3)
    assert found.censored == times.filter(pl.col("kind") == "censored").height
    assert (found.runs, found.clusters, found.notes) == (64, 8, ())


@pytest.mark.parametrize("count", [20, pytest.param(100, marks=pytest.mark.nightly)])
def test_intervals_over_seeds_hold_if_runs_share_seeds(count):
    """A covariate that differs only between seeds: the model's own interval is far too narrow."""
    held, model_held = 0, 0
    for replicate in range(count):
        rng = np.random.default_rng(replicate)
        times = planted_times(rng, seeds=8, shared=0.5).with_columns(between=pl.col("seed") % 2)
        covariates = [*COVARIATES, Covariate(name="between", scale="linear")]
        row = time_ratios(times, covariates).effects.row(by_predicate=pl.col("term") == "between", named=True)
        held += row["low"] <= 0 <= row["high"]
        model_held += row["model_low"] <= 0 <= row["model_high"]
    assert held / count >= 0.9
    assert model_held / count <= 0.75


def test_the_likelihood_of_the_jackknife_is_that_of_lifelines():
    times = planted_times(np.random.default_rng(3), seeds=3, horizon=200)
    low, high = bounds()
    ends = times.select(low=low, high=high).to_numpy() / 60
    ends[0, 0] = 0.0  # at-start
    _, x = survival._design(times, COVARIATES)
    fitted = survival._weibull(x, ends)
    theta = np.array([*fitted.params_["lambda_"], *fitted.params_["rho_"]])
    columns = np.column_stack([x, np.ones(len(x))])
    with np.errstate(divide="ignore"):
        logs = np.log(ends)
    loss, gradient = survival._loss(theta, columns, logs)
    assert loss == pytest.approx(-fitted.log_likelihood_, rel=1e-9)
    assert np.abs(gradient).max() < 1e-3
    away = theta + 0.1
    _, gradient = survival._loss(away, columns, logs)
    steps = 1e-6 * np.eye(theta.size)
    slopes = [
        (survival._loss(away + h, columns, logs)[0] - survival._loss(away - h, columns, logs)[0]) / 2e-6 for h in steps
    ]
    assert gradient == pytest.approx(slopes, rel=1e-6, abs=1e-6)


def test_below_three_seeds_there_is_no_interval_over_seeds():
    found = time_ratios(planted_times(np.random.default_rng(1), seeds=2), COVARIATES)
    assert found.effects["low"].null_count() == 2
    assert found.effects["model_low"].null_count() == 0
    assert "an interval over seeds takes 3 or more" in found.notes[0]


def test_too_few_runs_and_confounded_effects_are_one_clear_line():
    times = planted_times(np.random.default_rng(0), seeds=1).head(3)
    with pytest.raises(UserError, match="fewer covariates or more runs"):
        time_ratios(times, COVARIATES)
    times = planted_times(np.random.default_rng(0)).with_columns(again=pl.col("parameters"))
    with pytest.raises(UserError, match="parameters, again are confounded"):
        time_ratios(times, [COVARIATES[0], Covariate(name="again", scale="log")])


def test_kaplan_meier_of_the_textbook():
    """Without censoring, the share that is left; a censored run leaves the risk set without an event."""
    rows = [("a", "observed", t - 1.0, t + 1.0, t) for t in (10.0, 20.0, 30.0)] + [("a", "censored", 20.0, None, None)]
    found = kaplan_meier(pl.DataFrame(rows, schema={"g": pl.String, **COLUMNS}, orient="row"), "g")
    assert found["time"].to_list() == [0, 10, 20, 30]
    assert found["survival"].to_list() == pytest.approx([1, 3 / 4, 3 / 4 * 2 / 3, 0])
    assert found["at_risk"].to_list() == [4, 4, 3, 1]
    assert (found["events"].to_list(), found["censored"].to_list()) == ([0, 1, 1, 1], [0, 0, 1, 0])
    assert ((found["low"] <= found["survival"]) & (found["survival"] <= found["high"])).all()


def test_a_study_has_curves_by_size_and_by_setting_and_time_ratios(small):
    table = survival_table(small)
    assert table["group"].unique(maintain_order=True).to_list() == ["30k", "100k", "330k"]
    assert table.filter(pl.col("time") == 0)["survival"].to_list() == [1, 1, 1]
    assert table.filter(pl.col("time") == 0)["at_risk"].to_list() == [3, 3, 3]
    assert "reference" in set(survival_table(small, by="setting")["group"])
    found = study_time_ratios(small)
    size = found.effects.row(by_predicate=pl.col("term") == "parameters", named=True)
    assert size["coefficient"] == pytest.approx(0.4, abs=0.1)  # the slope that is planted
    rate = found.effects.row(by_predicate=pl.col("term") == "learning_rate", named=True)
    assert rate["coefficient"] == pytest.approx(-0.9, abs=0.1)


def test_a_time_has_the_bounds_of_its_evaluations():
    rows = [("observed", 4.0, 8.0, 6.0), ("censored", 9.0, None, None), ("at-start", 2.0, 2.0, None)]
    low, high = bounds()
    frame = pl.DataFrame(rows, schema=COLUMNS, orient="row").select(low=low, high=high)
    assert frame.rows() == [(4, 8), (9, float("inf")), (0, 2)]


def test_the_ratio_of_two_times_is_a_bound_if_one_was_not_reached():
    seen, beyond = ("observed", 4.0, 8.0, 6.0), ("censored", 12.0, None, None)
    rows = [(*a, *b) for a, b in ((seen, seen), (beyond, seen), (seen, beyond), (beyond, beyond))]
    names = [f"{name}{suffix}" for suffix in ("", "_of") for name in COLUMNS]
    frame = pl.DataFrame(rows, schema=dict(zip(names, [*COLUMNS.values()] * 2, strict=True)), orient="row")
    kind, bound = log_ratio("", "_of")
    found = frame.select(kind=kind, bound=bound.exp())
    assert found["kind"].to_list() == ["observed", "at least", "at most", None]
    assert found["bound"].to_list() == [pytest.approx(1), pytest.approx(2), pytest.approx(0.5), None]
