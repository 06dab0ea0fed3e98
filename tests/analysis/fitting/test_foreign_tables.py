"""Tables as others have them: raw steps, seeds that never learned, runs that differ, whole sizes that are bounds."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.analysis.fitting.test_columns import FIT_TIME, half_lives, refused, run

STEPS = [0, 50, 100, 200, 400, 800, 1200, 1800, 2500, 3500, 5000, 7000, 10000, 14000, 16000]
COUNTS = ["--hits", "hits", "--trials", "n"]
OVER_SIZE = ["--x", "x=step,N=params", *COUNTS]
SCALING = ["scaling", "--step", "step", "--size", "params", "--seed", "seed"]


def curves(between: float = 0.0, never: float | None = None, seed: int = 0) -> pl.DataFrame:
    """Level .95, half-life 4000 (N / 1e6)^.5, whose logarithm scatters `between` runs; seed 5 stays at `never`."""
    rng, rows = np.random.default_rng(seed), []
    for size in (1e5, 3e5, 1e6, 3e6):
        for seed in range(6):
            half = 4000 * (size / 1e6) ** 0.5 * np.exp(between * rng.normal())
            for step in STEPS:
                rate = 0.95 * 0.5 ** (step / half) if seed < 5 or never is None else never
                rows.append((step, int(size), f"{size:g} {seed}", seed, int(rng.binomial(200, rate)), 200))
    frame = pl.DataFrame(rows, schema=["step", "params", "run", "seed", "hits", "n"], orient="row")
    return frame.with_columns(share=pl.col("hits") / pl.col("n"))


def test_raw_steps_are_refused_in_scaling_and_give_the_planted_exponent_from_their_origin(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    raw, out = curves().with_columns(pl.col("step") + 50_000), ["--out", str(tmp_path / "out")]
    assert "step begins at 50000" in refused(tmp_path, capsys, raw, *SCALING, *COUNTS, *out)
    found = run(tmp_path, raw, *SCALING, *COUNTS, *out, "--origin", "50000")["exponent"]
    assert found["low"] < 0.5 < found["high"] < 0.6
    late = refused(tmp_path, capsys, raw, *SCALING, *COUNTS, *out, "--origin", "50001")
    assert "--origin is 50001, but step begins at 50000" in late


def test_raw_steps_are_doubted_in_a_fit_and_give_the_planted_half_life_from_their_origin(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    raw = curves().filter(pl.col("params") == 1e6).with_columns(pl.col("step") + 50_000)
    arguments = ["fit", "--law", "exponential", "--x", "step", *COUNTS]
    doubts = run(tmp_path, raw, *arguments)["warnings"]
    assert any("step begins at 50000, but the law counts from 0" in each for each in doubts)
    found = run(tmp_path, raw, *arguments, "--origin", "50000")
    assert found["half_life"]["low"] < 4000 < found["half_life"]["high"]
    assert not any("begins at" in each for each in found["warnings"])
    no_clock = refused(tmp_path, capsys, half_lives(), *FIT_TIME, "--origin", "1")
    assert "half_life_size has no clock that counts from 0" in no_clock


@pytest.mark.parametrize("level", [0.0, 0.1])
@pytest.mark.parametrize("response", [COUNTS, ["--y", "share"]], ids=["counts", "shares"])
def test_a_seed_that_never_learned_is_left_out_of_a_fit_to_all_runs_and_of_scaling(
    tmp_path: Path, level: float, response: list[str]
) -> None:
    frame, law = curves(never=level), ["fit", "--law", "exponential_over_size", "--x", "x=step,N=params"]
    found = run(tmp_path, frame, *law, *response, "--group", "run")
    assert found["groups"] == 20
    assert found["parameters"]["a"]["estimate"] == pytest.approx(0.95, abs=0.01)
    assert any("100000 5" in each or "1e+05 5" in each for each in found["warnings"])
    scaled = run(tmp_path, frame, *SCALING, *response, "--out", str(tmp_path / "out"))
    assert {row["seeds"] for row in scaled["half_lives"]} == {5}
    assert scaled["exponent"]["low"] < 0.5 < scaled["exponent"]["high"] < 0.55
    assert {row["seed"] for row in scaled["left_out"]} == {"5"}


def test_by_group_a_law_over_size_leaves_it_out_too(tmp_path: Path) -> None:
    arguments = ["fit", "--law", "exponential_over_size", *OVER_SIZE, "--group", "seed"]
    found = run(tmp_path, curves(never=0.1), *arguments)
    assert found["parameters"]["a"]["low"] < 0.95 < found["parameters"]["a"]["high"] < 1
    assert found["intervals_by"]["a"] == "t, 5 of 6 groups"
    assert found["held_out_error"]["the largest N"] < 0.1


def test_no_law_leads_where_runs_differ_beyond_sampling(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Of exponentials whose half-lives scatter by a quarter, a power law led by up to ΔAICc 35."""
    laws = ["compare", "--laws", "exponential_over_size,shifted_power_over_size", *OVER_SIZE]
    run(tmp_path, curves(between=0.25), *laws, "--group", "run")
    shown = capsys.readouterr().out
    assert "no winner: residuals of shifted_power_over_size differ between groups of run" in shown
    assert "such as the seed" in shown
    run(tmp_path, curves(seed=1), *laws, "--group", "run")
    assert "exponential_over_size leads by ΔAICc" in capsys.readouterr().out


def test_a_size_that_is_censored_in_all_seeds_gives_a_bound_with_its_interval(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    frame, out = curves(between=0.1).filter(pl.col("step") <= 5000), tmp_path / "out"
    found = run(tmp_path, frame, *SCALING, *COUNTS, "--out", str(out))
    bound = found["exponent"]["bound"]
    assert bound["interval_end"] < bound["at_least"] < 0.55
    assert found["exponent"]["intervals"].startswith(f"only its lower end, {bound['interval_end']:.2f}")
    shown = capsys.readouterr().out
    assert f"(its interval begins at {bound['interval_end']:.2f})" in shown
    [command] = re.findall(r"also bounds: python -m analysis fit \S+half_lives.csv (.*)", shown)
    times = pl.read_csv(out / "half_lives.csv")
    whole = run(tmp_path, times, "fit", *command.split())["parameters"]["gamma"]
    assert whole["low"] < 0.5 < whole["high"]
    intervals = command.replace("--y estimate ", "").split()
    assert "any law between them fits" in run(tmp_path, times, "fit", *intervals)["warnings"][0]


def test_a_part_that_cannot_be_held_out_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    late = half_lives().with_columns(late=pl.col("late") | (pl.col("N") == pl.col("N").max()))
    error = refused(tmp_path, capsys, late, *FIT_TIME, "--censored", "late", "--hold-out", "N")
    assert "--hold-out N: the largest, 1e+07, cannot be predicted, as all its values are bounds" in error


def test_parameters_in_millions_and_an_inverted_column_of_bounds_are_asked_about(tmp_path: Path) -> None:
    frame = half_lives().with_columns(pl.col("N") / 1e6, early=~pl.col("late"))
    [units, *_] = run(tmp_path, frame, *FIT_TIME, "--censored", "late")["warnings"]
    assert "N is at most 10 parameters, too few for a language model" in units
    doubts = run(tmp_path, half_lives().with_columns(early=~pl.col("late")), *FIT_TIME, "--censored", "early")
    assert any("early is true in 17 of 25 rows: is it true where a time was not reached" in each
               for each in doubts["warnings"])  # fmt: skip
