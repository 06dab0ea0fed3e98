"""`python -m analysis scaling` on anyone's curves: the planted exponent, bounds, runs without the skill, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analysis.__main__ import main

STEPS = np.concatenate([[0.0], np.geomspace(1, 400, 24)])
ARGUMENTS = ["--step", "step", "--size", "N", "--seed", "seed", "--chance", "0.05"]
COUNTS = [*ARGUMENTS, "--hits", "h", "--trials", "n"]


def curves(gamma: float = 0.4, seeds: int = 6, last: float = 400.0) -> pl.DataFrame:
    rng, rows = np.random.default_rng(0), []
    for seed in range(seeds):
        for size in (1e5, 3e5, 1e6, 3e6):
            scale = 60 * (size / 1e6) ** gamma * np.exp(0.1 * rng.normal())
            for step in STEPS[last >= STEPS]:
                rate = 0.05 + 0.95 * 0.95 * np.exp(-step / scale)
                rows.append((seed, size, step, int(rng.binomial(400, rate)), 400))
    return pl.DataFrame(rows, schema=["seed", "N", "step", "h", "n"], orient="row")


def run(tmp_path: Path, frame: pl.DataFrame, *arguments: str) -> None:
    frame.write_csv(tmp_path / "curves.csv")
    main(["scaling", str(tmp_path / "curves.csv"), *arguments, "--out", str(tmp_path / "out")])


@pytest.mark.parametrize("level", [COUNTS, [*ARGUMENTS, "--y", "rate"]], ids=["counts", "level"])
def test_curves_of_another_table_give_half_lives_their_exponent_and_a_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture, level: list[str]
) -> None:
    run(tmp_path, curves().with_columns(rate=pl.col("h") / pl.col("n")), *level)
    shown = capsys.readouterr().out
    low, high = (float(end) for end in shown.partition("γ = ")[2].partition("[")[2].partition("]")[0].split(", "))
    assert low < 0.4 < high
    assert high - low < 0.2
    assert "1.00M: half-life " in shown
    assert "warning" not in shown
    assert pl.read_csv(tmp_path / "out" / "half_lives.csv").height == 24
    assert (tmp_path / "out" / "half_life.pdf").read_bytes().startswith(b"%PDF")


def test_runs_that_do_not_reach_half_are_bounds_and_those_without_the_skill_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    never = (pl.col("seed") == 0) & (pl.col("N") == 1e6)
    frame = curves(last=60.0).with_columns(h=pl.when(never).then(20).otherwise("h"))
    run(tmp_path, frame, *COUNTS)
    shown = capsys.readouterr().out
    assert "warning: 1 run left out, without the skill at the first step: size 1.00M seed 0" in shown
    assert "3.00M: half-life beyond the data, at least" in shown
    assert "the table has no run" not in shown
    assert "a demonstration, not a scaling claim" in shown
    table = pl.read_csv(tmp_path / "out" / "half_lives.csv")
    late = table.filter(pl.col("kind") == "censored")
    assert late["estimate"].null_count() == late.height > 0
    assert (late["low"] <= 60).all()


def test_absent_runs_are_named_and_not_counted_as_late(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    late = pl.col("seed").is_in([1, 2]) & (pl.col("N") == 3e6) & (pl.col("step") > 40)
    absent = (pl.col("seed") == 3) & (pl.col("N") == 1e6)
    run(tmp_path, curves(seeds=5).filter(~late & ~absent), *COUNTS, "--json", str(tmp_path / "found.json"))
    shown = capsys.readouterr().out
    assert "warning: the table has no run of size 1.00M seed 3" in shown
    assert "over 4 of 5 seeds (1 lacks a size; 2 of 16 half-lives censored)" in shown
    assert "95 % interval of γ: one slope per seed, Student-t over 4 seeds; half-lives that were not reached" in shown
    # Three of five seeds reached half: a bound, but not beyond the data.
    assert "3.00M: half-life at least 54.7 step over 5 seeds, of which 2 did not reach half" in shown
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["absent"] == [{"size": "1.00M", "parameters": 1e6, "seed": "3"}]
    assert found["exponent"]["low"] < 0.43 < found["exponent"]["high"]
    assert [row["seeds"] for row in found["half_lives"]] == [5, 5, 4, 5]


def test_sizes_may_be_fractions_and_one_seed_is_called_one(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run(tmp_path, curves(seeds=1).with_columns(pl.col("N") / 1e6), *COUNTS, "--json", str(tmp_path / "found.json"))
    shown = capsys.readouterr().out
    assert "0.300: half-life 30.7 step (one seed, no interval)" in shown
    assert "γ = 0.43 (one seed, no interval)\n" in shown
    assert "none: it takes two or more seeds with a half-life at every size" in shown
    found = json.loads((tmp_path / "found.json").read_text())
    assert [row["parameters"] for row in found["half_lives"]] == pytest.approx([0.1, 0.3, 1, 3])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([*ARGUMENTS, "--hits", "h"], "counts need both --hits and --trials"),
        (ARGUMENTS, "pass either --y, or both --hits and --trials"),
        ([*COUNTS, "--size", "M"], "there is no column 'M'"),
        (["--step", "step", "--size", "N", "--seed", "n", "--hits", "h", "--trials", "n"],
         "rows share size, seed and step, such as 100000, 400 and 0: name the column that tells runs apart with --run"),
        ([*ARGUMENTS, "--y", "zero"], "no run has a half-life: of 24, 24 without the skill at the first step"),
    ],
)  # fmt: skip
def test_what_gives_no_half_life_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture, arguments: list[str], complaint: str
) -> None:
    with pytest.raises(SystemExit) as end:
        run(tmp_path, curves().with_columns(zero=pl.lit(0.05)), *arguments)
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert complaint in error
    assert error.count("\n") == 1


def test_runs_of_one_size_and_seed_are_averaged(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    twice = pl.concat([curves().with_columns(run=pl.lit(name)) for name in ("a", "b")])
    run(tmp_path, twice, *COUNTS, "--run", "run")
    first = capsys.readouterr().out.splitlines()[:5]
    run(tmp_path, curves(), *COUNTS)
    assert capsys.readouterr().out.splitlines()[:5] == first
