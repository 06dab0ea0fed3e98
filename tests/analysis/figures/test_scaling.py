"""Figures of claims about scaling show what was planted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from analysis.answers.judging import answers
from analysis.figures import FIGURES, SCALING
from analysis.figures.front import front_table
from analysis.gallery import generated
from analysis.gallery.page import _dosed, example
from halflife.tracking.questions import Trend


def test_the_leading_figure_has_the_exponent_of_the_question():
    data = _dosed()
    [slope] = (
        example("time_by_size")[0]
        .filter((pl.col("part") == "slope") & (pl.col("quantity") == "half_life") & (pl.col("place") == 0))
        .to_dicts()
    )
    question = data.declaration.questions[0]
    assert isinstance(question, Trend)
    own = answers(data)[0].estimates
    assert own is not None
    assert slope["value"] == pytest.approx(own.at(5).estimate)
    assert slope["low"] < slope["value"] < slope["high"]


def test_the_leading_figure_has_every_declared_time_and_marks_what_was_not_reached():
    table = example("time_by_size")[0]
    assert table["quantity"].unique(maintain_order=True).to_list() == ["half_life", "time_to_0.12"]
    late = table.filter(
        (pl.col("quantity") == "time_to_0.12") & (pl.col("kind") == "above") & (pl.col("part") == "seed")
    )
    assert late["x"].unique().to_list() == [generated.SIZES["300k"]]
    assert late["value"].null_count() == late.height > 0


def test_doses_have_the_planted_exponent_at_every_size_and_their_share_of_the_trunk():
    means = example("dose")[0].filter(pl.col("part") == "mean")
    for part in means.filter(pl.col("x") <= generated.SATURATED).partition_by("series"):
        slope = np.polyfit(np.log(part["x"]), np.log(part["value"]), 1)[0]
        assert slope == pytest.approx(generated.DOSE, abs=0.08)
    share = 100 * means["x"] * 4 * 128 / (1200 * generated.STEP)  # exposures, tokens of a document, of the trunk
    assert means["share"].to_numpy() == pytest.approx(share.to_numpy())


def test_a_share_that_differs_between_sizes_has_a_panel_of_its_own():
    data = _dosed()
    short = data.trials.filter(pl.col("size") == "30k")["trial"].to_list()
    early = (pl.col("phase") != "trunk") | ~pl.col("trial").is_in(short) | (pl.col("step") <= 100 * generated.STEP)
    table = FIGURES["dose"].table(replace(data, points=data.points.filter(early)))
    assert table["amount"].unique(maintain_order=True).to_list() == [
        "Poisoned documents",
        "Poisoned share of the trunk (%)",
    ]


def test_forgetting_and_its_cost_join_the_planted_front():
    table = example("forget_retain")[0].filter(~pl.col("setting").str.starts_with("poisoned"))
    found = dict(table.select("setting", "x").iter_rows())
    for name, cost in generated.COSTS.items():
        planted = found["reference"] + cost
        assert found[f"regularizer of the branch: {name}"] == pytest.approx(planted, abs=0.004)
    lost = dict(table.select("setting", "y").iter_rows())
    assert max(lost, key=lambda name: lost[name]) == "regularizer of the branch: wash"
    assert table.filter("front")["setting"].str.contains("wash").any()


def test_the_front_is_what_no_other_setting_beats_in_both():
    values = pl.DataFrame({"setting": list("aabbcc"), "seed": [0, 1] * 3, "x": [1.0, 1.2, 2.0, 2.0, 3.0, 3.2],
                           "y": [1.0, 1.0, 0.5, 0.7, 2.0, 2.0]})  # fmt: skip
    assert front_table(values, ("low", "high"))["front"].to_list() == [True, False, True]
    assert front_table(values, ("low", "low"))["front"].to_list() == [True, True, False]
    assert front_table(values, ("high", "high"))["front"].to_list() == [False, False, True]


@pytest.mark.parametrize("name", SCALING)
def test_a_study_of_one_size_and_one_setting_has_none_of_these_figures(name):
    data = _dosed()
    one = (pl.col("size") == "30k") & (pl.col("documents") == 250) & (pl.col("branch_regularizer") == "none")
    assert FIGURES[name].table(replace(data, trials=data.trials.filter(one))).is_empty()
