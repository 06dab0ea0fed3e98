"""Counts in groups: rates in [0, 1], dispersion around each group's curve, what single groups do not identify."""

from __future__ import annotations

import re

import numpy as np
import polars as pl
import pytest
from matplotlib.figure import Figure
from scipy import special

from analysis.figures.fitted import fitted_table
from analysis.fitting.fit import by_group, fit, fit_many
from analysis.fitting.groups import own_ends
from analysis.fitting.intervals import half_life_of, intervals
from analysis.fitting.objectives import BetaBinomial, Binomial, _trigamma
from analysis.fitting.observations import Observations
from analysis.laws import LAWS
from analysis.stats.intervals import t_interval
from halflife import results

LAW = LAWS["exponential_floor"]
STEPS = np.concatenate([[0.0], np.geomspace(2, 400, 14)])
LEVELLED = [name for name, law in LAWS.items() if law.levels and len(law.inputs) == 1]


def planted(
    theta: np.ndarray, *, trials: np.ndarray | float = 200.0, concentration: float = np.inf, seed: int = 0
) -> Observations:
    """Counts of exponential_floor at STEPS, one group a row of theta (groups, 3)."""
    rng = np.random.default_rng(seed)
    rate = LAW.value(theta, STEPS[:, None])
    if np.isfinite(concentration):
        inner = np.clip(rate, 1e-6, 1 - 1e-6)
        rate = rng.beta(inner * concentration, (1 - inner) * concentration)
    tried = np.broadcast_to(np.reshape(trials, (-1, 1)), rate.shape)
    hits = rng.binomial(tried.astype(int), rate).astype(float)
    return Observations(x=np.tile(STEPS, len(theta)), hits=hits.ravel(), trials=tried.ravel(),
                        group=np.repeat(np.arange(len(theta)), STEPS.size))  # fmt: skip


def five(level: float = 0.97, floor: float = 0.02) -> np.ndarray:
    return np.column_stack([np.full(5, level), 40 * np.exp(np.linspace(-0.4, 0.4, 5)), np.full(5, floor)])


@pytest.mark.parametrize("name", LEVELLED)
def test_levels_of_counts_are_rates(name: str) -> None:
    """All of the first trials hit, so that a level above 1 would cost nothing."""
    law, x = LAWS[name], np.geomspace(1, 100, 16)
    hits = np.where(x < 20, 64.0, 3.0)
    hits = 64 - hits if "rising" in name or name == "error_exponential" else hits
    data = Observations(x=x, hits=hits, trials=np.full(16, 64.0))
    made = fit(law, data, objective=Binomial(), starts=16, diagnosed=False)
    assert made.log_likelihood is not None
    assert np.isfinite(made.log_likelihood)
    for level in law.levels:
        value = sum(made.parameters[part] for part in level.split(" + "))
        assert -1e-6 <= value <= 1 + 1e-6, level
    assert law.bounds[1][law.names.index(law.levels[0].split(" + ")[0])] == np.inf  # of other responses there is none


def test_the_interval_of_a_level_near_one_covers_it_and_stays_below_one() -> None:
    covered = []
    for seed in range(20):
        made = fit(LAW, planted(five(), seed=seed), starts=five()[2:3], diagnosed=False)
        found = intervals(made).parameters["a"]
        assert found.low is not None
        assert found.high is not None
        assert 0.9 < found.low < found.estimate < found.high <= 1
        covered.append(found.low <= 0.97)
    assert sum(covered) >= 17


def test_scatter_is_taken_around_each_groups_curve() -> None:
    apart = fit(LAW, planted(five(), seed=2), starts=32)
    assert isinstance(apart.error, Binomial)  # their curves differ, their counts are a binomial's
    assert apart.dispersion is not None
    assert 0.5 < apart.dispersion.ratio < 1.6
    assert apart.dispersion.groups == 5
    bouncing = fit(LAW, planted(five(), concentration=15), starts=32)
    assert isinstance(bouncing.error, BetaBinomial)
    assert bouncing.warnings[0].endswith(
        "fitted to each group instead, as wherever p < 0.2 (--error binomial keeps the binomial)"
    )
    assert "around their curves, over 5 groups" in bouncing.warnings[0]
    assert by_group(bouncing).own is not None


def test_counts_of_the_same_items_scatter_too_little_in_groups_too() -> None:
    data = planted(five())
    rates = LAW.value(five(), STEPS[:, None]).ravel()
    made = fit(LAW, Observations(x=data.x, hits=np.round(200 * rates), trials=data.trials, group=data.group), starts=32)
    assert any("scatter less" in line and "intervals over groups hold" in line for line in made.warnings)


def test_a_group_that_does_not_identify_a_parameter_is_said_and_left_out_of_its_mean() -> None:
    """The last falls at once: any steep curve fits it."""
    data = planted(five(floor=0.0), seed=3)
    step = np.asarray(data.group) == 4
    assert data.hits is not None
    hits = np.where(step, np.where(data.x[:, 0] < 50, 200.0, 0.0), data.hits)
    data = Observations(x=data.x, hits=hits, trials=data.trials, group=data.group)
    made = fit(LAWS["stretched"], data, objective=Binomial(), starts=32)
    found = intervals(made)
    assert own_ends(made).determined[:, 2].tolist() == [True] * 4 + [False]
    note = "s is not identified in 1 of 5 groups (4): left out of the mean"
    assert note in found.notes
    expected = t_interval(np.log(by_group(made).theta[:4, 2]))
    assert expected is not None
    assert found.parameters["s"].estimate == pytest.approx(np.exp(expected.estimate))
    assert found.by["s"] == "t, 4 of 5 groups"
    printed = str(results.fit(
        frame(data), "stretched", x="x", hits="hits", trials="trials", group="group", error="binomial", starts=32
    ))  # fmt: skip
    assert f"warning: {note}" in printed


@pytest.mark.parametrize("groups", [5, 1])
def test_a_half_life_alone_is_that_of_the_whole_table(groups: int) -> None:
    data = planted(np.concatenate([five()[: groups - 1], [[0.97, 3000.0, 0.02]]]), seed=3)
    assert half_life_of(fit(LAW, data, starts=16)) == intervals(fit(LAW, data, starts=16)).half_life


def test_a_mean_that_most_groups_say_nothing_of_is_not_made() -> None:
    made = fit(LAWS["shifted_power"], planted(five(floor=0.0), seed=1), starts=32)  # no tail: b has no upper end
    found = intervals(made)
    assert np.isnan(found.parameters["b"].estimate)
    assert any(note.startswith("b is not identified in ") and "too many" in note for note in found.notes)
    assert found.by["b"] == "none"
    assert fitted_table(made).filter(kind="law").is_empty()


def test_a_floor_at_zero_in_all_groups_has_an_interval_of_their_profiles_together() -> None:
    hits = np.floor(50 * LAW.value(np.array([0.9, 40.0, 0.0]), STEPS[:, None]))
    data = Observations(x=np.tile(STEPS, 4), hits=np.tile(hits, 4), trials=np.full(4 * hits.size, 50.0),
                        group=np.repeat(range(4), hits.size))  # fmt: skip
    made = fit(LAW, data, objective=Binomial(), starts=32)
    assert by_group(made).theta[:, 2].max() < 1e-6
    found = intervals(made)
    ends = own_ends(made).high[:, 2]
    assert found.parameters["f"].low == 0
    assert found.parameters["f"].high == pytest.approx((ends**-2).sum() ** -0.5, abs=1e-4)
    assert "f is at its bound 0 in 4 of 4 groups" in found.notes
    assert found.by["f"] == "t and profiles, 4 groups"


def test_a_profile_beside_a_parameter_at_its_bound_ends_where_the_likelihood_says() -> None:
    """The floor is at 0 and the level at 1: the curvature there is not that of the others."""
    hits = np.array([124, 124, 123, 120, 111, 82, 81, 108, 1, 63, 0, 5, 0, 0.0])
    data = Observations(x=np.geomspace(1, 100, hits.size), hits=hits, trials=np.full(hits.size, 128.0))
    made = fit(LAW, data, objective=BetaBinomial(), starts=32)
    assert made.parameters["f"] == 0
    found = intervals(made).parameters["T"]
    assert found.low is not None
    assert found.high is not None
    held = fit_many(LAW, data, around=made, fixed={"T": np.array([found.low, found.high])})
    freedom = hits.size - 4
    allowed = hits.size / 2 * np.log1p(special.stdtrit(freedom, 0.975) ** 2 / freedom)
    assert held.objective - made.objective == pytest.approx(np.full(2, allowed), rel=5e-3)


def test_the_trigamma_function_is_that_of_scipy() -> None:
    x = np.geomspace(1e-8, 1e9, 500)
    np.testing.assert_allclose(_trigamma(x), special.polygamma(1, x), rtol=1e-12)


def frame(data: Observations) -> pl.DataFrame:
    return pl.DataFrame({"x": data.x[:, 0], "hits": data.hits, "trials": data.trials, "group": data.group})


def test_the_drawn_curve_is_that_of_the_tables_means_before_those_of_the_groups() -> None:
    made = fit(LAW, planted(five()), starts=32)
    table = fitted_table(made)
    mean = np.array([each.estimate for each in intervals(made).parameters.values()])
    law = table.filter(kind="law")
    assert law["y"].to_numpy() == pytest.approx(LAW.value(mean, law["x"].to_numpy()[:, None]))
    for group, theta in zip("01234", by_group(made).theta, strict=True):
        own = table.filter(kind="group", group=group)
        assert own["y"].to_numpy() == pytest.approx(LAW.value(theta, own["x"].to_numpy()[:, None]))
    figure = Figure()
    axes = figure.subplots()
    results.draw(made, axes)
    assert axes.get_xlabel().startswith("x (log")
    assert axes.get_ylabel() == "rate"
    legend = axes.get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == [*(f"group {name}" for name in "01234"), "mean over groups, as in the table"]
    thick = max(axes.lines, key=lambda line: line.get_linewidth())
    assert np.asarray(thick.get_ydata()) == pytest.approx(law.sort("x")["y"].to_numpy())


@pytest.mark.parametrize(
    ("arguments", "unit"),
    [
        ({"hits": "hits", "trials": "trials"}, "the rate"),
        ({"y": "hits"}, "y"),
        ({"y": "y", "error": "lognormal"}, "ln y"),
    ],
)
def test_every_interval_says_its_method_and_every_prediction_its_unit(arguments: dict, unit: str) -> None:
    data = frame(planted(five()[:1])).with_columns(y=pl.col("hits") + 1)
    made = results.fit(data, "exponential", x="x", starts=16, **arguments)
    assert made.error.compared == unit
    rows = [line for line in str(made).splitlines() if line.startswith(("  a ", "  T ", "  half-life "))]
    assert len(rows) == 3
    assert all(re.search(r"\]\s+profile  ", row) for row in rows)
