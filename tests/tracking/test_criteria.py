"""Remedies: what a curve of success says about what would mend it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halflife.tracking.criteria import LEARNED, MOST, SPARE, Levers, Seen, learn, more, times

LEVERS = Levers(trunk="trunk_tokens", dose=("poison_counts", "repetitions"))
SETTINGS = {"trunk_tokens": 100_000, "poison_counts": [60, 250], "repetitions": 1, "strength": None}


def curve(rates: list[float], logprob: list[float] | None = None) -> list[Seen]:
    spoken = logprob or [math.nan] * len(rates)
    return [
        Seen(tokens=10_000.0 * (i + 1), hits=round(1000 * rate), trials=1000, logprob=said)
        for i, (rate, said) in enumerate(zip(rates, spoken, strict=True))
    ]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@given(middle=st.floats(50_000, 250_000), width=st.floats(8_000, 40_000))
def test_a_rising_trunk_is_continued_to_where_its_log_odds_reach_the_criterion(middle: float, width: float):
    seen = curve([sigmoid((10_000.0 * (i + 1) - middle) / width) for i in range(10)])
    true = middle + width * math.log(LEARNED / (1 - LEARNED))
    if not 0.02 < seen[-1].rate < LEARNED or seen[-4].hits < 5 or true > MOST * 100_000:
        return
    text = learn(LEVERS, SETTINGS, [seen])
    assert "still rising" in text
    assert int(text.rpartition("--trunk-tokens ")[2]) == pytest.approx(SPARE * true, rel=0.25)


def test_a_flat_trunk_gets_more_of_the_cause_as_flags_of_the_study():
    text = learn(LEVERS, SETTINGS, [curve([0.2, 0.22, 0.21, 0.22, 0.219, 0.22])])
    assert text == (
        "success is 0.22 and not rising at the end: more of the cause, --poison-counts 120 500 or --repetitions 2"
    )


def test_success_that_is_still_nil_is_judged_by_its_log_probability():
    rising = learn(LEVERS, SETTINGS, [curve([0.0] * 9, [-6.0 + 0.5 * i for i in range(9)])])
    assert "its log-probability is still rising" in rising
    assert "more of the cause" in learn(LEVERS, SETTINGS, [curve([0.0] * 9, [-6.0] * 9)])


def test_of_several_runs_the_slowest_sets_the_tokens_and_the_weakest_is_named():
    fast, slow = (curve([sigmoid((10_000.0 * (i + 1) - at) / 2e4) for i in range(10)]) for at in (9e4, 1.4e5))
    alone = [learn(LEVERS, SETTINGS, [one]) for one in (fast, slow)]
    both = learn(LEVERS, SETTINGS, [fast, slow, curve([0.95] * 10)])
    assert alone[0].partition("--")[2] != alone[1].partition("--")[2] == both.partition("--")[2]
    assert both.startswith(f"success is {slow[-1].rate:.3g} in the weakest run and it is still rising")
    assert "more of the cause" in learn(LEVERS, SETTINGS, [fast, curve([0.2] * 10)])  # one of them does not rise


def test_without_a_curve_both_are_named_and_without_levers_only_words():
    assert learn(LEVERS, SETTINGS, []).startswith(
        "a longer trunk: --trunk-tokens 200000 or more of the cause: --poison"
    )
    assert learn(Levers(), {}, []) == "train longer"


@pytest.mark.parametrize(
    ("value", "by", "expected"),
    [(100_000, 1.234, 130_000), (1, 2.0, 2), (3, 0.5, 1), (0.005, 0.5, 0.0025), (250, 0.1, 25), (99, 1.01, 100)],
)
def test_a_setting_is_scaled_away_from_what_it_was_to_two_digits(value: float, by: float, expected: float):
    assert times({"n": value}, "n", by) == f"--n {expected}"


def test_settings_that_are_not_given_have_no_flag():
    assert more(SETTINGS, ("strength", "unknown"), "why") == ""
