from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from analysis.decay.floors import floor_summary, floors
from analysis.stats.intervals import binomial_interval
from tests.analysis.planted import cadence

STEPS = np.array(cadence(2000), dtype=float)


def curves(retention, seeds=1, size="30k"):
    parts = [
        pl.DataFrame({
            "outcome": "attack", "trial": f"{size} {seed}", "role": "treatment", "size": size, "parameters": 30_000,
            "seed": seed, "setting": "reference", "is_reference": True, "tokens": STEPS,
            "retention_logprob": retention(seed), "retention_success": [None] * STEPS.size,
        }, schema_overrides={"retention_success": pl.Float64})
        for seed in range(seeds)
    ]  # fmt: skip
    return pl.concat(parts)


def logprob(found):
    assert set(found["measure"]) == {"logprob"}  # success was not measured: no row
    return found.row(0, named=True)


@pytest.mark.parametrize("floor", [0.0, 0.3, 1.0])
def test_the_interval_of_a_floor_holds_the_planted_one(floor):
    noise = np.random.default_rng(0).normal(0, 0.02, (300, STEPS.size))
    found = floors(curves(lambda seed: floor + (1 - floor) * 2 ** (-STEPS / 20) + noise[seed], seeds=300))
    settled = found.filter(pl.col("kind") == "settled")
    assert settled.height >= 0.9 * found.height
    held = settled.filter((pl.col("low") <= floor) & (floor <= pl.col("high"))).height / settled.height
    assert 0.92 <= held <= 0.98


def test_a_curve_that_still_falls_has_no_floor():
    row = logprob(floors(curves(lambda _: 1 - 0.12 * np.log1p(STEPS))))
    assert row["kind"] == "not settled"
    assert row["floor"] is row["low"] is None
    assert row["change"] == pytest.approx(-0.12 * np.log(4), rel=0.01)


def test_a_noisy_curve_has_not_settled():
    noise = np.random.default_rng(0).normal(0, 0.4, STEPS.size)
    assert logprob(floors(curves(lambda _: 0.3 + noise)))["kind"] == "not settled"


def test_a_curve_with_few_late_evaluations_has_not_settled():
    few = curves(lambda _: np.full(STEPS.size, 0.3)).filter(pl.col("tokens").is_in(STEPS[[0, 1, 2, -5, -2, -1]]))
    row = logprob(floors(few))
    assert (row["kind"], row["change"], row["evaluations"]) == ("not settled", None, 3)


def test_a_floor_at_zero_hits_has_the_binomial_interval_of_its_prompts():
    measured = curves(lambda _: np.zeros(STEPS.size), seeds=2).with_columns(
        retention_logprob=pl.lit(None, dtype=pl.Float64), chance=pl.lit(0.1),
        hits=pl.when(pl.col("tokens") == 0).then(90.0).otherwise(10.0), trials=pl.lit(100.0),
    )  # fmt: skip
    success = measured.with_columns(success=pl.col("hits") / pl.col("trials"))
    success = success.with_columns(retention_success=(pl.col("success") - 0.1) / 0.8)
    found = floors(success)
    low, high = binomial_interval(10.0 * found["evaluations"][0], 100.0 * found["evaluations"][0])
    assert found["floor"].to_list() == pytest.approx([0, 0])
    assert found["low"].to_list() == pytest.approx([(low - 0.1) / 0.8] * 2)
    assert found["high"].to_list() == pytest.approx([(high - 0.1) / 0.8] * 2)
    row = floor_summary(found).row(0, named=True)
    assert row["low"] == pytest.approx(found["low"][0])
    assert row["above_control"] is False


def test_the_floor_over_seeds_has_a_t_interval_and_is_null_if_a_run_did_not_settle():
    settled = floors(curves(lambda seed: np.full(STEPS.size, 0.2 + 0.02 * seed), seeds=3))
    row = floor_summary(settled).row(0, named=True)
    assert row["floor"] == pytest.approx(0.22)
    assert row["low"] == pytest.approx(0.22 - 4.302653 * 0.02 / 3**0.5)
    assert (row["above_control"], row["seeds"], row["settled"], row["unsettled"]) == (True, 3, 3, 0)
    mixed = floors(curves(lambda seed: 1 - 0.12 * seed * np.log1p(STEPS), seeds=2))
    row = floor_summary(mixed).row(0, named=True)
    assert (row["floor"], row["above_control"], row["settled"], row["unsettled"]) == (None, None, 1, 1)
