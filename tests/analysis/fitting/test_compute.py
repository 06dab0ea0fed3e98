"""Parameters, tokens and compute in another unit, swapped, or far from the budget asked for, are said in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from analysis.fitting import compute
from tests.analysis.fitting.test_columns import losses, run

FIT = ["fit", "--law", "chinchilla", "--x", "N=params,D=tokens", "--y", "loss", "--error", "lognormal",
       "--fix", "alpha=0.34,beta=0.28,E=1.69"]  # fmt: skip
ISOFLOP = ["isoflop", "--size", "params", "--tokens", "tokens", "--loss", "loss"]


def isoflops() -> pl.DataFrame:
    """At five budgets, seven sizes around the best."""
    budgets = pl.DataFrame({"flops": [10.0**power for power in range(18, 23)]})
    runs = budgets.join(pl.DataFrame({"step": [float(step) for step in range(-3, 4)]}), how="cross")
    best = (pl.col("flops") / 120).sqrt()
    runs = runs.with_columns(params=best * 2 ** pl.col("step")).with_columns(
        tokens=pl.col("flops") / 6 / pl.col("params")
    )
    return runs.with_columns(loss=5 - 0.05 * pl.col("flops").log() + 0.01 * pl.col("step") ** 2)


def warnings(tmp_path: Path, frame: pl.DataFrame, *arguments: str) -> list[str]:
    found: dict[str, Any] = run(tmp_path, frame, *arguments)
    return found["warnings"]


@pytest.mark.parametrize("arguments", [FIT, ISOFLOP])
def test_parameters_in_millions_and_tokens_in_billions_are_doubted(tmp_path: Path, arguments: list[str]) -> None:
    frame = (losses() if arguments == FIT else isoflops()).select("params", "tokens", "loss")
    wrong = frame.with_columns(pl.col("params") / 1e6, pl.col("tokens") / 1e9)
    found = run(tmp_path, wrong, *arguments, "--compute", "1e22")
    assert found["allocation"] == [{"compute": 1e22}]  # an optimum in wrong units is not given
    small, far = found["warnings"]
    assert "too few for a language model: C = 6 N D takes single parameters" in small
    decades = 22 + 15 - (22 if arguments == ISOFLOP else 22.8)
    assert f"--compute 1e+22 lies {decades:.1f} decades beyond the largest 6 N D of the data" in far


def test_an_exponent_of_held_parameters_is_held(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    held = run(tmp_path, losses(), *FIT)["derived"]["a"]
    assert held["low"] == held["estimate"] == held["high"] == pytest.approx(0.28 / 0.62)
    assert "a      0.4516    held" in capsys.readouterr().out


def test_a_budget_within_reach_of_the_data_is_not_doubted(tmp_path: Path) -> None:
    assert not warnings(tmp_path, isoflops(), *ISOFLOP, "--compute", "1e17,1e24")
    found = run(tmp_path, isoflops(), *ISOFLOP, "--compute", "1e24,1e14")
    near, far = (each["N"] for each in found["allocation"])
    assert near["low"] is not None
    assert far["low"] is far["high"] is None
    [below] = found["warnings"]
    assert "--compute 1e+14 lies 4.0 decades below the smallest 6 N D" in below


def test_a_column_of_compute_that_is_not_6nd_is_doubted(tmp_path: Path) -> None:
    assert not warnings(tmp_path, isoflops(), *ISOFLOP)
    thousands = isoflops().with_columns(pl.col("tokens") / 1e3)
    assert "6 N D is 0.001 times column flops (median)" in warnings(tmp_path, thousands, *ISOFLOP)[0]
    budget = ["isoflop", "--size", "params", "--budget", "flops", "--loss", "loss"]
    assert "C / (6 N) is 1e+03 times column tokens (median)" in warnings(tmp_path, thousands, *budget)[0]
    fitted = losses().with_columns(compute=2 * pl.col("params") * pl.col("tokens"))  # 2 N D: a way of counting
    assert not warnings(tmp_path, fitted, *FIT)


SWAPPED = [
    [*FIT[:4], "N=tokens,D=params", *FIT[5:]],
    [*FIT[:4], "tokens,params", *FIT[5:]],
    ["isoflop", "--size", "tokens", "--tokens", "params", "--loss", "loss"],
]


@pytest.mark.parametrize("arguments", SWAPPED)
def test_columns_named_as_the_other_input_are_called_swapped(tmp_path: Path, arguments: list[str]) -> None:
    frame = isoflops().drop("flops") if arguments[0] == "isoflop" else losses()
    assert warnings(tmp_path, frame, *arguments)[0] == (
        "N = tokens, D = params, but N is parameters, D is tokens: are columns swapped?"
    )


@pytest.mark.parametrize(("column", "name"), [("n_params", "N"), ("N", "N"), ("tokens_seen", "D"), ("FLOPs", "C"),
                                              ("tokens_per_param", ""), ("loss", ""), ("steps", "")])  # fmt: skip
def test_only_plain_names_say_what_a_column_is(column: str, name: str) -> None:
    assert compute.named(column) == name
