from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halflife.errors import UserError
from halflife.sweep.search import Integers, LogUniform, Uniform, grid, random_search

AXES = {
    "rate": LogUniform(low=1e-4, high=1e-1),
    "share": Uniform(low=0.0, high=0.5),
    "layers": Integers(low=2, high=4),
    "optimizer": ("adamw", "sgd"),
}


def test_a_grid_is_every_combination_with_the_last_axis_fastest():
    assert grid(size=("1k", "2k"), seed=(0, 1)) == [
        {"size": "1k", "seed": 0},
        {"size": "1k", "seed": 1},
        {"size": "2k", "seed": 0},
        {"size": "2k", "seed": 1},
    ]


@pytest.mark.parametrize(("values", "reason"), [((), "has no values"), ((1, 2, 1), "the value 1 twice")])
def test_a_grid_refuses_an_axis_that_is_empty_or_repeats(values: tuple[int, ...], reason: str):
    with pytest.raises(UserError, match=f"'seed' .*{reason}|'seed' has {reason}"):
        grid(seed=values)


@given(count=st.integers(1, 20), more=st.integers(0, 20), seed=st.integers(0, 2**31))
@settings(max_examples=25)
def test_a_longer_search_begins_with_the_shorter(count: int, more: int, seed: int):
    assert random_search(AXES, count + more, seed)[:count] == random_search(AXES, count, seed)


@given(seed=st.integers(0, 2**31))
@settings(max_examples=25)
def test_draws_stay_within_their_axes(seed: int):
    for draw in random_search(AXES, 20, seed):
        assert 1e-4 <= draw["rate"] < 1e-1
        assert 0.0 <= draw["share"] < 0.5
        assert draw["layers"] in (2, 3, 4)
        assert draw["optimizer"] in ("adamw", "sgd")


def test_a_draw_on_one_axis_does_not_depend_on_the_others():
    alone = random_search({"rate": AXES["rate"]}, 5, seed=3)
    assert [draw["rate"] for draw in random_search(AXES, 5, seed=3)] == [draw["rate"] for draw in alone]


@pytest.mark.parametrize(
    "axis", [(), Uniform(low=1.0, high=1.0), LogUniform(low=0.0, high=1.0), Integers(low=3, high=2)]
)
def test_a_search_refuses_an_axis_with_nothing_to_draw_from(axis):
    with pytest.raises(UserError, match="'x'"):
        random_search({"x": axis}, 1, seed=0)


def test_a_search_of_no_draws_is_refused():
    with pytest.raises(UserError, match="expected at least 1"):
        random_search(AXES, 0, seed=0)
