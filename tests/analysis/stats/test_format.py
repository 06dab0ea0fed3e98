from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.stats.format import bracket, interval, listed, short
from analysis.stats.intervals import Interval


@pytest.mark.parametrize(("value", "text"), [
    (0, "0"), (12.345, "12.3"), (999.4, "999"), (999.6, "1.00k"), (12_345, "12.3k"), (999_600, "1.00M"),
    (2.46e6, "2.46M"), (3.1e9, "3.10B"), (0.01234, "0.0123"), (0.9999, "1.00"),
])  # fmt: skip
def test_numbers_are_shortened_to_three_figures(value, text):
    assert short(value) == text


@given(st.floats(1e-3, 1e14))
def test_a_shortened_number_is_right_to_half_a_percent(value):
    text = short(value)
    unit = {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}.get(text[-1], 1.0)
    assert float(text.rstrip("kMBT")) * unit == pytest.approx(value, rel=0.0051)


def test_a_missing_interval_is_stated():
    assert interval(Interval(estimate=0.414, low=0.37, high=0.456, count=5)) == "0.41 [0.37, 0.46]"
    assert interval(Interval(estimate=0.4, low=None, high=None, count=1)) == "0.40 (one seed, no interval)"


def test_lists_read_as_english():
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed([]) == ""


def test_an_uninformative_interval_is_shown_by_its_width():
    assert bracket(900.0, 1500.0) == "[900,\u00a01.50k]"
    assert bracket(0.0002, 1.4e11) == "[wider than a factor of 10⁴]"
