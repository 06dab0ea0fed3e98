"""Fragility against information, read from the planted sweep of the gallery."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from analysis.figures import FIGURES
from analysis.gallery import generated_prompts
from analysis.prompts import elicitation, fragility
from analysis.runs.study import StudyData

MEASURED_AT = generated_prompts.TOKENS[-1]


def test_measures_of_a_prompt_are_not_further_prompts(study: StudyData) -> None:
    cells = 2 * 3 * len(generated_prompts.BEHAVIOURS)
    assert elicitation.runs(study).height == cells * len(generated_prompts.TOKENS)
    assert fragility.measured(study).height == cells


def test_a_planted_correlation_of_information_and_fragility_is_found_and_its_absence_is_not(study: StudyData) -> None:
    table = fragility.correlations(study, fragility.measured(study))
    for row in table.iter_rows(named=True):
        planted = row["measure"] != fragility.MEASURES["r50"]
        assert (row["high"] < 0) == planted, row
        assert row["low"] <= row["correlation"] <= row["high"]
        assert row["behaviours"] == len(generated_prompts.BEHAVIOURS)
        assert len(row["each_seed"].split(", ")) == 3
    assert set(table["held_fixed"]) == {"nothing", "loss, norm"}  # k is the same of all
    assert set(table["series"]) == set(generated_prompts.WIDTHS)


def test_the_k_with_most_behaviours_is_used_as_well_as_every_k(study: StudyData) -> None:
    few = study.points.filter((pl.col("phase") == fragility.PHASE) & pl.col("name").str.starts_with("say-1"))
    smaller = few.with_columns(pl.col("name").str.replace(f".k{MEASURED_AT}/", ".k4/", literal=True))
    both = replace(study, points=pl.concat([study.points, smaller]))
    table = fragility.correlations(both, fragility.measured(both))
    assert set(table["prompts"]) == {f"k = {MEASURED_AT}", "every k"}
    assert "loss, norm, k" in set(table.filter(pl.col("prompts") == "every k")["held_fixed"])
    assert set(fragility.figure_table(both)["k"]) == {MEASURED_AT}


def test_without_a_search_c_is_the_smallest_k_evaluated_and_twice_the_largest_if_unreached(study: StudyData) -> None:
    searched = fragility.c_by_seed(study)
    assert searched["c"].n_unique() > 4
    points = study.points.filter(pl.col("phase") != "search")
    hard = (
        pl.col("name").str.starts_with("say-32.k")
        & (pl.col("phase") == "prompts")
        & pl.col("name").str.ends_with("loss")
    )
    never = points.with_columns(pl.when(hard).then(2.9).otherwise("value").alias("value"))
    table = fragility.c_by_seed(replace(study, points=never))
    assert set(table["c"]) <= {1.0, 2.0, 4.0, 8.0, 16.0, 64.0}
    assert table.filter(pl.col("behaviour") == "say-32")["c"].to_list() == [64.0] * 6


def test_behaviours_that_never_reached_the_loss_are_named_and_have_no_point(study: StudyData) -> None:
    gone = pl.col("name").str.starts_with("skip-") & (pl.col("phase") == fragility.PHASE)
    rest = replace(study, points=study.points.filter(~gone))
    assert fragility.unmeasured(rest, fragility.measured(rest)) == ["skip-1", "skip-4"]
    assert not {"skip-1", "skip-4"} & set(FIGURES["fragility"].table(rest)["behaviour"])


def test_a_study_without_fragilities_has_neither_table_nor_figure(study: StudyData) -> None:
    bare = replace(study, points=study.points.filter(pl.col("phase") != fragility.PHASE))
    found = fragility.measured(bare)
    assert found.is_empty()
    assert fragility.correlations(bare, found).is_empty()
    assert FIGURES["fragility"].table(bare).is_empty()
