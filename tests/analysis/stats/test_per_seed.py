"""Tables to one estimate a seed: pairs, slopes, rank correlations; one line on bad input."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis.errors import UserError
from analysis.stats.per_seed import association, contrast, trend

SEEDS, SIZES = (3, 1, 2), (10, 100)


def cells(**more: object) -> pl.DataFrame:
    """y = 100 seed + ln size, and 0.5 + 0.1 seed more in arm b."""
    rows = [
        {"seed": seed, "size": size, "arm": arm, "y": 100 * seed + math.log(size) + (arm == "b") * (0.5 + 0.1 * seed)}
        for seed in SEEDS for size in SIZES for arm in "ab"
    ]  # fmt: skip
    return pl.DataFrame(rows).with_columns(pl.lit(value).alias(name) for name, value in more.items())


def test_a_contrast_is_one_paired_difference_a_seed_in_the_order_of_seeds():
    found = contrast(cells(), "y", "arm", high="b", low="a", seed="seed", pair=["size"])
    assert found.seeds == [1, 2, 3]
    assert found.values == pytest.approx([0.6, 0.7, 0.8])


def test_values_that_only_rounding_tells_apart_are_equal():
    table = pl.DataFrame({"seed": [1, 1, 2, 2], "arm": ["a", "b"] * 2, "y": [0.3, 0.1 + 0.2, 3e-20, 1e-20]})
    assert table["y"][0] != table["y"][1]
    found = contrast(table, "y", "arm", high="b", low="a", seed="seed")
    assert found.values == pytest.approx([0, -2e-20], rel=1e-9, abs=0)


@given(st.permutations(range(12)))
def test_the_order_of_rows_does_not_matter(order):
    found = contrast(cells()[order], "y", "arm", high="b", low="a", seed="seed", pair=["size"])
    assert found.values == pytest.approx([0.6, 0.7, 0.8])


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_seed_that_lacks_a_value_of_any_pair_gives_none(value):
    gap = (pl.col("seed") == 2) & (pl.col("size") == 100) & (pl.col("arm") == "a")
    table = cells().with_columns(pl.when(gap).then(pl.lit(value, dtype=pl.Float64)).otherwise("y").alias("y"))
    for each in (table, table.filter(~gap)):
        found = contrast(each, "y", "arm", high="b", low="a", seed="seed", pair=["size"])
        assert found.values == pytest.approx([0.6, math.nan, 0.8], nan_ok=True)


def test_sizes_that_only_one_arm_has_are_left_out_and_numbers_are_matched_as_numbers():
    table = cells().filter((pl.col("arm") == "a") | (pl.col("size") == 10))
    table = table.with_columns((pl.col("arm") == "b").cast(pl.Float64).alias("arm"))
    found = contrast(table, "y", "arm", high="1", low="0", seed="seed", pair=["size"])
    assert found.values == pytest.approx([0.6, 0.7, 0.8])


@pytest.mark.parametrize("high", ["true", "True", True, "1"])
def test_arms_may_be_true_and_false_and_columns_may_have_any_name(high):
    table = cells().with_columns(pl.col("arm") == "b").rename({"seed": "len", "size": "y_right", "y": "pairs"})
    found = contrast(table, "pairs", "arm", high=high, low=False, seed="len", pair=["y_right"])
    assert found.values == pytest.approx([0.6, 0.7, 0.8])


def test_a_trend_is_one_slope_a_seed():
    table = cells().filter(pl.col("arm") == "a").with_columns(pl.col("y") * pl.col("seed"))
    found = trend(table, "y", "size", seed="seed", log=True)
    assert found.values == pytest.approx([1, 2, 3])
    assert found.censored is None
    assert trend(table, "y", "size", seed="seed").values == pytest.approx(np.array([1, 2, 3]) * math.log(10) / 90)


def test_a_censored_value_is_a_bound_and_a_seed_without_a_size_gives_no_slope():
    table = cells().filter(pl.col("arm") == "a").with_columns(
        ((pl.col("size") == 100) & (pl.col("seed") == 1)).alias("late")
    ).filter((pl.col("size") == 10) | (pl.col("seed") != 3))  # fmt: skip
    found = trend(table, "y", "size", seed="seed", log=True, censored="late")
    assert found.values == pytest.approx([1, 1, math.nan], nan_ok=True)
    assert found.censored is not None
    assert np.isinf(found.censored.high).tolist() == [[False, True], [False, False], [False, False]]


def test_an_association_is_one_rank_correlation_a_seed():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 5, 9))
    y[4] = 1.0
    rows = [(s, i, x[s, i], y[s, i]) for s in range(5) for i in range(9)]
    table = pl.DataFrame(rows, schema=["seed", "item", "x", "y"], orient="row")
    found = association(table, "x", "y", item="item", seed="seed").values
    assert found[:4] == pytest.approx([stats.spearmanr(a, b)[0] for a, b in zip(x[:4], y[:4], strict=True)])
    assert math.isnan(found[4])
    with pytest.raises(UserError, match="needs 5 or more"):
        association(table.filter(pl.col("seed") < 4), "x", "y", item="item", seed="seed")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantity": "z"}, "there is no column 'z'; columns: seed, size, arm, y"),
        ({"seed": "sede"}, "there is no column 'sede', did you mean seed"),
        ({"high": "bb"}, r"column arm has no value bb, did you mean b\?; it has a, b"),
        ({"high": "a"}, "both arms of arm are a"),
        ({"pair": []}, "2 rows have seed 3, arm a; expected one: name the column in which they differ with --pair"),
        ({"quantity": "arm", "axis": "size"}, "column arm holds text, such as 'a'"),
        ({"seed": "y"}, "column y is named twice"),
        ({"axis": "one"}, "column one has one value, 1; a contrast needs two"),
        ({"seed": "empty"}, "column empty has no values"),
    ],
)
def test_bad_input_is_named(change, message):
    given = {"quantity": "y", "axis": "arm", "high": "b", "low": "a", "seed": "seed", "pair": ["size"]} | change
    table = cells(one=1, empty=None)
    with pytest.raises(UserError, match=message) as refused:
        contrast(table, given.pop("quantity"), given.pop("axis"), **given)
    assert "\n" not in str(refused.value)


def test_rows_of_one_seed_are_paired_whether_or_not_the_seed_is_named_again():
    given = {"high": "b", "low": "a", "seed": "seed"}
    found = contrast(cells(), "y", "arm", pair=["size"], **given).values
    assert contrast(cells(), "y", "arm", pair=["seed", "size"], **given).values == pytest.approx(found)


def test_a_trend_over_one_value_or_the_logarithm_of_zero_is_refused():
    table = cells(one=1).filter(pl.col("arm") == "a")
    with pytest.raises(UserError, match="column one has one value, 1; a trend over it needs rows of two or more"):
        trend(table.filter(pl.col("size") == 10), "y", "one", seed="seed")
    with pytest.raises(UserError, match="needs values above 0"):
        trend(table.with_columns(pl.col("size") - 10), "y", "size", seed="seed", log=True)
