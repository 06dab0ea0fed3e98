from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analysis.gallery import generated
from analysis.prompts import elicitation
from analysis.prompts.elicitation import curves, distances, gains, saturations

REFERENCE = Path(__file__).parents[2].parent / "shared" / "data" / "soft_prompt_runs" / "final_losses.csv"


def best(losses: dict[int, float], seed: int = 0) -> pl.DataFrame:
    return pl.DataFrame(
        {"model": "present", "series": "", "seed": seed, "k": list(losses), "loss": list(losses.values())}
    )


def test_distance_is_the_smallest_k_at_the_threshold():
    table = best({0: 3.0, 1: 2.0, 2: 1.5, 4: 1.0, 8: 1.2})
    assert distances(table.with_columns(threshold=1.5)) == {0: 2.0}
    assert distances(table.with_columns(threshold=0.5)) == {0: np.inf}
    assert distances(table.with_columns(threshold=3.0)) == {0: 0.0}


def seeds_apart(behaviour: str = "b") -> pl.DataFrame:
    """Two seeds that close half of their gap by 1 and by 4 tokens, one starting where the other ends; a third gains
    nothing. The model that never had the behaviour closes it later."""
    losses = {
        ("present", 0): (4.0, 2.9, 2.5, 2.0),
        ("present", 1): (2.0, 1.9, 1.4, 1.0),
        ("present", 2): (3.0, 2.99, 3.0, 2.99),
        ("absent", 0): (4.0, 3.9, 2.9, 2.8),
        ("absent", 1): (2.0, 1.9, 1.8, 1.4),
        ("absent", 2): (3.0, 3.0, 2.0, 2.0),
    }
    rows = [
        (behaviour, model, "", k, 0, seed, loss)
        for (model, seed), found in losses.items()
        for k, loss in zip((0, 1, 4, 8), found, strict=True)
    ]
    return pl.DataFrame(rows, schema=list(elicitation.RUNS), orient="row")


@pytest.fixture
def always_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every behaviour has a gain, however few the seeds."""
    monkeypatch.setattr(elicitation, "gains", lambda best: best.height > 0)


def test_each_seed_closes_half_of_its_own_gap_and_one_without_a_gain_has_no_threshold(always_gains: None) -> None:
    table = elicitation.with_threshold(seeds_apart())
    aims = table.group_by("seed", maintain_order=True).agg(pl.col("threshold").unique())
    assert aims["threshold"].to_list() == [[3.0], [1.5], [None]]
    assert elicitation.distances(table.filter(pl.col("model") == "present")) == {0: 1.0, 1: 4.0}
    assert elicitation.distances(table.filter(pl.col("model") == "absent")) == {0: 4.0, 1: 8.0}


def test_a_given_threshold_is_the_same_for_all_seeds() -> None:
    table = elicitation.with_threshold(seeds_apart(), 2.0)
    assert table["threshold"].unique().to_list() == [2.0]
    assert elicitation.distances(table.filter(pl.col("model") == "present")) == {0: 8.0, 1: 0.0, 2: np.inf}


def test_a_seed_has_the_present_models_threshold_at_its_own_size(always_gains: None) -> None:
    sizes = [seeds_apart().with_columns(pl.col("loss") + more, series=pl.lit(size), size=pl.lit(size))
             for size, more in (("30k", 0.0), ("120k", 5.0))]  # fmt: skip
    table = elicitation.with_threshold(pl.concat(sizes))
    assert dict(table.filter(pl.col("seed") == 1).select("series", "threshold").unique().rows()) == {
        "30k": 1.5,
        "120k": 6.5,
    }


def test_the_curve_draws_the_mean_threshold_and_counts_the_seeds_without_a_gain(always_gains: None) -> None:
    table = curves(seeds_apart()).filter((pl.col("part") == "mean") & (pl.col("model") == "present"))
    assert set(table["threshold"]) == {2.25}
    assert set(table["distance_at"]) == {2.5}
    assert set(table["distance"]) == {"C = 2.5 [1, 4]; 1 of 3 seeds gained nothing"}


def test_sizes_of_one_seed_are_not_further_seeds() -> None:
    def sizes(*found: float) -> pl.DataFrame:
        rows = [{"seed": 0, "series": f"{n}k", "k": k, "loss": 3.0 - gain * (k > 0)}
                for n, gain in enumerate(found) for k in (0, 4)]  # fmt: skip
        return pl.DataFrame(rows)

    assert gains(sizes(1.0, 0.9, -0.1, -0.2))  # a t interval of four would hold 0
    assert not gains(sizes(0.1, 0.1, -0.1, -0.1))
    assert not gains(sizes(0.5, 0.5, 0.5).with_columns(loss_se=0.5))
    assert gains(sizes(0.5).with_columns(loss_se=0.1))


def test_series_are_sorted_by_size_then_examples_then_time() -> None:
    names = [
        "30k · 16 examples",
        "30k · 256 examples",
        "30k · 256 examples · after decay",
        "60k",
        "120k",
        "1.4m",
        "1.4b",
    ]
    assert sorted(sorted(names), key=elicitation.series_key) == names
    released = ["120k", "SmolLM2-135M-Instruct.Q4_1", "Qwen2.5-0.5B", "a model"]
    assert sorted(sorted(released), key=elicitation.series_key) == released
    rows = [(b, "present", size, 0, 0, 0, 1.0) for b in ("z", "a") for size in ("120k", "30k", "60k")]
    table = elicitation.in_order(pl.DataFrame(rows, schema=list(elicitation.RUNS), orient="row"))
    assert table.select("behaviour", "series").rows() == [(b, s) for b in ("z", "a") for s in ("30k", "60k", "120k")]


def test_saturation_is_where_more_tokens_stop_helping_and_unknown_at_the_last_k():
    assert saturations(best({0: 3.0, 1: 2.0, 2: 1.01, 4: 1.0, 8: 1.0})) == [2.0]
    assert saturations(best({0: 3.0, 1: 2.0, 2: 1.5, 4: 1.0})) == [np.inf]


def test_without_a_gain_there_is_neither_threshold_nor_distance():
    flat = pl.concat([best({0: 3.0 + 0.01 * s, 1: 3.0 - 0.01 * s, 4: 3.0}, seed) for seed, s in enumerate((1, -1, 0))])
    assert not gains(flat)
    table = curves(flat.with_columns(behaviour=pl.lit("b"), restart=pl.lit(0)))
    assert table["threshold"].null_count() == table.height
    assert set(table["distance"]) == {""}
    assert set(table["saturation"]) == {"no gain"}


def test_longer_strings_need_more_tokens_and_the_model_without_the_behaviour_never_reaches_them():
    means = curves(generated.soft_prompts()).filter(pl.col("part") == "mean")
    texts = {
        (behaviour, model): text
        for behaviour, model, text in means.select("behaviour", "model", "distance").unique().iter_rows()
    }
    assert texts["4 characters", "present"].startswith(("C = 1", "C = 2"))
    assert texts["16 characters", "present"].startswith(("C = 4", "C = 8"))
    assert texts["64 characters", "present"].startswith(("C = 16", "C = 32"))
    assert texts["reverse the input", "absent"] == "C not reached by k = 64"


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


@pytest.mark.skipif(not REFERENCE.exists(), reason="the reference work's runs are not next to this checkout")
def test_the_reference_works_runs_give_the_same_curves():
    runs = pl.read_csv(REFERENCE).filter(pl.col("experiment").str.contains("(?i)chess")).with_columns(
        behaviour=pl.col("model"), model=pl.lit("present"), series=pl.lit(""), k=pl.col("soft_tokens").fill_null(0),
        restart=pl.lit(0), seed=pl.lit(0), loss=pl.col("final_test_loss"),
    )  # fmt: skip
    table = curves(runs.select(*elicitation.RUNS)).filter(pl.col("part") == "mean")
    texts = dict(table.select("behaviour", "saturation").unique().iter_rows())
    small = next(text for name, text in texts.items() if "70m" in name)
    assert small.startswith("S = ")
    assert table["low"].null_count() == table.height  # one seed gives no interval
