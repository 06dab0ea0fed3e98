"""Tokens, numbers, bits, random directions and the search, read from the planted sweep of the gallery."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from analysis.gallery import generated_prompts
from analysis.prompts import amounts
from analysis.runs.study import StudyData


def test_bits_are_the_least_over_k_and_precision_that_reach_the_threshold(study: StudyData) -> None:
    rounded = amounts.quantised(study)
    table = amounts.bits_table(rounded)
    for behaviour, series, bits in table.select("behaviour", "series", "bits").head(6).iter_rows():
        own = rounded.filter((pl.col("behaviour") == behaviour) & (pl.col("series") == series))
        enough = own.filter(pl.col("score") <= 1.0).with_columns(cost=pl.col("bits") * pl.col("numbers"))
        least = enough.group_by("seed").agg(pl.col("cost").min())["cost"].to_list()
        assert len(least) == 3
        assert bits == np.median(least)


def test_without_a_matched_loss_quantised_prompts_have_their_own_seeds_threshold(study: StudyData) -> None:
    settings = {name: value for name, value in study.declaration.settings.items() if name != "matched_loss"}
    high = pl.col("trial").str.starts_with("30k 1 ") & pl.col("name").str.contains(r"/loss")
    points = study.points.with_columns(value=pl.col("value") + pl.when(high).then(5.0).otherwise(0.0))
    own = replace(study, declaration=replace(study.declaration, settings=settings), points=points)
    rounded = amounts.quantised(own).filter(series="30k")
    aims = rounded.group_by("behaviour", "seed").agg(pl.col("threshold").unique()).explode("threshold")
    assert aims.height == 3 * len(generated_prompts.BEHAVIOURS)
    by_seed = aims.group_by("seed").agg(pl.col("threshold").mean()).sort("seed")["threshold"].to_list()
    assert by_seed[1] - by_seed[0] == pytest.approx(5.0, abs=0.2)
    table = amounts.bits_table(amounts.quantised(own))
    assert (table["reached"] == table["seeds"]).all()


def test_the_matched_loss_of_runs_published_under_its_old_name_is_read(study: StudyData) -> None:
    settings = {name.replace("matched_loss", "matched"): value for name, value in study.declaration.settings.items()}
    old = replace(study, declaration=replace(study.declaration, settings=settings))
    assert amounts.matched_loss(old) == amounts.matched_loss(study) == generated_prompts.LOSS


def test_directions_are_the_fewest_that_reach_the_threshold_and_infinite_if_none_do(study: StudyData) -> None:
    table = amounts.directions_table(amounts.in_subspaces(study))
    assert set(table["directions"]) <= {*map(float, generated_prompts.SUBSPACES)}
    worse = study.points.with_columns(
        pl.when((pl.col("phase") == "subspaces") & pl.col("name").str.starts_with("say-1."))
        .then(pl.col("value") + 9).otherwise("value").alias("value")
    )  # fmt: skip
    never = amounts.directions_table(amounts.in_subspaces(replace(study, points=worse)))
    row = never.filter(pl.col("behaviour") == "say-1").row(0, named=True)
    assert (row["directions"], row["reached"], row["last"]) == (np.inf, 0, 1024.0)


def test_sizes_that_need_equal_numbers_agree_in_numbers_and_not_in_tokens(study: StudyData) -> None:
    table = amounts.compared(study)
    assert set(table["amount"]) == set(amounts.AMOUNTS)
    both = table.pivot("series", index=["amount", "behaviour"], values="estimate")
    ratio = {
        amount: float(np.exp(np.mean(np.log((part["60k"] / part["30k"]).to_numpy()))))
        for (amount,), part in both.group_by(["amount"])
    }
    assert ratio["tokens"] < 0.75
    assert ratio["numbers"] == pytest.approx(1.2, abs=0.25)  # at least one token is taken
    assert ratio["directions"] == pytest.approx(1.0, abs=0.2)
    assert table["behaviour"].unique(maintain_order=True).to_list() == list(generated_prompts.BEHAVIOURS)


def test_the_search_is_read_to_one_token_with_its_cost(study: StudyData) -> None:
    found = amounts.searched(study)
    assert found.height == 2 * 3 * len(generated_prompts.BEHAVIOURS)
    assert found.filter(pl.col("behaviour") == "say-32")["c"].n_unique() > 1
    table = amounts.search_table(found, study.declaration.settings)
    assert table["of_full_grid"].to_numpy().max() < 0.2
    assert (table["low"] <= table["c"]).all()


def test_a_study_without_these_phases_has_empty_tables(study: StudyData) -> None:
    bare = replace(study, points=study.points.filter(pl.col("phase") == "prompts"))
    assert amounts.compared(bare).is_empty()
    assert amounts.searched(bare).is_empty()
    assert amounts.search_table(amounts.searched(bare), bare.declaration.settings).is_empty()
    assert amounts.bits_table(amounts.quantised(bare)).is_empty()
    assert amounts.directions_table(amounts.in_subspaces(bare)).is_empty()
