from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from analysis.decay.retention import half_lives, retention_curves
from analysis.stats.scaling import area_slope, by_size, gamma_text, slope

SIZES = np.array([30_000, 100_000, 300_000, 1_000_000])


def frame(
    rng: np.random.Generator, gamma: float, seeds: int, sizes=SIZES, shared=0.3, own=0.1, span=np.inf
) -> pl.DataFrame:
    """Half-lives of T = 50 (N / 100k) ** gamma with noise shared by a seed's sizes and of each run; cut at `span`."""
    rows = []
    for seed in range(seeds):
        tilt = shared * rng.normal()
        for n in sizes:
            time = 50 * (n / 1e5) ** gamma * np.exp(tilt + own * rng.normal())
            seen = time <= span
            rows.append({
                "size": str(n), "parameters": int(n), "seed": seed, "kind": "observed" if seen else "censored",
                "low": min(time, span), "estimate": time if seen else None,
            })  # fmt: skip
    return pl.DataFrame(rows, schema_overrides={"estimate": pl.Float64})


def test_a_planted_slope_without_noise_is_recovered_exactly():
    found = slope(frame(np.random.default_rng(0), 0.4, 5, own=0.0))
    assert found.interval is not None
    assert found.interval.estimate == pytest.approx(0.4)
    assert found.no_claim is None


def test_the_planted_slope_of_a_whole_sweep_lies_in_its_interval(full):
    times = half_lives(retention_curves(full))
    main = times.filter((pl.col("criterion") == "logprob") & (pl.col("clock") == "tokens") & pl.col("is_reference"))
    found = slope(main).interval
    assert found is not None
    assert found.contains(0.4)
    assert not found.contains(0.55)


def test_intervals_of_the_slope_have_their_nominal_coverage():
    rng = np.random.default_rng(1)
    found = [slope(frame(rng, 0.3, 5)).interval for _ in range(300)]
    assert 0.91 <= np.mean([f is not None and f.contains(0.3) for f in found]) <= 0.985


def test_no_slope_is_found_if_there_is_none():
    rng = np.random.default_rng(2)
    found = [slope(frame(rng, 0.0, 3, sizes=SIZES[:3])).interval for _ in range(300)]
    assert np.mean([f is None or not f.contains(0.0) for f in found]) < 0.09


def test_a_seed_censored_at_the_largest_size_gives_a_lower_bound():
    rng = np.random.default_rng(3)
    table = frame(rng, 0.8, 5, shared=0.0, own=0.0, span=200)  # 1m would need 315
    found = slope(table)
    assert set(found.seeds["kind"]) == {"at least"}
    assert found.interval is None
    assert found.bound is not None
    assert found.bound[0] == "at least"
    assert found.bound[1] < 0.8
    assert found.no_claim is not None


def test_a_seed_censored_at_the_smallest_size_gives_an_upper_bound():
    found = slope(frame(np.random.default_rng(4), -0.8, 5, shared=0.0, own=0.0, span=100))
    assert set(found.seeds["kind"]) == {"at most"}
    assert found.bound is not None
    assert found.bound[1] > -0.8


def test_a_seed_censored_at_both_ends_gives_nothing():
    table = frame(np.random.default_rng(5), 0.0, 2, own=0.0).with_columns(
        kind=pl.when(pl.col("parameters").is_in([30_000, 1_000_000])).then(pl.lit("censored")).otherwise("kind")
    )
    assert set(slope(table).seeds["kind"]) == {"none"}


def test_a_seed_that_lacks_the_largest_size_has_no_slope():
    table = frame(np.random.default_rng(6), 0.4, 3).filter(
        ~((pl.col("seed") == 0) & (pl.col("parameters") == 1_000_000))
    )
    found = slope(table)
    assert found.whole == 2
    assert found.seeds.filter(pl.col("seed") == 0)["kind"].item() == "none"


def test_a_seed_that_lacks_a_middle_size_has_no_slope_and_there_is_no_claim():
    table = frame(np.random.default_rng(6), 0.4, 6).filter(~((pl.col("seed") == 0) & (pl.col("parameters") == 100_000)))
    found = slope(table)
    assert (found.whole, found.complete) == (5, False)
    assert found.no_claim == "1 of 6 seeds lacks a size"
    assert gamma_text(found).endswith("over 5 of 6 seeds (1 lacks a size)")


def test_a_few_censored_half_lives_count_in_the_slope_of_all_seeds():
    table = frame(np.random.default_rng(9), 0.4, 12, own=0.3, span=95)
    found = slope(table)
    assert found.whole < 12
    assert found.complete
    assert found.no_claim is None
    assert found.interval is not None
    assert found.interval.contains(0.4)
    assert found.interval.estimate > np.mean(found.seeds["slope"].to_list())  # censored ones taken at their bound
    assert f"over 12 seeds ({found.censored} of 48 half-lives censored)" in gamma_text(found)


def test_with_many_censored_the_text_has_the_bound_and_the_uncensored_interval_but_no_claim():
    found = slope(frame(np.random.default_rng(9), 0.4, 30, shared=0.25, own=0.2, span=90))
    assert found.censored == 38
    assert not found.imputed
    assert found.whole == 2
    assert "2 of 30 seeds reached half at every size" in (found.no_claim or "")
    assert "γ at least 0.29 over all 30 seeds" in gamma_text(found)
    assert gamma_text(found).endswith(" over 2 seeds that reached half at every size")


def test_a_seed_needs_every_requested_size():
    table = frame(np.random.default_rng(0), 0.4, 5)
    part = table.filter(pl.col("parameters") < 1_000_000)
    assert slope(part).whole == 5
    assert slope(part, table["parameters"]).whole == 0


def test_mean_retention_has_a_slope_even_if_half_lives_are_censored():
    rows = [(n, seed, 0.2 + 0.05 * np.log(n / 1e5) + 0.01 * seed) for n in SIZES for seed in range(5)]
    found = area_slope(pl.DataFrame(rows, schema=["parameters", "seed", "area"], orient="row"))
    assert found.complete
    assert found.interval is not None
    assert found.interval.estimate == pytest.approx(0.05)


@pytest.mark.parametrize(("seeds", "sizes", "reason"), [
    (4, SIZES, "4 of 5 seeds"),
    (5, SIZES[:3], "3 of 4 sizes"),
    (5, np.array([100, 200, 300, 400]) * 1000, "0.60 of 1 decade"),
])  # fmt: skip
def test_too_few_seeds_sizes_or_decades_make_no_claim(seeds, sizes, reason):
    assert reason in slope(frame(np.random.default_rng(7), 0.4, seeds, sizes=sizes)).no_claim


def test_a_size_with_many_censored_seeds_has_a_bound_and_no_mean():
    table = frame(np.random.default_rng(8), 0.8, 3, shared=0.0, own=0.0, span=200)
    sizes = by_size(table)
    largest = sizes.filter(pl.col("parameters") == 1_000_000).row(0, named=True)
    assert (largest["estimate"], largest["censored"], largest["bound"]) == (None, 3, pytest.approx(200))
    smallest = sizes.filter(pl.col("parameters") == 30_000).row(0, named=True)
    assert smallest["bound"] is None
    assert smallest["estimate"] == pytest.approx(50 * 0.3**0.8)


def test_a_few_censored_seeds_count_in_the_mean_of_their_size():
    """Two of nine seeds end early: the mean is above that with them at their last evaluation."""
    table = frame(np.random.default_rng(11), 0.4, 9, shared=0.3, own=0.2)
    own = table.filter(pl.col("parameters") == 100_000).sort("estimate", descending=True)
    span = own["estimate"][2] * 1.01
    late = pl.col("estimate") > span
    cut = own.with_columns(
        kind=pl.when(late).then(pl.lit("censored")).otherwise("kind"), low=pl.when(late).then(span).otherwise("low"),
        estimate=pl.when(late).then(None).otherwise("estimate"),
    )  # fmt: skip
    row, whole = by_size(cut).row(0, named=True), by_size(own).row(0, named=True)
    least = np.exp(np.log(own["estimate"].clip(upper_bound=span).to_numpy()).mean())
    assert (row["censored"], row["bound"]) == (2, None)
    assert row["estimate"] > least
    assert row["low"] < whole["estimate"] < row["high"]


def test_no_data_have_no_slope():
    empty = frame(np.random.default_rng(0), 0.4, 1).clear()
    found = slope(empty)
    assert (found.interval, found.bound, found.sizes) == (None, None, 0)
