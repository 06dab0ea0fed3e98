"""`python -m analysis contrast`, `trend`, `associate`: planted answers, JSON as documented, one line on bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from analysis.__main__ import main

CONTRAST = ["contrast", "--quantity", "y", "--axis", "arm", "--high", "b", "--low", "a"]
TREND = ["trend", "--quantity", "y", "--axis", "size", "--log"]
ASSOCIATE = ["associate", "--quantity", "y", "--other", "z", "--item", "size"]


@pytest.fixture(scope="module")
def table() -> pl.DataFrame:
    """8 seeds at 4 sizes: b is 0.3 above a, y rises by 0.5 per ln size, z falls where y rises."""
    rng = np.random.default_rng(5)
    rows = [
        {"seed": s, "size": n, "arm": arm, "y": 0.3 * (arm == "b") + 0.5 * np.log(n) + 0.1 * rng.normal(), "z": -n}
        for s in range(8) for n in (10, 30, 100, 300) for arm in "ab"
    ]  # fmt: skip
    return pl.DataFrame(rows)


def run(folder: Path, table: pl.DataFrame, arguments: list[str], name: str = "t.csv") -> Any:
    path, out = folder / name, folder / "out.json"
    {".csv": table.write_csv, ".parquet": table.write_parquet, ".jsonl": table.write_ndjson}[path.suffix](path)
    main([arguments[0], str(path), *arguments[1:], "--json", str(out)])
    return json.loads(out.read_text())


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.jsonl"])
def test_a_contrast_finds_the_planted_difference(table, tmp_path, capsys, name):
    found = run(tmp_path, table, [*CONTRAST, "--pair", "size", "--margin", "0.1", "--why", "a fifth of it"], name)
    assert found["verdict"] == "effect"
    assert found["low"] < 0.3 < found["high"]
    assert (found["seeds"], found["level"], found["seeds_to_settle"]) == (8, 0.95, None)
    assert list(found["by_seed"]) == [str(s) for s in range(8)]
    assert found["intervals"] == "95 % interval by paired t over seeds"
    shown = capsys.readouterr().out
    assert shown.startswith("Effect: the difference in y (arm b minus a) is 0.")
    assert shown.count("\n") == 1


def test_a_trend_and_an_association_find_what_was_planted(table, tmp_path):
    table = table.filter(pl.col("arm") == "a")
    slope = run(tmp_path, table, [*TREND, "--margin", "0.6"])
    assert slope["low"] < 0.5 < slope["high"]
    assert (slope["verdict"], slope["smaller_than_margin"]) == ("effect", True)
    assert run(tmp_path, table, ASSOCIATE)["estimate"] == pytest.approx(-1)


def test_a_trend_says_how_many_values_are_bounds_and_how_its_interval_was_found(table, tmp_path, capsys):
    table = table.filter(pl.col("arm") == "a").with_columns(late=(pl.col("size") == 300) & (pl.col("seed") < 3))
    found = run(tmp_path, table, [*TREND, "--censored", "late"])
    assert (found["bounds"], found["values"]) == (3, 32)
    assert found["intervals"] == "95 % interval by Student-t over one slope a seed, bounds imputed"
    shown = capsys.readouterr().out
    assert "over 8 seeds, where 3 of 32 values are only bounds (" in shown
    assert found["intervals"] in shown


def test_no_difference_is_equivalent_within_a_wide_margin_and_undecided_within_a_narrow_one(table, tmp_path, capsys):
    shift = -0.1 - 0.3 + 0.2 * (pl.col("seed") % 2)  # differences of -0.1 and 0.1 by turns
    same = table.with_columns(pl.col("y") + pl.when(pl.col("arm") == "b").then(shift).otherwise(0.0))
    wide = run(tmp_path, same, [*CONTRAST, "--pair", "size", "--margin", "1", "--why", "one unit"])
    assert (wide["verdict"], wide["smaller_than_margin"]) == ("equivalent", True)
    assert "(margin ±1: one unit; 95 % interval by paired t over seeds; p = 0.80)." in capsys.readouterr().out
    narrow = run(tmp_path, same, [*CONTRAST, "--pair", "size", "--margin", "0.04"])
    assert narrow["verdict"] == "undecided"
    few, many = narrow["seeds_to_settle"]["effect"]
    assert 8 < few < many
    assert f"{few} to {many} seeds in all if the true effect equals the margin" in capsys.readouterr().out


def test_looks_use_only_the_seeds_of_the_look_that_answers(table, tmp_path, capsys):
    found = run(tmp_path, table, [*CONTRAST, "--pair", "size", "--looks", "5,8,12"])
    assert (found["verdict"], found["look"], found["looks"], found["seeds"]) == ("effect", 5, [5, 8, 12], 5)
    assert (list(found["by_seed"]), list(found["unused_by_seed"]), found["values"]) == (list("01234"), list("567"), 5)
    assert "look 1 of 3, at 5 seeds, 3 later seeds unused (looks at 5, 8, 12))" in capsys.readouterr().out
    early = run(tmp_path, table.filter(pl.col("seed") < 4), [*CONTRAST, "--pair", "size", "--looks", "5,8,12"])
    assert (early["verdict"], early["low"], early["p"]) == ("undecided", None, None)
    assert "no verdict before 5 seeds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "most"),
    [([*CONTRAST, "--pair", "size"], 2.2), (TREND, 0.65), ([*ASSOCIATE], 1)],
    ids=["contrast", "trend", "associate"],
)
def test_a_margin_that_no_values_of_the_table_could_exceed_is_doubted(table, tmp_path, capsys, arguments, most):
    table = table if arguments[0] == "contrast" else table.filter(pl.col("arm") == "a")
    assert not run(tmp_path, table, [*arguments, "--margin", f"{0.8 * most:g}"])["warnings"]
    [warning] = run(tmp_path, table, [*arguments, "--margin", f"{1.2 * most:g}"])["warnings"]
    assert "is the margin in its unit?" in warning
    assert f"warning: {warning}" in capsys.readouterr().out


def test_a_margin_as_a_share_of_a_quantity_in_per_cent_is_doubted(table, tmp_path):
    percent = table.with_columns(y=100 * pl.col("y"))
    [warning] = run(tmp_path, percent, [*CONTRAST, "--pair", "size", "--margin", "0.05"])["warnings"]
    assert "the margin is 0.05, below a hundredth of what" in warning
    assert not run(tmp_path, table, [*CONTRAST, "--pair", "size", "--margin", "0.05"])["warnings"]


def test_a_trend_over_decades_without_their_logarithm_is_doubted(table, tmp_path):
    low = table.filter(pl.col("arm") == "a")
    plain = [part for part in TREND if part != "--log"]
    assert "even steps of its logarithm, but the slope is per unit of size" in run(tmp_path, low, plain)["warnings"][0]
    assert not run(tmp_path, low, TREND)["warnings"]
    even = low.with_columns(size=pl.col("size").replace_strict({10: 1, 30: 5, 100: 9, 300: 13}))
    assert not run(tmp_path, even, plain)["warnings"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (CONTRAST, " rows have "),
        ([*CONTRAST, "--pair", "siez"], "there is no column 'siez', did you mean size?"),
        ([*CONTRAST, "--pair", "size", "--margin", "-1"], "the margin is -1"),
        ([*CONTRAST, "--pair", "size", "--why", "so"], "there is no --margin"),
        ([*CONTRAST, "--pair", "size", "--looks", "5;8"], "--looks is '5;8'"),
        ([*CONTRAST, "--pair", "size", "--looks", "3,5"], "first of several needs 5"),
        (TREND, " rows have "),
        ([*TREND[:-3], "--axis", "arm"], "column arm holds text"),
        (["contrast", "--quantity", "y"], "--axis"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(table, tmp_path, capsys, arguments, complaint):
    table = table if "--pair" in arguments else pl.concat([table, table])
    with pytest.raises(SystemExit) as end:
        run(tmp_path, table, arguments)
    output = capsys.readouterr()
    assert end.value.code == 2
    assert complaint in output.err
    assert output.err.count("\n") == 1
    assert output.out == ""
