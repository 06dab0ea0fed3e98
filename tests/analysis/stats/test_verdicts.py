"""Verdicts: their precedence, looks that freeze an answer, families, and the seeds that would settle a question."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.errors import UserError
from analysis.stats.arrays import Array
from analysis.stats.estimates import Censored, Estimates
from analysis.stats.imputation import interval_over_seeds, mean_over_seeds
from analysis.stats.intervals import t_interval
from analysis.stats.sequential import ALPHA, Looks
from analysis.stats.settling import WANTED
from analysis.stats.verdicts import Question, Verdict, holm, judge

NOISE = np.array([-0.7, 0.4, 1.1, -0.9, 0.3, -0.5, 0.8, -0.2, 0.6, -1.0, 0.2, -0.1])
LOOKS = Looks((5, 8, 12))


def noise(seeds: int) -> Array:
    """With mean 0 and standard deviation 1."""
    return np.asarray(stats.zscore(NOISE[:seeds], ddof=1))


def ends(found: Verdict) -> tuple[float, float]:
    assert found.interval is not None
    assert found.interval.low is not None
    assert found.interval.high is not None
    return found.interval.low, found.interval.high


def verdict(
    mean: float, spread: float, margin: float | None = 1.0, seeds: int = 8, looks: Looks | None = None
) -> Verdict:
    """Of `seeds` values with that sample mean and standard deviation."""
    return judge([Question(estimates=Estimates(values=mean + spread * noise(seeds)), margin=margin)], looks)[0]


@pytest.mark.parametrize(
    ("mean", "spread", "margin", "answer", "small"),
    [
        (2.0, 0.5, 1.0, "effect", False),
        (0.5, 0.1, 1.0, "effect", True),
        (0.1, 0.5, 1.0, "equivalent", True),
        (0.1, 0.5, None, "undecided", False),
        (0.1, 3.0, 1.0, "undecided", False),
    ],
)
def test_an_effect_comes_before_equivalence_and_both_before_undecided(mean, spread, margin, answer, small):
    found = verdict(mean, spread, margin)
    assert (found.answer, found.small) == (answer, small)
    want = t_interval(mean + spread * noise(8))
    assert want is not None
    assert ends(found) == pytest.approx((want.low, want.high))
    assert found.margin == margin


@given(st.floats(-3, 3), st.floats(0.01, 3), st.floats(0.01, 3))
def test_the_verdict_is_what_interval_and_margin_say(mean, spread, margin):
    found = verdict(mean, spread, margin)
    low, high = ends(found)
    expected = "effect" if low > 0 or high < 0 else "equivalent" if -margin <= low and high <= margin else "undecided"
    assert found.answer == expected
    assert found.p is not None
    assert (found.p <= ALPHA) == (expected == "effect")


def test_an_answer_is_frozen_at_its_look():
    values = np.concatenate([3 + 0.2 * noise(5), np.full(7, -50.0)])
    found = judge([Question(estimates=Estimates(values=values), margin=1.0)], LOOKS)[0]
    assert (found.answer, found.look) == ("effect", 5)
    assert ends(found)[0] > 2


def test_between_looks_later_seeds_do_not_count_and_before_the_first_there_is_no_interval():
    assert verdict(0.1, 3.0, seeds=7, looks=LOOKS).look == 5
    early = verdict(3.0, 0.1, seeds=4, looks=LOOKS)
    assert (early.answer, early.look, early.p) == ("undecided", None, None)
    assert early.interval is not None
    assert early.interval.low is None
    assert early.interval.estimate == pytest.approx(3.0)


def test_a_look_has_a_wider_interval_than_a_study_of_one_look():
    assert ends(verdict(0.1, 3.0, seeds=12, looks=LOOKS))[1] > ends(verdict(0.1, 3.0, seeds=12))[1]


def test_primaries_share_the_error_and_holm_passes_it_on():
    def at(p: float) -> Question:
        return Question(estimates=Estimates(values=noise(8) + stats.t.isf(p / 2, 7) / math.sqrt(8)), margin=0.01)

    found = judge([at(0.01), at(0.04), at(0.02)])
    assert [each.answer for each in found] == ["effect", "effect", "effect"]
    assert [each.only_holm for each in found] == [False, True, True]
    assert holm([each.p or 1.0 for each in found]) == pytest.approx([0.03, 0.04, 0.04])
    assert [each.answer for each in judge([at(0.02), at(0.04), at(0.03)])] == ["undecided"] * 3
    with pytest.raises(UserError, match="at most 3"):
        judge([at(0.01)] * 4)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_holms_p_values_keep_their_order_and_are_never_below_their_own(ps):
    corrected = holm(ps)
    assert all(0 <= p <= c <= 1 for p, c in zip(ps, corrected, strict=True))
    assert [corrected[i] for i in np.argsort(ps)] == sorted(corrected)


def test_a_seed_without_an_estimate_keeps_its_place_in_the_looks():
    values = np.concatenate([NOISE[:4], [np.nan], NOISE[4:8]])
    found = judge([Question(estimates=Estimates(values=values), margin=0.1)], LOOKS)[0]
    assert (found.look, found.evidence[0].count, found.evidence[1].count) == (8, 4, 7)


def test_a_few_censored_slopes_have_the_interval_of_their_imputation():
    rng = np.random.default_rng(0)
    x = np.array([0.0, 1.0, 2.0])
    low = 3 + 0.5 * x + rng.normal(0, 0.2, (6, 3))
    high = low.copy()
    high[1:3, 2] = np.inf
    slopes = low @ (x - 1) / 2
    censored = Estimates(values=slopes, censored=Censored(x=x, low=low, high=high))
    found = judge([Question(estimates=censored, margin=0.1)])[0]
    assert found.interval is not None
    want = interval_over_seeds(x, low, high)
    assert (found.interval.estimate, found.interval.low, found.interval.high) == pytest.approx(
        (want.estimate, want.low, want.high), abs=1e-6
    )
    assert found.answer == "effect"
    touching = found.evidence[0].interval(abs(found.evidence[0].t))
    assert touching is not None
    assert touching.low == pytest.approx(0, abs=1e-6)
    high[:, 1:] = np.inf
    bound = judge([Question(estimates=Estimates(values=slopes, censored=Censored(x=x, low=low, high=high)))])[0]
    assert bound.answer == "effect"  # of a slope that is only bounded from below
    assert bound.interval is not None
    assert (bound.interval.estimate, bound.interval.high) == (pytest.approx(slopes.mean()), np.inf)
    high[:] = np.inf
    nothing = judge([Question(estimates=Estimates(values=slopes, censored=Censored(x=x, low=low, high=high)))])[0]
    assert (nothing.answer, nothing.interval, nothing.p, nothing.settling) == ("undecided", None, None, None)


def test_bounds_of_differences_give_the_interval_of_their_imputation():
    low, high = NOISE[:8, None] - 2.0, NOISE[:8, None] - 2.0
    low[0], high[3] = -np.inf, np.inf
    one = Censored(x=np.zeros(1), low=low, high=high)
    found = judge([Question(estimates=Estimates(values=NOISE[:8] - 2.0, censored=one))])[0]
    want = mean_over_seeds(low[:, 0], high[:, 0])
    assert found.answer == "effect"
    assert ends(found) == pytest.approx((want.low, want.high), abs=1e-6)


def power(seeds: int, ratio: float) -> float:
    """Of a single t test, against either side's tail: the noncentral t distribution."""
    return float(stats.nct.sf(stats.t.ppf(0.975, seeds - 1), seeds - 1, ratio * math.sqrt(seeds)))


def test_seeds_to_settle_are_those_of_the_noncentral_t_at_the_ends_of_the_deviations_interval():
    found = verdict(0.3, 2.0, margin=1.0, seeds=8).settling
    assert found is not None
    for seeds, share in zip(found.effect, (0.9, 0.1), strict=True):
        deviation = 2.0 * math.sqrt(7 / stats.chi2.ppf(share, 7))
        want = next(n for n in range(2, 1000) if power(n, 1 / deviation) >= WANTED)
        assert seeds == pytest.approx(max(want, 9), abs=2)


@settings(max_examples=20, deadline=None)
@given(st.floats(-0.4, 0.4), st.sampled_from([None, LOOKS]))
def test_seeds_to_settle_never_depend_on_the_effect_seen(mean, looks):
    assert verdict(mean, 2.0, 1.0, looks=looks).settling == verdict(0.0, 2.0, 1.0, looks=looks).settling


def test_seeds_to_settle_are_a_later_look_while_one_is_enough():
    found = verdict(0.1, 0.8, 1.0, seeds=5, looks=LOOKS).settling
    assert found is not None
    assert found.effect[0] == 8
    assert found.effect[1] is not None
    assert found.effect[1] > 12
    assert verdict(0.1, 1.0, margin=None).settling is None
    wide = verdict(0.1, 300.0, 1.0).settling
    assert wide is not None
    assert wide.effect == wide.equivalent == (None, None)


@pytest.mark.parametrize("margin", [-1.0, 0.0, math.nan, math.inf])
def test_a_margin_that_is_not_above_zero_is_refused(margin):
    with pytest.raises(UserError, match="above 0"):
        verdict(0.1, 1.0, margin)
