"""Readings of more than one measure agree with the functions whose tables the report shows, and with what was
planted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from analysis.answers.derived import NO_GAIN, READINGS
from analysis.answers.quantities import values
from analysis.decay.erasure import main_rows
from analysis.decay.savings import interactions, log_savings, relearning_times
from analysis.gallery import generated_languages, generated_prompts
from analysis.prompts import amounts, elicitation, information
from halflife.tracking.questions import DERIVED, Against, Quantity

OWN = Quantity(name="own", label="the head start", derived="own_savings", transform="log")


@pytest.fixture(scope="module")
def prompts():
    return generated_prompts.prompts()


def test_every_declared_name_has_a_reading_with_its_items(prompts):
    assert set(READINGS) == set(DERIVED)
    for name, reading in READINGS.items():
        found = reading(prompts)
        assert set(DERIVED[name].items) <= set(found.columns)
        assert not found.select("trial", *DERIVED[name].items).is_duplicated().any(), name


def test_each_trial_has_the_distance_that_its_search_found(prompts):
    found = READINGS["distance"](prompts)
    known = dict(amounts.searched(prompts).select("trial", "c").iter_rows())
    assert set(found["trial"]) == set(known)
    for trial, value, low in found.select("trial", "value", "low").iter_rows():
        assert value == known[trial] if np.isfinite(known[trial]) else (value is None and low == 32)


def test_without_a_search_the_median_distance_is_that_of_the_table(prompts):
    data = replace(prompts, points=prompts.points.filter(pl.col("phase") != amounts.SEARCH))
    table = information.distance_table(elicitation.runs(data), "loss", amounts.matched_loss(data))
    found = values(data, Quantity(name="c", label="C", derived="distance"))
    for behaviour, series, c in table.select("behaviour", "series", "c").iter_rows():
        part = found.filter((pl.col("size") == series) & pl.col("trial").str.ends_with(f" {behaviour}"))
        assert part["value"].fill_null(np.inf).median() == c


def test_bits_are_those_of_the_table(prompts):
    table = amounts.bits_table(amounts.quantised(prompts))
    found = READINGS["information"](prompts).with_columns(size=pl.col("trial").str.split(" ").list.first())
    for behaviour, series, bits in table.select("behaviour", "series", "bits").iter_rows():
        part = found.filter((pl.col("size") == series) & pl.col("trial").str.ends_with(f" {behaviour}"))
        assert part["value"].fill_null(np.inf).median() == pytest.approx(bits)


def test_a_behaviour_without_a_gain_has_no_distance_and_says_so(prompts):
    flat = pl.when(pl.col("name").str.starts_with("say-8.") & pl.col("name").str.ends_with("/loss"))
    points = prompts.points.filter(~pl.col("phase").is_in([amounts.SEARCH])).with_columns(
        value=flat.then(2.0).otherwise("value")
    )
    settings = {name: value for name, value in prompts.declaration.settings.items() if name != "matched_loss"}
    data = replace(prompts, points=points, declaration=replace(prompts.declaration, settings=settings))
    found = READINGS["distance"](data).filter((pl.col("kind") == "say") & (pl.col("length") == 8))
    assert set(found["reason"]) == {NO_GAIN}


def test_the_own_saving_is_the_interaction_of_treatment_and_control(small):
    own = replace(OWN, against=Against(role="absent"))
    found = values(small, own).filter(pl.col("role") == "treatment")
    known = interactions(log_savings(relearning_times(small)))
    assert known.height > 5
    both = known.join(found.drop_nulls("value"), on="trial")
    assert both.height == known.height
    assert both["value"].to_list() == pytest.approx(both["own"].to_list())


def test_what_is_left_is_what_the_erasure_room_says():
    data = generated_languages.families()
    found = READINGS["share_left"](data)
    known = main_rows(data)
    assert found.height == known.height > 0
    observed = known.filter(pl.col("kind") == "observed").join(found, on=["trial", "reading"])
    assert observed["value"].to_list() == pytest.approx(observed["share"].to_list())
    assert found.filter(pl.col("reason").is_not_null())["value"].null_count() == known["share"].null_count()
