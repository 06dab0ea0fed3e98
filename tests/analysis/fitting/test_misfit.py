"""A law that misses the shape of data is told from scatter by the runs of its residuals."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from analysis.fitting.fit import Fit, fit
from analysis.fitting.misfit import EXACT, SURE, distribution, residual_runs, runs
from analysis.fitting.objectives import BetaBinomial
from analysis.fitting.observations import Observations
from analysis.laws import LAWS

LAW = LAWS["exponential_floor"]
STEPS = np.concatenate([[0.0], np.geomspace(10, 1000, 14).round()])
BENT = np.array([0.95, 200.0, 3.0])
"""Of the stretched exponential: a shoulder, then a fall that exponential_floor cannot follow."""


def counts(rates: np.ndarray, seed: int = 0, groups: int = 1) -> Observations:
    rng = np.random.default_rng(seed)
    hits = rng.binomial(200, rates, (groups, STEPS.size)).astype(float)
    return Observations(
        x=np.tile(STEPS, groups), hits=hits.ravel(), trials=np.full(hits.size, 200.0),
        group=None if groups == 1 else np.repeat(np.arange(groups), STEPS.size),
    )  # fmt: skip


def bent() -> np.ndarray:
    return LAWS["stretched"].value(BENT, STEPS[:, None])


@pytest.mark.parametrize(("positive", "negative"), [(3, 4), (5, 2), (1, 6), (7, 7), (0, 4), (1, 1)])
def test_the_distribution_of_runs_is_that_of_all_orders(positive: int, negative: int) -> None:
    size = positive + negative
    found = np.zeros(size + 1)
    for places in combinations(range(size), positive):
        signs = np.isin(np.arange(size), places)
        found[1 + (signs[1:] != signs[:-1]).sum()] += 1
    assert distribution(positive, negative) == pytest.approx(found / found.sum())


def test_runs_of_groups_add_up_and_many_are_as_exact_ones() -> None:
    one = np.array([1, 1, 1, -1, -1, -1, 1.0])
    both = runs([one, -one])
    assert (both.count, both.points) == (6, 14)
    assert both.chance == pytest.approx(np.convolve(distribution(4, 3), distribution(4, 3))[:7].sum())
    rng = np.random.default_rng(0)
    signs = np.where(rng.random(EXACT + 50) < 0.5, 1.0, -1.0)
    mass = distribution(int((signs > 0).sum()), int((signs < 0).sum()))
    assert runs([signs]).chance == pytest.approx(mass[: runs([signs]).count + 1].sum(), abs=0.01)


@pytest.mark.parametrize("groups", [1, 4])
def test_counts_off_the_shape_of_a_law_are_called_a_misfit_and_not_scatter(groups: int) -> None:
    made = fit(LAW, counts(bent(), groups=groups), starts=16)
    assert isinstance(made.error, BetaBinomial)  # the cautious intervals until a law is found
    [line] = [each for each in made.warnings if "misses" in each]
    assert "(chi-square" in line
    assert "runs of one sign" in line
    assert "`compare` it with other laws; until then the beta-binomial is fitted" in line
    assert not any("scatter more" in each for each in made.warnings)


def test_measurements_off_the_shape_of_a_law_point_to_other_laws() -> None:
    noise = np.random.default_rng(1).normal(0, 0.01, STEPS.size)
    data = Observations(x=STEPS, y=bent() + noise)
    assert any("misses the shape" in each and "`compare`" in each for each in fit(LAW, data, starts=16).warnings)
    assert not any("misses" in each for each in fit(LAWS["stretched"], data, starts=16).warnings)


def test_scatter_is_still_called_so() -> None:
    rng = np.random.default_rng(2)
    rate = LAW.value(np.array([0.9, 100.0, 0.2]), STEPS[:, None])
    made = fit(LAW, counts(rng.beta(12 * rate, 12 * (1 - rate))), starts=16)
    assert "counts scatter more than a binomial's" in made.warnings[0]
    assert not any("misses" in each for each in made.warnings)


def test_the_right_law_is_rarely_called_a_misfit() -> None:
    def of(seed: int) -> Fit:
        y = LAW.value(np.array([0.95, 100.0, 0.2]), STEPS[:, None])
        noise = np.random.default_rng(seed).normal(0, 0.02, STEPS.size)
        return fit(LAW, Observations(x=STEPS, y=y + noise), starts=np.array([[0.95, 100.0, 0.2]]))

    called = sum(bool(made.misfit and made.misfit.few) for made in map(of, range(40)))
    assert stats.binom.sf(called - 1, 40, SURE) > 0.01


def test_rounding_bounds_and_rare_counts_have_no_runs() -> None:
    rate = LAW.value(np.array([0.95, 100.0, 0.2]), STEPS[:, None])
    exact = Observations(x=STEPS, y=rate)
    assert residual_runs(exact, rate * (1 + 1e-12)) is None
    late = Observations(x=STEPS, low=rate, high=np.where(STEPS > 500, np.inf, rate))
    assert residual_runs(late, rate) is None
    rare = Observations(x=STEPS, hits=np.zeros(STEPS.size), trials=np.full(STEPS.size, 200.0))
    assert residual_runs(rare, np.full(STEPS.size, 1e-3)) is None
