"""A seed that never had the skill is left out alike: of counts, shares and per cent, by `fit` and by `compare`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.analysis.fitting.test_columns import counts, run

BY = ["--x", "tau", "--group", "seed"]
RESPONSES = [["--hits", "hits", "--trials", "trials"], ["--y", "share"]]
LAWS = "exponential,exponential_floor"


def table(last: float | None) -> pl.DataFrame:
    """Every other evaluation."""
    share = pl.col("hits") / pl.col("trials")
    return counts(last).gather_every(2).with_columns(share=share, percent=100 * share)


@pytest.mark.parametrize("response", RESPONSES, ids=lambda flags: flags[1])
def test_a_fit_leaves_it_out_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture, response: list[str]) -> None:
    found = run(tmp_path, table(0.05), "fit", "--law", "exponential", *BY, *response)
    assert found["parameters"]["T"]["estimate"] == pytest.approx(60, rel=0.03)
    assert found["half_life"]["low"] < 60 * np.log(2) < found["half_life"]["high"]
    assert [each["why"][:23] for each in found["half_life_by_group"]] == [""] * 5 + ["it never had the skill:"]
    shown = capsys.readouterr().out
    assert "means over 5 of 6 groups" in shown
    assert "--bootstrap" not in shown  # intervals over groups take no scatter to be even


def test_a_comparison_counts_the_seeds_that_a_fit_counts(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    response = ["--y", "percent"]
    found = run(tmp_path, table(0.05), "compare", "--laws", LAWS, *BY, *response)
    assert "groups' own fits, summed (seed 5 left out, as in `fit`: it starts below half" in capsys.readouterr().out
    whole = run(tmp_path, table(0.05).filter(pl.col("seed") < 5), "compare", "--laws", LAWS, *BY, *response)
    assert [each["law"] for each in found] == [each["law"] for each in whole]
    for name in ("aicc", "held_out_error"):
        assert [each[name] for each in found] == pytest.approx([each[name] for each in whole], rel=1e-6)
    assert [part["group"] for part in found[0]["aicc_of"]] == list("01234")


def test_a_seed_at_chance_is_measured_above_it(tmp_path: Path) -> None:
    lifted = table(0.02).with_columns(hits=(0.5 * (pl.col("hits") + pl.col("trials"))).round().cast(pl.Int64))
    found = run(tmp_path, lifted, "fit", "--law", "exponential", *BY, *RESPONSES[0], "--chance", "0.5")
    assert found["half_life_by_group"][5]["why"].startswith("it never had the skill")
