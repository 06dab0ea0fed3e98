"""What a table lacks is said: blank responses, seeds that lack a size, times that all ran to the end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analysis.__main__ import main
from analysis.fitting import gaps
from analysis.fitting.fit import by_group
from analysis.fitting.table import Roles
from analysis.laws import LAWS
from analysis.stats.scaling import slope
from halflife import results

LAW = LAWS["half_life_size"]
ROLES = Roles(x=["N"], y="T", group="seed")


def times() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    size = np.tile(10 ** np.arange(5.0, 7.5, 0.5), 5)
    return pl.DataFrame({
        "N": size, "seed": np.repeat(range(5), 5), "T": 2000 * (size / 1e5) ** 0.25 * np.exp(rng.normal(0, 0.2, 25))
    })  # fmt: skip


INCOMPLETE = times().filter((pl.col("seed") != 3) | (pl.col("N") < 5e6))


def test_a_seed_that_lacks_a_size_is_left_out_of_fit_as_of_scaling() -> None:
    fit = results.fit(INCOMPLETE, "half_life_size", x="N", y="T", group="seed", error="lognormal", starts=8)
    table = INCOMPLETE.select(parameters="N", seed="seed", kind=pl.lit("observed"), low="T", estimate="T")
    found = slope(table).interval
    assert found is not None
    own = results.intervals(fit).parameters["gamma"]
    assert (own.estimate, own.low, own.high, own.count) == pytest.approx(
        (found.estimate, found.low, found.high, found.count), rel=1e-5
    )
    assert by_group(fit).theta.shape[0] == 4
    assert "warning: seed 3 is left out, as `scaling` and `trend` do: not all of 5 values of N are there" in str(fit)
    assert "estimates: means over 4 groups, each fitted alone (geometric for T0)" in str(fit)


def test_rows_in_errors_are_those_of_the_table_before_seeds_were_left_out() -> None:
    wrong = INCOMPLETE.with_columns(T=pl.when(pl.int_range(pl.len()) == 22).then(np.nan).otherwise("T"))
    with pytest.raises(results.UserError, match="first in row 23"):
        results.fit(wrong, "half_life_size", x="N", y="T", group="seed")


def test_designs_without_two_complete_seeds_and_other_laws_keep_all_rows() -> None:
    ragged = times().filter(pl.col("N").rank("ordinal").over("seed") != pl.col("seed") + 1)
    assert gaps.complete(ragged, LAW, ROLES)[0].equals(ragged)
    assert gaps.complete(INCOMPLETE, LAWS["power"], ROLES)[0].equals(INCOMPLETE)
    assert gaps.complete(times(), LAW, ROLES)[1] == []


@pytest.mark.parametrize(
    ("seen", "count"),
    [
        (pl.col("T"), 0),
        (pl.min_horizontal("T", pl.lit(4000.0)), 10),
        (pl.min_horizontal("T", 0.02 * pl.col("N").sqrt() * 316), None),  # runs as long as their size takes
        ((pl.col("T") / 500).round() * 500, 0),  # read at few steps
    ],
    ids=["as they are", "one end for all", "an end for each size", "a coarse grid"],
)
def test_times_that_equal_the_end_of_their_runs_are_doubted_and_repeats_of_a_grid_are_not(
    seen: pl.Expr, count: int | None
) -> None:
    frame = times().with_columns(T=seen)
    late = (frame["T"] != times()["T"]).sum() if count != 0 else 0
    found = gaps.tied(frame, LAW, ROLES)
    assert bool(found) == bool(late)
    assert all(line.startswith(f"{late} of 25 times are the largest") and "--censored" in line for line in found)
    marked = Roles(x=["N"], y="T", group="seed", censored="late")
    assert gaps.tied(frame, LAW, marked) == []


def test_blank_responses_point_to_bounds_and_name_the_seeds_that_go_with_them() -> None:
    frame = times().with_columns(T=pl.when((pl.col("seed") == 2) | (pl.col("N") > 5e6)).then(None).otherwise("T"))
    first, second = gaps.blanks(frame, ROLES)
    assert first.startswith("T is blank in 9 rows, left out as if by chance")
    assert first.endswith("with --censored")
    assert second == "seed 2 is left out: T blank in all its rows"
    assert gaps.blanks(times(), ROLES) == []


def test_a_fit_says_what_was_blank() -> None:
    frame = times().with_columns(T=pl.when(pl.col("N") > 5e6).then(None).otherwise("T"))
    fit = results.fit(frame, "power", x="N", y="T", group="seed", starts=8)
    assert "warning: T is blank in 5 rows, left out as if by chance" in str(fit)


def test_a_trend_that_loses_seeds_to_blank_cells_points_to_bounds(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    blank = times().with_columns(T=pl.when(pl.int_range(pl.len()) == 24).then(None).otherwise("T"))
    blank.write_csv(tmp_path / "times.csv")
    main(["trend", str(tmp_path / "times.csv"), "--quantity", "T", "--axis", "N"])
    shown = capsys.readouterr().out
    assert "1 of 5 seeds left out" in shown
    assert "warning: T is blank in 1 row, left out as if by chance" in shown
    assert "--censored" in shown
