"""Rank correlations against planted ones, with and without controls."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats

from analysis.errors import UserError
from analysis.stats.association import rank_correlation


def behaviours(rng: np.random.Generator, count: int = 24, seeds: int = 3, own: float = 0.0) -> pl.DataFrame:
    """Bits and fragility both follow the loss; `own` is the direct effect of bits on fragility."""
    loss = rng.normal(size=count)
    bits = loss + rng.normal(size=count)
    fragility = loss + own * (bits - loss) + 0.7 * rng.normal(size=count)
    frame = pl.DataFrame({"behaviour": np.arange(count), "loss": loss, "bits": bits, "fragility": fragility})
    parts = [
        frame.with_columns(seed=pl.lit(seed), bits=pl.col("bits") + pl.Series(0.05 * rng.normal(size=count)))
        for seed in range(seeds)
    ]
    return pl.concat(parts)


def test_without_controls_it_is_spearmans_correlation() -> None:
    table = behaviours(np.random.default_rng(0), seeds=1)
    found = rank_correlation(table, "bits", "fragility")
    expected = stats.spearmanr(table["bits"], table["fragility"])[0]
    assert found.estimate == pytest.approx(expected)
    assert found.count == 24


def test_seeds_are_not_further_behaviours() -> None:
    table = behaviours(np.random.default_rng(1), seeds=5)
    assert rank_correlation(table, "bits", "fragility").count == 24


def test_a_common_cause_is_controlled_for() -> None:
    rng = np.random.default_rng(2)
    plain, partial, held = [], [], 0
    for _ in range(300):
        table = behaviours(rng)
        plain.append(rank_correlation(table, "bits", "fragility").estimate)
        found = rank_correlation(table, "bits", "fragility", ("loss",))
        partial.append(found.estimate)
        held += found.contains(0)
    assert np.mean(plain) > 0.35
    assert abs(np.mean(partial)) < 0.06
    assert 0.91 < held / 300 < 0.99  # rank residuals leave a little of a linear confounder


def test_a_direct_effect_is_found_given_the_control() -> None:
    rng = np.random.default_rng(3)
    found = [rank_correlation(behaviours(rng, own=1.0), "bits", "fragility", ("loss",)) for _ in range(50)]
    assert np.mean([f.low is not None and f.low > 0 for f in found]) > 0.8


def test_too_few_behaviours_or_a_constant_are_refused() -> None:
    table = behaviours(np.random.default_rng(4), count=6)
    with pytest.raises(UserError, match=r"6 behaviours have .* expected at least 7"):
        rank_correlation(table, "bits", "fragility")
    table = behaviours(np.random.default_rng(4)).with_columns(loss=pl.lit(1.0))
    with pytest.raises(UserError, match="loss is the same for all behaviours"):
        rank_correlation(table, "bits", "fragility", ("loss",))
