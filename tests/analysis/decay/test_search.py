from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.decay import search
from analysis.decay.search import evaluated_settings, importances, on_front
from analysis.figures import style
from analysis.figures.pareto import draw_pareto, pareto_table
from analysis.gallery import generated
from analysis.runs.study import StudyData
from halflife.tracking import schema


@pytest.fixture(scope="module")
def data():
    return generated.search()


def with_strengths(data: StudyData, strengths: Mapping[str, float]) -> StudyData:
    """The data with these trials' strengths at the drop; the bound is 0.9."""
    here = (pl.col("name") == "strength") & pl.col("trial").is_in(list(strengths))
    given = pl.col("trial").replace_strict(strengths, default=None, return_dtype=pl.Float64)
    return replace(data, points=data.points.with_columns(value=pl.when(here).then(given).otherwise("value")))


def feasible(data: StudyData, number: int) -> bool:
    return evaluated_settings(data).row(
        by_predicate=(pl.col("suggestion") == number) & (pl.col("role") == "treatment"), named=True
    )["feasible"]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.booleans()), min_size=1, max_size=12))
def test_the_front_is_what_no_feasible_setting_dominates(rows):
    points, among = np.array([row[:2] for row in rows], dtype=float), np.array([row[2] for row in rows])
    front = on_front(points, among)
    for i, point in enumerate(points):
        beaten = any(among[j] and (other >= point).all() and (other > point).any() for j, other in enumerate(points))
        assert front[i] == (among[i] and not beaten)
    assert front.any() == among.any()


def test_settings_that_break_a_constraint_and_fresh_seeds_are_not_on_the_front(data):
    table = evaluated_settings(data)
    assert table.filter("front").height > 2
    assert table.filter(pl.col("front") & ~pl.col("feasible")).is_empty()
    assert not table.filter(pl.col("role") == schema.ROLE_HELD_OUT)["front"].any()
    assert table.filter(pl.col("role") == schema.ROLE_HELD_OUT)["seeds"].to_list() == [5, 5, 5]


def test_minimised_objectives_turn_the_front(data):
    objectives = tuple(replace(each, direction="minimize") for each in data.declaration.objectives)
    turned = evaluated_settings(replace(data, declaration=replace(data.declaration, objectives=objectives)))
    searched = turned.filter((pl.col("role") == "treatment") & pl.col("feasible"))
    assert searched.sort("x")["front"][0]


def test_a_setting_whose_objective_was_not_measured_is_left_out_not_zero(data):
    lost = data.trials.filter(pl.col("suggestion") == 5)["trial"].to_list()
    table = evaluated_settings(replace(data, points=data.points.filter(~pl.col("trial").is_in(lost))))
    assert 5 not in table["suggestion"].to_list()
    assert min(table["x"]) > 0


def test_a_constraint_that_was_not_measured_is_not_met(data):
    table = evaluated_settings(replace(data, points=data.points.filter(pl.col("phase") != schema.CONSTRAINT_PHASE)))
    assert not table["feasible"].any()


def test_a_setting_is_feasible_if_the_constraint_held_on_every_seed_and_not_by_its_mean(data):
    assert feasible(with_strengths(data, {"treatment 5 seed 0": 0.9, "treatment 5 seed 1": 1.0}), 5)
    assert not feasible(with_strengths(data, {"treatment 5 seed 0": 1.0, "treatment 5 seed 1": 0.85}), 5)


def test_a_finalist_infeasible_on_a_fresh_seed_has_its_own_marker(data):
    number = evaluated_settings(data).filter(pl.col("role") == schema.ROLE_HELD_OUT)["suggestion"][0]

    def diamonds(strength: float) -> int:
        """How many are grey if one fresh seed of one finalist has this strength and all others are feasible."""
        held = [t for t in data.trials["trial"] if t.startswith(schema.ROLE_HELD_OUT)]
        given = {**dict.fromkeys(held, 1.0), f"{schema.ROLE_HELD_OUT} {number} seed 100": strength}
        left = draw_pareto(pareto_table(with_strengths(data, given))).axes[0]
        return sum(line.get_marker() == "D" and line.get_color() == style.MUTED for line in left.lines)

    assert diamonds(0.9) == 0
    assert diamonds(0.3) == 1


def test_the_hyperparameter_planted_strongest_is_the_most_important_and_the_idle_one_is_not(data):
    table = importances(data, evaluated_settings(data))
    assert table["dial"][0] == "Learning rate"
    idle = table.row(by_predicate=pl.col("dial") == "Dropout", named=True)
    assert idle["low"] == 0
    assert (table["low"] <= table["share"]).all()
    assert (table["share"] <= table["high"]).all()


def test_few_settings_have_no_importances(data):
    few = evaluated_settings(data).filter(pl.col("suggestion") < search.MIN_SETTINGS - 1)
    assert importances(data, few).is_empty()


def test_a_grid_has_no_search_settings():
    assert evaluated_settings(generated.overlap()).is_empty()
