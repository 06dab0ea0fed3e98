from __future__ import annotations

import numpy as np
import pytest

from tests.benchmarks.interleaved import ratio, rounds


def test_contenders_take_turns_and_the_first_round_is_thrown_away():
    calls = []

    def contender(name):
        return lambda: calls.append(name) or float(len(calls))

    speeds = list(rounds({"a": contender("a"), "b": contender("b")}, 3))
    assert calls == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert len(speeds) == 3
    assert speeds[0] == {"b": 3.0, "a": 4.0}


def test_the_interval_holds_the_true_median_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        found = ratio(list(np.exp(rng.normal(0.1, 0.2, 12))), [1.0] * 12)
        assert found.low <= found.median <= found.high
        held += found.low <= np.exp(0.1) <= found.high
    assert held / 400 >= 0.95


def test_too_few_rounds_have_no_interval():
    with pytest.raises(ValueError, match="at least 6"):
        ratio([1.0] * 5, [1.0] * 5)
