from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

from analysis.answers.decisions import decision_accuracy
from halflife.tracking.questions import Crossing, Last, Quantity, Trend
from tests.analysis.answers.made import study

LEVEL = Quantity(name="level", label="the level", measure="branch/task/level", moment=Last())
SIZES, SEEDS, SETTINGS = (10, 100, 1000), 6, 6
ASKED = Trend(name="size", label="?", quantity="level", axis="parameters")


def found(level: Callable[[dict[str, Any]], float], quantity: Quantity = LEVEL, seeds: int = SEEDS) -> pl.DataFrame:
    trials = [{"seed": seed, "parameters": size, "treatment": f"t{setting}"}
              for seed in range(seeds) for size in SIZES for setting in range(SETTINGS)]  # fmt: skip
    data = study(trials, lambda row: {"branch/task/level": [(0, 1.0), (4096, level(row))]}, [quantity], [ASKED])
    return decision_accuracy(data)


def means(table: pl.DataFrame) -> dict[int, dict[str, Any]]:
    return {row["parameters"]: row for row in table.filter(pl.col("seed").is_null()).to_dicts()}


def rank(row: dict[str, Any]) -> int:
    return int(row["treatment"][1:])


def test_the_same_order_at_every_size_is_always_right():
    assert [row["accuracy"] for row in means(found(rank)).values()] == [1.0, 1.0, 1.0]


def test_an_order_that_turns_round_is_always_wrong():
    turned = means(found(lambda row: rank(row) * (1 if row["parameters"] == 1000 else -1)))
    assert [turned[size]["accuracy"] for size in SIZES] == [0.0, 0.0, 1.0]
    assert turned[10]["low"] is None  # seeds do not differ


def test_noise_gives_the_planted_accuracy():
    """Two settings d apart, noise of deviation s in each run: one run is right in Phi(d / (s sqrt 2))."""
    rng, s = np.random.default_rng(5), 3.0
    noise = {10: s, 100: s / 3, 1000: 1e-6}
    table = means(found(lambda row: rank(row) + noise[row["parameters"]] * rng.normal(), seeds=30))
    for size, spread in noise.items():
        gaps = [b - a for a in range(SETTINGS) for b in range(a + 1, SETTINGS)]
        truth = np.mean([0.5 * (1 + math.erf(gap / spread / 2)) for gap in gaps])
        assert table[size]["accuracy"] == pytest.approx(truth, abs=0.04)
        assert table[size]["low"] is None or table[size]["low"] <= truth <= table[size]["high"]


def test_sizes_that_know_nothing_are_a_coin():
    rng = np.random.default_rng(6)
    table = means(found(lambda row: rank(row) if row["parameters"] == 1000 else rng.normal(), seeds=40))
    assert table[10]["accuracy"] == pytest.approx(0.5, abs=0.06)
    assert table[10]["low"] < 0.5 < table[10]["high"]


def test_pairs_whose_order_is_censored_at_the_largest_size_do_not_count():
    crossing = Quantity(name="level", label="the time", measure="branch/task/level", moment=Crossing(threshold=0.5))
    table = means(found(lambda row: 0.9 if rank(row) > 3 else 0.1 * rank(row), crossing))
    assert table[10]["pairs"] == SETTINGS * (SETTINGS - 1) // 2 - 1  # t4 against t5
    assert table[10]["accuracy"] == 1.0


def test_compute_is_six_flops_per_parameter_and_token():
    assert {row["parameters"]: row["compute"] for row in found(rank).to_dicts()} == {n: 6 * n * 4096 for n in SIZES}


def test_two_settings_or_one_size_have_no_accuracy():
    trials = [{"seed": 0, "parameters": size, "treatment": f"t{i}"} for size in SIZES for i in range(2)]
    curves = {"branch/task/level": [(0, 1.0), (4096, 0.3)]}
    assert decision_accuracy(study(trials, lambda row: curves, [LEVEL], [ASKED])).is_empty()
    one = [{"seed": 0, "parameters": 10, "treatment": f"t{i}"} for i in range(5)]
    assert decision_accuracy(study(one, lambda row: curves, [LEVEL], [ASKED])).is_empty()
