from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from analysis.decay.clocks import half_lives_by_clock
from analysis.decay.fits import STARTS, menu, observations, reference_curves
from analysis.decay.retention import CLOCKS
from analysis.fitting.fit import fit
from analysis.fitting.intervals import intervals
from analysis.laws import LAWS
from analysis.runs.study import StudyData
from halflife.tracking import schema
from tests.analysis import planted


@pytest.fixture(scope="module")
def one(small) -> StudyData:
    """One size."""
    trials = small.trials.filter(pl.col("size") == "100k")
    return replace(small, trials=trials, points=small.points.join(trials.select("trial"), on="trial"))


@pytest.fixture(scope="module")
def found(one) -> pl.DataFrame:
    return half_lives_by_clock(one)


def of(frame: pl.DataFrame, law: str) -> dict[str, float]:
    return dict(frame.filter(pl.col("law") == law).select("clock", "half_life").iter_rows())


def test_laws_with_support_on_a_clock_have_a_half_life_there_or_are_censored(found):
    assert set(found["clock"]) == set(CLOCKS)
    assert set(found["law"]) < {law.name for law in menu()}
    assert (found["half_life"].is_not_null() | found["censored"]).all()


def test_an_exponential_of_tokens_is_a_stretched_one_of_displacement_with_the_half_life_converted(found):
    """Planted: displacement = 0.02 steps^0.6, so a half-life of T steps is 0.02 T^0.6 on that clock."""
    tokens, there = of(found, "exponential")["tokens"], of(found, "stretched")["displacement"]
    assert there == pytest.approx(0.02 * (tokens / planted.STEP) ** 0.6, rel=0.02)


def own_half_life(data: StudyData, name: str, clock: str) -> float:
    half = intervals(fit(LAWS[name], observations(reference_curves(data), clock), starts=STARTS)).half_life
    assert half is not None
    assert half.estimate is not None
    return half.estimate


@pytest.mark.parametrize("name", ["exponential", "stretched"])
def test_a_clock_proportional_to_tokens_has_the_half_life_of_a_separate_fit(found, one, name):
    assert of(found, name)["rate_sum"] == pytest.approx(own_half_life(one, name, "rate_sum"), rel=2e-3)


def test_a_clock_of_changing_rate_is_fitted_again(one):
    """If the rate falls as 1 / (1 + steps / 100), its sum is 100 ln(1 + steps / 100) times the initial rate."""
    name, steps = pl.col("name") == schema.CLOCK_RATE_SUM, pl.col("step") / planted.STEP
    summed = pl.when(name).then(0.3 * (1 + steps / 100).log()).otherwise("value")
    falling = replace(one, points=one.points.with_columns(value=summed))
    found = half_lives_by_clock(falling)
    best = found.filter(pl.col("clock") == "rate_sum")["law"][0]
    there, steps_to_half = of(found, best)["rate_sum"], of(found, "exponential")["steps"]
    assert there == pytest.approx(own_half_life(falling, best, "rate_sum"), rel=1e-6)
    assert there < 0.9 * 3e-3 * steps_to_half


def test_a_clock_that_was_not_logged_has_no_rows(one):
    points = one.points.filter(pl.col("name") != schema.CLOCK_DISPLACEMENT)
    found = half_lives_by_clock(replace(one, points=points))
    assert set(found["clock"]) == {"tokens", "steps", "rate_sum"}
