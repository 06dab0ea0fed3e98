"""C, S, bits and restarts from planted tables; the page of the published runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.__main__ import main
from analysis.errors import UserError
from analysis.figures.restarts import _lines
from analysis.gallery import generated
from analysis.prompts import elicitation, information
from analysis.prompts.information import bits_table, closed_share, difference_table, distance_table, reached
from analysis.prompts.published import read_prompts
from analysis.report.prompts_section import write_prompts
from analysis.stats.intervals import median_interval

REFERENCE = Path(__file__).parents[2].parent / "shared" / "data" / "soft_prompt_runs" / "final_losses.csv"
published = pytest.mark.skipif(not REFERENCE.exists(), reason="the reference work's runs are not next to this checkout")
KS = (0, 1, 2, 4, 8)


def planted(distance: dict[int, float], model: str = "present", behaviour: str = "b") -> pl.DataFrame:
    """By seed the k at which the loss falls from 4 to 0.5 and the hits rise from 0 to all; inf: never."""
    rows = [
        (behaviour, model, "", k, 0, seed, 0.5 if k >= c else 4.0, 10.0 * (k >= c), 10.0, 64.0 * k)
        for seed, c in distance.items()
        for k in KS
    ]
    names = ("behaviour", "model", "series", "k", "restart", "seed", "loss", "hits", "trials", "numbers")
    return pl.DataFrame(rows, schema=list(names), orient="row")


def test_c_is_the_median_over_seeds_with_its_context() -> None:
    row = distance_table(planted({0: 2, 1: 4, 2: 4})).row(0, named=True)
    assert (row["c"], row["c_low"], row["c_high"], row["c_below"]) == (4.0, 2.0, 4.0, 2.0)
    assert (row["reached"], row["seeds"], row["last_k"], row["numbers"]) == (3, 3, 8, 256.0)
    assert row["coverage"] == 0.75
    assert (row["threshold"], row["gain"]) == (2.25, True)


def test_values_not_reached_enter_the_median() -> None:
    row = distance_table(planted({0: 2, 1: 4, 2: np.inf}), threshold=1.0).row(0, named=True)
    assert (row["c"], row["c_high"], row["reached"]) == (4.0, np.inf, 2)
    row = distance_table(planted({0: 2, 1: np.inf, 2: np.inf}), threshold=1.0).row(0, named=True)
    assert row["c"] == np.inf


def test_success_and_loss_are_two_criteria_of_one_table() -> None:
    table = planted({0: 4, 1: 4}).with_columns(chance=pl.lit(0.1))
    assert distance_table(table, "success")["c"][0] == distance_table(table, "loss")["c"][0] == 4.0
    guessing = table.with_columns(hits=pl.lit(5.0), chance=pl.lit(0.5))
    assert distance_table(guessing, "success")["c"][0] == np.inf


def test_the_difference_is_paired_by_seed_and_infinite_if_teaching_never_reaches_the_threshold() -> None:
    both = pl.concat([planted({0: 1, 1: 2, 2: 2}), planted({0: 4, 1: 8, 2: np.inf}, "absent")])
    row = difference_table(both, threshold=1.0).row(0, named=True)
    assert (row["difference"], row["low"], row["high"], row["pairs"]) == (6.0, 3.0, np.inf, 3)
    neither = pl.concat([planted({0: np.inf, 1: 2}), planted({0: np.inf, 1: 4}, "absent")])
    row = difference_table(neither, threshold=1.0).row(0, named=True)
    assert (row["difference"], row["untold"]) == (2.0, 1)


def test_the_difference_uses_each_seeds_own_threshold_and_counts_those_without_a_gain() -> None:
    ends = ((19.0, 14.0, 2), (6.0, 1.0, 4), (5.0, 0.0, 8), (7.0, 2.0, 4), (8.0, 3.0, 8), (5.0, 4.99, 1))
    rows = [
        ("b", model, "", k, 0, seed, bare if k < c else least)
        for seed, (bare, least, without) in enumerate(ends)
        for model, c in (("present", 1), ("absent", without))
        for k in KS
    ]
    table = pl.DataFrame(rows, schema=list(elicitation.RUNS), orient="row")
    row = difference_table(table).row(0, named=True)
    assert (row["pairs"], row["untold"], row["no_gain"]) == (6, 0, 1)
    assert (row["low"], row["difference"], row["high"]) == (1.0, 3.0, 7.0)
    taken = distance_table(table).filter(model="present").row(0, named=True)
    assert (taken["c"], taken["seeds"], taken["no_gain"]) == (1.0, 5, 1)
    assert taken["threshold"] == pytest.approx((16.5 + 3.5 + 2.5 + 4.5 + 5.5) / 5)


def test_a_median_between_both_infinities_is_undefined() -> None:
    assert np.isnan(median_interval([-np.inf, np.inf]).estimate)
    assert median_interval([-np.inf, -np.inf]).estimate == -np.inf
    assert median_interval([1.0, np.inf]).estimate == np.inf
    both = pl.concat([planted({0: np.inf, 1: 2}), planted({0: 4, 1: np.inf}, "absent")])
    both = both.with_columns(loss=pl.when(pl.col("k") == 8).then(pl.col("loss") - 0.4).otherwise("loss"))


def test_a_single_model_has_no_difference() -> None:
    assert difference_table(planted({0: 1})).is_empty()


def test_restarts_of_all_sizes_are_pooled_if_prompts_had_several_initialisations() -> None:
    sizes = [
        planted({0: c, 1: c}).with_columns(series=pl.lit(size), initial=pl.lit(initial))
        for size, c in (("30k", 2), ("120k", 8))
        for initial in ("words", "vocabulary")
    ]
    table = information.restart_table(reached(pl.concat(sizes), "loss", 1.0))
    assert table.height == 2 * 2 * 4
    shown = _lines(table)
    assert set(shown["line"]) == {"words", "vocabulary"}
    assert dict(shown.filter(line="words").select("k", "rate").iter_rows()) == {1: 0.0, 2: 0.5, 4: 0.5, 8: 1.0}
    assert set(shown["restarts"]) == {4}
    assert set(_lines(table.filter(initial="words"))["line"]) == {"30k", "120k"}


def test_success_per_restart_counts_all_restarts() -> None:
    runs = [planted({seed: c}).with_columns(restart=pl.lit(r)) for seed in (0, 1) for r, c in enumerate((2, 8, np.inf))]
    table = information.restart_table(reached(pl.concat(runs), "loss", 1.0))
    rates = dict(table.select("k", "rate").iter_rows())
    assert rates == pytest.approx({1: 0.0, 2: 1 / 3, 4: 1 / 3, 8: 2 / 3})
    assert table["restarts"].to_list() == [6] * 4
    assert (table["low"] < table["rate"]).all() or table["low"][0] == 0


def test_the_best_restart_is_chosen_by_training_loss_not_by_held_out_loss() -> None:
    table = pl.DataFrame(
        {"behaviour": "b", "model": "present", "series": "", "seed": 0, "k": 4, "restart": [0, 1],
         "loss": [1.0, 2.0], "train_loss": [0.9, 0.1]}
    )  # fmt: skip
    assert elicitation.best_restarts(table)["loss"].to_list() == [2.0]
    assert elicitation.best_restarts(table.drop("train_loss"))["loss"].to_list() == [1.0]


def test_a_behaviour_without_a_gain_is_reported_and_has_no_distance() -> None:
    table = distance_table(generated.soft_prompts())
    null = table.filter(pl.col("behaviour") == "text as trained on").row(0, named=True)
    assert not null["gain"]
    assert null["c"] is None
    assert table.filter("gain").height >= 4


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30))
def test_the_interval_of_a_median_holds_it_and_its_ends_are_values(values: list[float]) -> None:
    found = median_interval(values)
    assert found.low <= found.estimate <= found.high
    assert {found.low, found.high} <= set(values)
    assert found.coverage >= 0.95 or len(values) < 6


def test_the_interval_of_a_median_has_its_nominal_coverage() -> None:
    rng = np.random.default_rng(0)
    for count in (5, 9, 20):
        draws = rng.exponential(size=(4000, count))
        found = [median_interval(row) for row in draws]
        held = np.mean([m.low <= np.log(2) <= m.high for m in found])
        assert held == pytest.approx(found[0].coverage, abs=0.015)


def test_a_median_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="needs values"):
        median_interval([])


def test_least_bits_are_over_k_restarts_and_precision() -> None:
    rows = [
        ("b", "present", "", seed, k, 0, bits, 10.0 * k, score, 0.0)
        for seed in (0, 1)
        for k, bits, score in [(4, 8.0, -1.0), (4, 4.0, 1.0), (8, 3.0, -1.0), (8, np.inf, -1.0), (1, 2.0, 1.0)]
    ]
    names = ("behaviour", "model", "series", "seed", "k", "restart", "bits", "numbers", "score", "threshold")
    row = bits_table(pl.DataFrame(rows, schema=list(names), orient="row")).row(0, named=True)
    assert (row["bits"], row["reached"], row["seeds"]) == (240.0, 2, 2)


def test_the_share_of_a_gap_that_is_closed() -> None:
    assert closed_share(3.0, 2.25, 2.0) == 0.75
    assert closed_share(2.0, 1.9, 2.0) is None


@published
def test_the_published_runs_give_the_published_numbers() -> None:
    prompts = read_prompts(REFERENCE)
    assert prompts.height == 186
    table = distance_table(prompts)
    chess = table.filter((pl.col("behaviour") == "BWElo chess") & (pl.col("series") == "70m")).row(0, named=True)
    assert (chess["c"], chess["s"], chess["last_k"]) == (1.0, 256.0, 1024)
    null = table.filter(pl.col("behaviour") == "autoregressive, Pile")
    assert not null["gain"].any()
    skips = prompts.filter(pl.col("behaviour").str.starts_with("skip") & (pl.col("series") == "410m"))
    last = skips.filter(pl.col("k") == 64).sort("behaviour")["loss"].to_list()
    assert last == sorted(last)
    assert table.filter((pl.col("behaviour") == "chat detuning") & (pl.col("model") == "absent"))["c"][0] == 0


@published
def test_the_page_of_the_published_runs_has_figures_and_tables(tmp_path: Path) -> None:
    page = write_prompts(REFERENCE, tmp_path)
    text = page.read_text()
    assert "Tokens that close half of the gap (C) at 70m: BWElo chess 1" in text
    assert (tmp_path / "figures" / "soft_prompts.png").stat().st_size > 10_000
    assert pl.read_csv(tmp_path / "tables" / "prompts.csv").height == 186


def test_a_user_table_has_a_page(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    table = tmp_path / "mine.csv"
    generated.soft_prompts().write_csv(table)
    main(["prompts", str(table), "--out", str(tmp_path / "page")])
    assert Path(capsys.readouterr().out.strip()).read_text().count("<figure>") == 3


def test_a_page_with_a_threshold_states_and_uses_it(tmp_path: Path) -> None:
    both = pl.concat([planted({0: 1, 1: 2, 2: 2}), planted({0: 4, 1: 8, 2: 8}, "absent")])
    steps = both.with_columns(loss=pl.col("loss") - 0.1 * (pl.col("k") == 8))
    own = pl.concat([steps, steps.with_columns(restart=pl.lit(1, dtype=pl.Int64))]).drop("numbers")
    own.write_csv(tmp_path / "mine.csv")
    text = write_prompts(tmp_path / "mine.csv", tmp_path / "page", 0.45).read_text()
    assert "Tokens that bring the loss to 0.45 nats per token (C): b 8." in text
    assert "half of the gap" not in text
    assert "each seed has" not in text
    assert "T was given: 0.45 nats per token" in text
    (difference,) = pl.read_csv(tmp_path / "page" / "tables" / "difference_by_loss.csv")["difference"]
    assert difference == 0.0
    text = write_prompts(tmp_path / "mine.csv", tmp_path / "own").read_text()
    assert "T was given" not in text
    assert "each seed has" in text
    assert "Tokens that close half of the gap (C): b 2." in text
    (difference,) = pl.read_csv(tmp_path / "own" / "tables" / "difference_by_loss.csv")["difference"]
    assert difference == 6.0


@pytest.mark.parametrize("threshold", [None, 1.0])
def test_a_table_without_any_gain_has_a_page(tmp_path: Path, threshold: float | None) -> None:
    flat = planted({0: np.inf, 1: np.inf, 2: np.inf}).select(list(elicitation.RUNS))
    flat.write_csv(tmp_path / "mine.csv")
    text = write_prompts(tmp_path / "mine.csv", tmp_path / "page", threshold).read_text()
    assert text.count("<figure>") == 2
    assert ("No prompt reduced the loss of any behaviour." if threshold is None else "b not by 8") in text


def test_an_empty_series_without_quotes_keeps_its_prompts(tmp_path: Path) -> None:
    table = planted({0: 1, 1: 2}).select(list(elicitation.RUNS))
    (tmp_path / "mine.csv").write_text(table.write_csv().replace('""', ""))
    assert ",," in (tmp_path / "mine.csv").read_text()
    found = read_prompts(tmp_path / "mine.csv")
    assert found.equals(table)
    assert elicitation.curves(found).filter(part="restart").height == table.height


@pytest.mark.parametrize(
    ("text", "message"),
    [("a,b\n1,2\n", "has no column 'behaviour'"), (None, "there is no file")],
)
def test_an_invalid_table_is_refused_in_one_line(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "x.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message) as refused:
        read_prompts(path)
    assert "\n" not in str(refused.value)
