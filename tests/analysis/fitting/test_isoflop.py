"""`python -m analysis isoflop`: planted exponents, intervals of minima, columns that were swapped."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analysis.laws import LAWS
from tests.analysis.fitting.test_columns import CHINCHILLA, refused, run


def test_isoflop_notices_columns_that_were_swapped(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    n = np.tile(np.geomspace(1e7, 1e9, 5), 2)
    compute = np.repeat([1e19, 1e20], 5)
    frame = pl.DataFrame({"n": n, "c": compute, "loss": 2 + 0.1 * np.log(n / 1e8) ** 2 - 0.05 * np.log(compute / 1e19)})
    columns = {"size": "n", "loss": "loss", "budget": "c"}
    for swap, complaint in ((("size", "loss"), "--size and --loss swapped?"), (("size", "budget"), "is --size the")):
        given = columns | {swap[0]: columns[swap[1]], swap[1]: columns[swap[0]]}
        flags = [part for name, column in given.items() for part in (f"--{name}", column)]
        with contextlib.suppress(SystemExit):  # refused, or fitted with a warning
            run(tmp_path, frame, "isoflop", *flags)
        assert complaint in "".join(capsys.readouterr())


@pytest.mark.parametrize("columns", [["--tokens", "tokens"], ["--budget", "compute"]])
def test_isoflop_minima_give_the_planted_exponents(
    tmp_path: Path, capsys: pytest.CaptureFixture, columns: list[str]
) -> None:
    best = LAWS["chinchilla"].optimum
    assert best is not None
    rng, rows = np.random.default_rng(0), []
    for compute in np.geomspace(1e18, 1e21, 6):
        size, _ = best(compute / 6, *CHINCHILLA)
        rows += [(float(n), compute / 6 / n, compute) for n in size * np.geomspace(0.25, 4, 7)]
    frame = pl.DataFrame(rows, schema=["params", "tokens", "compute"], orient="row")
    loss = LAWS["chinchilla"].value(CHINCHILLA, frame.select("params", "tokens").to_numpy())
    frame = frame.with_columns(loss=loss * np.exp(1e-3 * rng.normal(size=loss.size)))
    arguments = ["isoflop", "--size", "params", "--loss", "loss", *columns, "--compute", "1e23"]
    found = run(tmp_path, frame, *arguments)
    assert found["a"]["low"] < 0.28 / 0.62 < found["a"]["high"]
    assert found["a"]["estimate"] + found["b"]["estimate"] == pytest.approx(1)
    assert len(found["minima"]) == 6
    optima = [best(each["compute"] / 6, *CHINCHILLA)[0] for each in found["minima"]]
    inside = [each["low"] < size < each["high"] for each, size in zip(found["minima"], optima, strict=True)]
    assert sum(inside) >= 5
    assert not found["warnings"]
    size, _ = best(1e23 / 6, *CHINCHILLA)
    assert found["allocation"][0]["N"]["low"] < size < found["allocation"][0]["N"]["high"]
    assert "optimal parameters grow as C^a, a = 0.4" in capsys.readouterr().out
    two = run(tmp_path, frame.filter(pl.col("compute") < 5e18), *arguments)
    assert two["a"]["low"] is None
    assert "none (?): the line through 2 budgets leaves no degrees of freedom" in capsys.readouterr().out
    few = frame.filter(pl.int_range(pl.len()) % 3 == 0)
    assert "0 of 6 budgets can be used (6 budgets with fewer than 4 sizes" in refused(tmp_path, capsys, few, *arguments)
