"""What is said about half-lives: of each group, why they have no mean, and floors that half never passes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analysis.__main__ import main
from analysis.fitting.describe import Told
from analysis.fitting.half_lives import _excess_slopes
from analysis.laws import LAWS
from halflife import results

LAW = LAWS["exponential_floor"]
STEPS = np.concatenate([[0.0], np.geomspace(10, 1000, 14).round()])


def counts(*thetas: tuple[float, float, float]) -> pl.DataFrame:
    """One seed a curve; binomial counts of 200."""
    rng = np.random.default_rng(1)
    rates = [LAW.value(np.array(theta), STEPS[:, None]) for theta in thetas]
    return pl.DataFrame({
        "step": np.tile(STEPS, len(thetas)), "hits": rng.binomial(200, np.concatenate(rates)), "trials": 200,
        "seed": np.repeat(np.arange(len(thetas)), STEPS.size),
    })  # fmt: skip


def fitted(frame: pl.DataFrame, folder: Path, capsys: pytest.CaptureFixture, *arguments: str) -> tuple[str, dict]:
    frame.write_csv(folder / "data.csv")
    out = folder / "out.json"
    main(["fit", str(folder / "data.csv"), "--x", "step", "--starts", "16", *arguments, "--json", str(out)])
    return capsys.readouterr().out, json.loads(out.read_text())


COUNTS = ["--hits", "hits", "--trials", "trials", "--group", "seed"]


def test_the_half_life_of_each_group_is_shown_and_why_they_have_no_mean(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    frame = counts(*((0.95, scale, 0.02) for scale in (200.0, 300.0, 450.0, 3000.0, 4000.0)))
    shown, found = fitted(frame, tmp_path, capsys, *COUNTS)
    each = found["half_life_by_group"]
    assert [row["group"] for row in each] == list("01234")
    for row, scale in zip(each[:3], (200.0, 300.0, 450.0), strict=True):
        truth = -scale * np.log((0.475 - 0.02) / 0.93)
        assert row["low"] < row["estimate"] < row["high"]
        assert row["estimate"] == pytest.approx(truth, rel=0.15)
    assert [(row["estimate"], row["at_least"]) for row in each[3:]] == [(None, 1000), (None, 1000)]
    bound = np.exp(np.mean(np.log([row["estimate"] or row["at_least"] for row in each])))
    assert found["half_life"]["at_least"] == pytest.approx(bound)
    assert "of 5 groups, 2 do not reach half within their data: more than a third, so no mean" in shown
    assert found["half_life_why"] in shown
    assert "  4  at least 1000" in shown
    assert "75 points in 5 groups, binomial errors; x = step, rate = hits/trials, group = seed" in shown
    assert shown.count("x at which half of the start is left (start: the value at x = 0)") == 1


def test_a_floor_above_half_is_said_and_the_way_to_it_is_timed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, STEPS.size)
    loss = LAW.value(np.array([3.0, 100.0, 1.8]), STEPS[:, None]) + noise
    shown, found = fitted(pl.DataFrame({"step": STEPS, "loss": loss}), tmp_path, capsys, "--y", "loss")
    assert "never reached under this law: its floor f = 1." in shown
    assert "half-way to f  " in shown
    half = found["half_way_to_floor"]
    assert half["low"] < 100 * np.log(2) < half["high"]
    scale = found["parameters"]["T"]
    assert [half[end] / np.log(2) for end in half] == pytest.approx([scale[end] for end in half], rel=1e-3)
    shown, found = fitted(counts(*((0.95, s, 0.6) for s in (80.0, 100, 120, 110, 90))), tmp_path, capsys, *COUNTS)
    assert "never reached under this law in 5 of 5 groups, whose floors f are above half of their starts" in shown
    half = found["half_way_to_floor"]
    assert half["low"] < 100 * np.log(2) < half["high"]


def test_a_half_life_that_is_reached_has_no_way_to_the_floor(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    shown, found = fitted(counts((0.95, 100.0, 0.2)), tmp_path, capsys, "--hits", "hits", "--trials", "trials")
    assert (found["half_way_to_floor"], found["half_life_why"], found["half_life_by_group"]) == (None, None, [])
    assert "never" not in shown


@pytest.mark.parametrize("scales", [(100.0, 150, 300, 200, 120), (200.0, 300, 450, 3000, 4000)])
def test_the_attributes_of_a_fit_are_the_numbers_that_it_prints(scales: tuple[float, ...]) -> None:
    frame = counts(*((0.95, scale, 0.02) for scale in scales))
    fit = results.fit(frame, "exponential_floor", x="step", hits="hits", trials="trials", group="seed", starts=16)
    rows = {line.split()[0]: line.split()[1] for line in str(fit).splitlines()[3:7]}
    shown = {name: "?" if np.isnan(value) else f"{value:.4g}" for name, value in fit.parameters.items()}
    assert fit.half_life is not None
    assert rows == shown | {"half-life": "?" if np.isnan(fit.half_life) else f"{fit.half_life:.4g}"}
    assert isinstance(fit, Told)
    assert fit.pooled.parameters == dict(zip(LAW.names, fit.theta, strict=True))
    assert fit.pooled.half_life == LAW.half_life(fit.theta) != fit.half_life


@pytest.mark.parametrize("name", [name for name, law in LAWS.items() if law.decays and law.floor])
def test_half_of_the_excess_is_lost_where_the_value_is_halfway_between_start_and_floor(name: str) -> None:
    law, rng = LAWS[name], np.random.default_rng(2)
    theta = np.exp(rng.uniform(-0.5, 0.5, (6, len(law.parameters))))
    theta[:, law.names.index("f")] *= 0.3
    at = law.half_excess(theta)
    assert at is not None
    ends = law.value(theta, np.stack([at, np.zeros_like(at)], axis=1)[..., None])
    assert ends[:, 0] == pytest.approx((ends[:, 1] + theta[:, law.names.index("f")]) / 2)
    slopes, step = _excess_slopes(law, theta, at), 1e-5
    for i in range(theta.shape[1]):
        up, down = (law.half_excess(theta + sign * step * np.eye(theta.shape[1])[i]) for sign in (1, -1))
        assert up is not None
        assert down is not None
        assert slopes[:, i] == pytest.approx((up - down) / (2 * step), rel=1e-4, abs=1e-6)
    theta[:, law.names.index("f")] = 10.0
    assert np.isinf(np.asarray(law.half_excess(theta))).all()
