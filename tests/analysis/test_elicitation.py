from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analysis import elicitation, generated
from analysis.elicitation import curves, distances, gains, saturations

REFERENCE = Path(__file__).parents[2].parent / "shared" / "data" / "soft_prompt_runs" / "final_losses.csv"


def best(losses: dict[int, float], seed: int = 0) -> pl.DataFrame:
    return pl.DataFrame(
        {"model": "present", "series": "", "seed": seed, "k": list(losses), "loss": list(losses.values())}
    )


def test_distance_is_the_smallest_k_at_the_threshold():
    table = best({0: 3.0, 1: 2.0, 2: 1.5, 4: 1.0, 8: 1.2})
    assert distances(table, 1.5) == [2.0]
    assert distances(table, 0.5) == [np.inf]
    assert distances(table, 3.0) == [0.0]


def test_saturation_is_where_more_tokens_no_longer_help_and_unknown_at_the_last_k():
    assert saturations(best({0: 3.0, 1: 2.0, 2: 1.01, 4: 1.0, 8: 1.0})) == [2.0]
    assert saturations(best({0: 3.0, 1: 2.0, 2: 1.5, 4: 1.0})) == [np.inf]


def test_without_a_gain_there_is_neither_threshold_nor_distance():
    flat = pl.concat([best({0: 3.0 + 0.01 * s, 1: 3.0 - 0.01 * s, 4: 3.0}, seed) for seed, s in enumerate((1, -1, 0))])
    assert not gains(flat)
    table = curves(flat.with_columns(behaviour=pl.lit("b"), restart=pl.lit(0)))
    assert table["threshold"].null_count() == table.height
    assert set(table["distance"]) == {""}
    assert set(table["saturation"]) == {"no gain"}


def test_longer_strings_need_more_tokens_and_the_model_without_the_behaviour_does_not_get_there():
    told = curves(generated.soft_prompts()).filter(pl.col("part") == "mean")
    said = {
        (behaviour, model): text
        for behaviour, model, text in told.select("behaviour", "model", "distance").unique().iter_rows()
    }
    assert said["4 characters", "present"].startswith(("C = 1", "C = 2"))
    assert said["16 characters", "present"].startswith(("C = 4", "C = 8"))
    assert said["64 characters", "present"].startswith(("C = 16", "C = 32"))
    assert said["reverse the input", "absent"] == "C not reached by k = 64"


def test_all_restarts_are_kept_and_means_take_the_best_of_each_seed():
    runs = generated.soft_prompts()
    table = curves(runs)
    assert table.filter(pl.col("part") == "restart").height == runs.height
    own = runs.filter((pl.col("behaviour") == "4 characters") & (pl.col("k") == 8))
    mean = table.filter((pl.col("behaviour") == "4 characters") & (pl.col("k") == 8) & (pl.col("part") == "mean"))
    assert mean["loss"][0] == pytest.approx(own.group_by("seed").agg(pl.col("loss").min())["loss"].mean())


def test_a_sweep_without_tokens_has_no_prompts():
    assert elicitation.runs(generated.overlap()).is_empty()


def test_runs_take_the_last_loss_of_trials_with_k():
    data = generated.overlap()
    trials = data.trials.with_columns(k=pl.lit(4), behaviour=pl.lit("b"))
    points = data.points.with_columns(name=pl.col("name").replace({"clean/loss": "backdoor/loss"}))
    found = elicitation.runs(replace(data, trials=trials, points=points))
    assert found.height == trials.height
    assert set(found["model"]) == {"present", "absent"}


@pytest.mark.skipif(not REFERENCE.exists(), reason="the reference work's runs are not beside this checkout")
def test_the_reference_works_runs_read_into_the_same_curves():
    runs = pl.read_csv(REFERENCE).filter(pl.col("experiment").str.contains("(?i)chess")).with_columns(
        behaviour=pl.col("model"), model=pl.lit("present"), series=pl.lit(""), k=pl.col("soft_tokens").fill_null(0),
        restart=pl.lit(0), seed=pl.lit(0), loss=pl.col("final_test_loss"),
    )  # fmt: skip
    table = curves(runs.select(*elicitation.RUNS)).filter(pl.col("part") == "mean")
    said = dict(table.select("behaviour", "saturation").unique().iter_rows())
    small = next(text for name, text in said.items() if "70m" in name)
    assert small.startswith("S = ")
    assert table["low"].null_count() == table.height  # one seed gives no interval
