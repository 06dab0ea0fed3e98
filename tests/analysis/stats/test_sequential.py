"""Looks: boundaries from the joint distribution of the sequential t, against simulations; p-values that invert them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.errors import UserError
from analysis.stats.sequential import ALPHA, Looks, boundaries

PLANS = [(5, 8), (5, 8, 12), (5, 8, 12, 20)]


def statistics(looks: tuple[int, ...], replicates: int, seed: int) -> np.ndarray:
    """t (R, K) of standard normal values at each look."""
    values = np.random.default_rng(seed).standard_normal((replicates, looks[-1]))
    each = [values[:, :n] for n in looks]
    return np.stack([x.mean(axis=1) / x.std(axis=1, ddof=1) * math.sqrt(x.shape[1]) for x in each], axis=1)


def excess(looks: tuple[int, ...], alpha: float, replicates: int, seed: int) -> np.ndarray:
    """Simulated minus planned shares that first cross at each look, in binomial standard errors."""
    crossed = np.abs(statistics(looks, replicates, seed)) >= Looks(looks).boundaries(alpha)
    first = crossed & (crossed.cumsum(axis=1) == 1)
    planned = np.diff([0, *Looks(looks).spent(alpha)])
    return (first.mean(axis=0) - planned) / np.sqrt(planned * (1 - planned) / replicates)


@pytest.mark.parametrize("looks", PLANS, ids=str)
def test_each_look_spends_its_share_of_the_error(looks):
    assert np.abs(excess(looks, ALPHA, 200_000, 1)).max() < 3.5


@pytest.mark.nightly
@pytest.mark.parametrize("alpha", [ALPHA, ALPHA / 2, ALPHA / 3])
@pytest.mark.parametrize("looks", [*PLANS, (5, 6), (6, 9, 10, 16)], ids=str)
def test_each_look_spends_its_share_of_the_error_in_four_million_replicates(looks, alpha):
    assert np.abs(sum(excess(looks, alpha, 400_000, seed) for seed in range(2, 12))).max() / math.sqrt(10) < 3.5


@pytest.mark.parametrize("seeds", [2, 3, 5, 8, 12])
def test_one_look_is_students_t(seeds):
    assert Looks((seeds,)).boundaries(ALPHA) == pytest.approx([stats.t.ppf(0.975, seeds - 1)])
    assert Looks((seeds,)).p_value([2.5], [seeds]) == pytest.approx(2 * stats.t.sf(2.5, seeds - 1))


@settings(max_examples=8, deadline=None)
@given(st.sampled_from(PLANS[:2]), st.floats(0.001, 0.2), st.data())
def test_at_its_boundary_a_look_has_the_p_value_alpha(looks, alpha, data):
    plan = Looks(looks)
    look = data.draw(st.integers(0, len(looks) - 1))
    t = [*[math.nan] * look, plan.boundaries(alpha)[look]]
    assert plan.p_value(t, looks) == pytest.approx(alpha, rel=0.01)


def test_many_looks_cost_more_than_one():
    assert Looks((5, 8, 12)).boundaries(ALPHA)[-1] > Looks((12,)).boundaries(ALPHA)[0]


def test_a_seed_without_an_estimate_changes_the_boundary_and_no_look_is_counted_twice():
    plan = Looks((5, 8, 12))
    assert plan.boundaries(ALPHA, [4])[0] > plan.boundaries(ALPHA)[0]
    assert boundaries((1, 8, 8), plan.spent(ALPHA))[0] == math.inf
    assert len(set(boundaries((1, 8, 8), plan.spent(ALPHA)))) == 2


@pytest.mark.parametrize(
    ("seeds", "needs"), [((3, 5), "of several needs 5"), ((8, 5), "ascending"), ((), "missing"), ((1,), "from 2")]
)
def test_looks_that_make_no_sense_are_refused(seeds, needs):
    with pytest.raises(UserError, match=needs):
        Looks(seeds)
