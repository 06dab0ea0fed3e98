from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from analysis.decay import fits
from analysis.decay.design import described
from analysis.decay.retention import retention_curves
from analysis.gallery import generated
from analysis.report.fitting_checklist import checklist
from analysis.runs.study import StudyData
from tests.analysis import planted
from tests.analysis.conftest import SMALL


@pytest.fixture(scope="module")
def floored() -> StudyData:
    """Three sizes whose decay is exponential to a floor."""
    data = generated.persistence()
    trials = data.trials.filter(pl.col("size").is_in(["60k", "120k", "600k"]))
    return replace(data, trials=trials, points=data.points.join(trials.select("trial"), on="trial"))


def test_the_planted_law_ranks_first_and_its_half_life_interval_holds_the_truth(floored):
    assert fits.ranking(floored)["law"][0] == "exponential_floor"
    table = fits.fits_table(floored).filter(pl.col("law") == "exponential_floor")
    for row in table.iter_rows(named=True):
        floor = generated.floor(row["size"])
        reference = {"learning_rate": 1.0}
        time = np.exp(generated.log_time(row["size"], reference)) * generated.STEP
        half = -time * np.log2((0.5 - floor) / (1 - floor))
        assert row["half_life_low"] < half < row["half_life_high"]
        assert row["delta_aicc"] == 0


def test_every_law_has_a_half_life_or_is_censored(floored):
    table = fits.fits_table(floored)
    assert set(table["law"]) == {law.name for law in fits.menu()}
    assert (table["half_life"].is_not_null() | table["half_life_censored"]).all()
    assert table.filter(pl.col("law") == "constant")["half_life_censored"].all()


def test_parameters_have_intervals_over_seeds(floored):
    table = fits.parameters_table(floored).filter((pl.col("law") == "exponential_floor") & (pl.col("parameter") == "T"))
    assert table["seeds"].to_list() == [generated.SEEDS] * 3
    assert ((table["low"] < table["estimate"]) & (table["estimate"] < table["high"])).all()


def test_the_true_law_predicts_better_from_more_data(floored):
    table = fits.predictions(floored, ["exponential_floor", "constant"])
    own = table.filter((pl.col("law") == "exponential_floor") & (pl.col("part") == "rolling")).sort("seen")
    assert own["estimate"][-1] < own["estimate"][0]
    null = table.filter((pl.col("law") == "constant") & (pl.col("part") == "rolling")).sort("seen")
    assert own["estimate"][-1] < null["estimate"][-1]
    ratio = table.filter((pl.col("law") == "exponential_floor") & (pl.col("part") == "largest"))
    assert ratio["low"][0] < 1 < ratio["high"][0]


def test_runs_without_the_skill_at_the_drop_are_not_fitted(rough):
    cells = fits.reference_curves(rough).select("size", "seed").unique().rows()
    assert ("100k", 1) not in cells
    assert ("100k", 0) in cells


def test_the_checklist_is_filled_in_without_unknown_values(floored):
    sections = dict(checklist(floored, retention_curves(floored)))
    assert list(sections) == ["Availability", "Hypothesis", "Training setup", "Data extraction", "Fitting"]
    shown = " ".join(text for rows in sections.values() for _, text in rows)
    assert "15 of 15 reference runs fitted" in shown
    assert "repetition: not recorded" in shown
    assert all(text for rows in sections.values() for _, text in rows)


def test_nothing_is_fitted_if_no_backdoor_was_implanted(tmp_path):
    from analysis.runs.load import load_study

    never = tuple((size, seed) for size in ("30k",) for seed in range(2))
    plan = replace(SMALL, sizes=("30k",), seeds=2, never_implanted=never, relearn=False, rates=(1.0,))
    data = load_study(planted.write(tmp_path, plan), plan.study)
    assert fits.fits_table(data).is_empty()
    assert fits.parameters_table(data).is_empty()
    assert fits.ranking(data).is_empty()
    assert "No law was fitted" in str(checklist(data, retention_curves(data)))
    assert described(data).height  # the data are there
