"""What the columns of a table can be: named inputs, bounds, weights, standard errors; what is held and held out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from analysis.__main__ import main
from analysis.laws import LAWS

CHINCHILLA = np.array([1.69, 406.4, 410.7, 0.34, 0.28])


def run(tmp_path: Path, frame: pl.DataFrame, *arguments: str) -> Any:
    path, out = tmp_path / "table.csv", tmp_path / "out.json"
    frame.write_csv(path)
    starts = ["--starts", "16"] if arguments[0] in ("fit", "compare") else []
    main([arguments[0], str(path), *arguments[1:], *starts, "--json", str(out)])
    return json.loads(out.read_text())


def refused(tmp_path: Path, capsys: pytest.CaptureFixture, frame: pl.DataFrame, *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        run(tmp_path, frame, *arguments)
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert error.count("\n") == 1
    return error


def losses(noise: float = 1e-3) -> pl.DataFrame:
    rng = np.random.default_rng(1)
    n, d = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e7, 1e10, 7), np.geomspace(1e9, 1e12, 7)))
    loss = LAWS["chinchilla"].value(CHINCHILLA, np.stack([n, d], axis=1))
    return pl.DataFrame({"params": n, "tokens": d, "loss": loss * np.exp(noise * rng.normal(size=n.size))})


def half_lives(seed: int = 0, seeds: int = 5, cut: float = 0.3) -> pl.DataFrame:
    """gamma 0.25, each run's half-life with its own noise; the longest `cut` of them are seen only until a horizon."""
    rng = np.random.default_rng(seed)
    sizes = np.tile(np.geomspace(1e5, 1e7, 5), seeds)
    times = 1e4 * (sizes / 1e6) ** 0.25 * np.exp(0.3 * rng.normal(size=sizes.size))
    horizon = np.quantile(times, 1 - cut)
    return pl.DataFrame({
        "N": sizes, "seed": np.repeat(np.arange(seeds), 5), "half_life": np.minimum(times, horizon),
        "late": times > horizon, "true": times,
    })  # fmt: skip


FIT_LOSS = ["fit", "--law", "chinchilla", "--y", "loss", "--error", "lognormal"]
FIT_TIME = ["fit", "--law", "half_life_size", "--x", "N=N", "--y", "half_life"]


def test_named_inputs_are_those_of_the_law_in_any_order(tmp_path: Path) -> None:
    found = run(tmp_path, losses(), *FIT_LOSS, "--x", "D=tokens,N=params")
    assert found["parameters"]["alpha"]["estimate"] == pytest.approx(0.34, abs=0.01)
    assert found["columns"]["x"] == ["params", "tokens"]
    assert found["error"] == "lognormal"


@pytest.mark.parametrize(
    ("x", "rename", "complaint"),
    [
        ("step=params,N=tokens", {}, "chinchilla takes N,D; --x gives 'step=params,N=tokens': name each input once"),
        ("N=params", {}, "name each input once, as --x N=COLUMN,D=COLUMN"),
        ("N=params,tokens", {}, "name each input once"),
        ("N=params,N=tokens", {}, "name each input once"),
        ("tokens,N", {"params": "N"}, "column N is given for D, but chinchilla has an input N: name them"),
        ("params", {}, "chinchilla takes 2 inputs (N,D); --x gives 1 (params)"),
        ("N=params,D=token", {}, "there is no column 'token'"),
    ],
)
def test_names_that_are_not_the_laws_or_seem_swapped_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture, x: str, rename: dict, complaint: str
) -> None:
    assert complaint in refused(tmp_path, capsys, losses().rename(rename), *FIT_LOSS, "--x", x)


def test_censored_times_are_bounds_and_give_the_planted_exponent(tmp_path: Path) -> None:
    """Dropped, the slope would be too small: the long half-lives are those of large models."""
    frame, inside, estimates, dropped = half_lives(), 0, [], []
    for seed in range(5):
        frame = half_lives(seed)
        gamma = run(tmp_path, frame, *FIT_TIME, "--censored", "late")["parameters"]["gamma"]
        inside += gamma["low"] <= 0.25 <= gamma["high"]
        estimates.append(gamma["estimate"])
        seen = frame.filter(~pl.col("late"))
        dropped.append(run(tmp_path, seen, *FIT_TIME, "--error", "lognormal")["parameters"]["gamma"]["estimate"])
    assert np.mean(estimates) == pytest.approx(0.25, abs=0.05)
    assert np.mean(dropped) < 0.17
    assert inside >= 4


def test_bounds_say_what_a_column_of_censoring_says(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    frame = half_lives()
    one = run(tmp_path, frame, *FIT_TIME, "--censored", "late")
    shown = capsys.readouterr().out
    assert "25 points (8 of them are bounds), lognormal, censored errors" in shown
    frame = frame.with_columns(upper=pl.when(~pl.col("late")).then("half_life"))
    arguments = ["fit", "--law", "half_life_size", "--x", "N", "--low", "half_life", "--high", "upper"]
    other = run(tmp_path, frame, *arguments)
    blank = frame.with_columns(lower="half_life", half_life=pl.when(~pl.col("late")).then("half_life"))
    third = run(tmp_path, blank, *FIT_TIME, "--low", "lower", "--high", "upper")
    assert third["parameters"] == other["parameters"]
    for name, each in one["parameters"].items():
        assert other["parameters"][name]["estimate"] == pytest.approx(each["estimate"], rel=1e-6)


def test_a_blank_time_is_refused_and_a_blank_loss_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    frame = half_lives().with_columns(half_life=pl.when(~pl.col("late")).then("half_life"))
    error = refused(tmp_path, capsys, frame, *FIT_TIME)
    assert "column half_life is blank in 8 rows, first in row" in error
    assert "--censored COLUMN" in error
    assert "is blank in 8 rows" in refused(tmp_path, capsys, frame, *FIT_TIME, "--censored", "late")
    gap = losses().with_columns(loss=pl.when(pl.int_range(pl.len()) > 2).then("loss"))
    assert run(tmp_path, gap, *FIT_LOSS, "--x", "params,tokens")["left_out"] == 3


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--y", "half_life", "--hits", "seed"], "pass either --y, or both --hits and --trials"),
        (
            ["--y", "half_life", "--low", "half_life", "--high", "true", "--censored", "late"],
            "without --low and --high",
        ),
        (["--low", "half_life", "--high", "text"], "column text has 'soon' in row 1; expected numbers"),
        (["--low", "blank", "--high", "blank"], "column blank is blank in 25 rows"),
        (["--low", "half_life", "--high", "none"], "all 25 values are lower bounds, and any law beyond them fits"),
        (["--low", "half_life"], "or both --low and --high; got --low"),
        (["--low", "true", "--high", "half_life"], "true is above half_life in"),
        (["--y", "half_life", "--censored", "N"], "column N has 100000.0 in row 1; expected true or false"),
        (["--y", "half_life", "--weights", "N", "--errors", "N"], "pass --weights or --errors, not both"),
        (["--y", "half_life", "--errors", "seed"], "column seed has 0 in row 1; expected above 0"),
        (["--y", "half_life", "--fix", "beta=1"], "half_life_size has no parameter 'beta'; it has T0, gamma"),
        (["--y", "half_life", "--fix", "gamma=much"], "--fix gamma=much: expected NAME=NUMBER"),
        (["--y", "half_life", "--fix", "T0=-1"], "--fix T0=-1: T0 lies between"),
        (["--y", "half_life", "--fix", "T0=1,gamma=0"], "holds all parameters of half_life_size"),
        (["--y", "half_life", "--hold-out", "D"], "--hold-out D: half_life_size has no such input; it has N"),
        (["--y", "half_life", "--compute", "1e20"], "half_life_size has no compute-optimal allocation"),
        (["--y", "half_life", "--compute", "much"], "--compute is 'much'; expected numbers separated by commas"),
    ],
)
def test_columns_that_make_no_sense_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture, arguments: list[str], complaint: str
) -> None:
    base = ["fit", "--law", "half_life_size", "--x", "N"]
    frame = half_lives().with_columns(text=pl.lit("soon"), blank=pl.lit(None, dtype=pl.Float64), none=pl.lit(None))
    assert complaint in refused(tmp_path, capsys, frame, *base, *arguments)


def test_rows_weigh_by_their_standard_errors(tmp_path: Path) -> None:
    """A point with a large error hardly moves the fit; weights 1 / error^2 are the same."""
    x = np.linspace(1, 300, 40)
    error = np.where(np.arange(40) % 4 == 0, 0.3, 0.01)
    y = np.exp(-x / 60) + error * np.random.default_rng(0).normal(size=40)
    frame = pl.DataFrame({"x": x, "y": y, "error": error, "weight": error**-2})
    arguments = ["fit", "--law", "exponential", "--x", "x", "--y", "y"]
    plain, weighed, same = (
        run(tmp_path, frame, *arguments, *more)["parameters"]["T"]
        for more in ([], ["--errors", "error"], ["--weights", "weight"])
    )
    assert weighed["estimate"] == pytest.approx(60, rel=0.05)
    assert weighed["low"] < 60 < weighed["high"]
    assert weighed["high"] - weighed["low"] < 0.3 * (plain["high"] - plain["low"])
    assert same["estimate"] == pytest.approx(weighed["estimate"], rel=1e-9)


def test_standard_errors_of_a_response_are_relative_where_its_errors_are(tmp_path: Path) -> None:
    """Errors in proportion to y weigh all rows of ln y alike."""
    frame = losses(0.01).with_columns(error=0.02 * pl.col("loss"))
    arguments = [*FIT_LOSS, "--x", "params,tokens"]
    plain, weighed = (run(tmp_path, frame, *arguments, *more) for more in ([], ["--errors", "error"]))
    assert weighed["parameters"]["alpha"]["estimate"] == pytest.approx(
        plain["parameters"]["alpha"]["estimate"], rel=1e-6
    )


def test_a_parameter_that_is_held_stays_and_narrows_the_others(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    frame = losses(0.01)
    arguments = [*FIT_LOSS, "--x", "params,tokens"]
    free = run(tmp_path, frame, *arguments)["parameters"]
    capsys.readouterr()
    held = run(tmp_path, frame, *arguments, "--fix", "E=1.69,alpha=0.34")["parameters"]
    assert (held["E"]["estimate"], held["alpha"]["estimate"]) == pytest.approx((1.69, 0.34))
    assert held["beta"]["high"] - held["beta"]["low"] < 0.5 * (free["beta"]["high"] - free["beta"]["low"])
    assert held["beta"]["low"] < 0.28 < held["beta"]["high"]
    shown = capsys.readouterr().out
    assert [line.split()[2] for line in shown.splitlines() if line.strip().startswith(("E ", "alpha "))] == ["held"] * 2


def test_the_largest_of_an_input_is_held_out_on_demand(tmp_path: Path) -> None:
    for name in ("D", "tokens"):  # by the law's name or the column's
        found = run(tmp_path, losses(), *FIT_LOSS, "--x", "params,tokens", "--hold-out", name)["held_out_error"]
        assert set(found) == {"the largest N", "the largest D"}
        assert all(error < 0.01 for error in found.values())


def test_what_is_held_out_is_said_in_numbers(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    step = np.concatenate([[1.0, 10.0], np.linspace(100, 1000, 10)])
    frame = pl.DataFrame({"step": step, "y": np.exp(-step / 300) + 0.01 * np.sin(step)})
    run(tmp_path, frame, "fit", "--law", "exponential", "--x", "step", "--y", "y", "--hold-out", "step")
    shown = capsys.readouterr().out
    late = int((step > 1000**0.8).sum())  # the last fifth of ln x holds most rows of an even grid
    assert f"held out: the last part of the decay (x > 251.2, {late} of 12 points) is predicted from the rest" in shown
    assert "held out: the largest x (x = 1000, 1 of 12 points) is predicted from the rest" in shown


def test_a_parametric_fit_allocates_compute_with_intervals(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = [*FIT_LOSS, "--x", "params,tokens", "--compute", "1e21"]
    found = run(tmp_path, losses(), *arguments)
    for name, truth in (("a", 0.28 / 0.62), ("b", 0.34 / 0.62)):
        each = found["derived"][name]
        assert each["low"] < truth < each["high"]
        assert each["estimate"] == pytest.approx(truth, abs=0.02)
    best = LAWS["chinchilla"].optimum
    assert best is not None
    size, tokens = best(1e21 / 6, *CHINCHILLA)
    (split,) = found["allocation"]
    assert split["compute"] == 1e21
    assert split["N"]["low"] < size < split["N"]["high"]
    assert split["D"]["low"] < tokens < split["D"]["high"]
    assert 6 * split["N"]["estimate"] * split["D"]["estimate"] == pytest.approx(1e21)
    assert split["loss"]["low"] < split["loss"]["high"]
    assert "optimum at C = 1e+21 FLOPs: N = " in capsys.readouterr().out
    drawn = run(tmp_path, losses(), *arguments, "--bootstrap", "200")
    again, first = drawn["bootstrap"]["parameters"]["a"], found["derived"]["a"]
    assert again["low"] < 0.28 / 0.62 < again["high"]
    assert 0.4 < (again["high"] - again["low"]) / (first["high"] - first["low"]) < 2.5
    assert capsys.readouterr().out.count("(bootstrap)") == 1


def test_a_recovery_is_told_with_its_time_to_half_and_a_power_law_without(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    x = np.concatenate([[0.0], np.geomspace(1, 500, 20)])
    y = LAWS["rising_exponential"].value(np.array([0.1, 0.9, 60.0]), x[:, None])
    frame = pl.DataFrame({"x": x, "y": y + 0.01 * np.random.default_rng(1).normal(size=x.size)})
    found = run(tmp_path, frame, "fit", "--law", "rising_exponential", "--x", "x", "--y", "y")
    assert found["half_life_is"] == "time to half recovery"
    assert found["half_life"]["low"] < 60 * np.log(2) < found["half_life"]["high"]
    shown = capsys.readouterr().out
    assert "time to half recovery" in shown
    assert "the last part of the curve" in shown
    table = ["compare", "--laws", "chinchilla,gadre", "--x", "N=params,D=tokens", "--y", "loss", "--error", "lognormal"]
    run(tmp_path, losses(), *table)
    shown = capsys.readouterr().out
    assert "none in this law" in shown
    assert "decay" not in shown
    assert "beyond the data" not in shown


def test_the_menu_names_every_law_with_its_formula_and_inputs(capsys: pytest.CaptureFixture) -> None:
    main(["laws"])
    shown = capsys.readouterr().out
    for law in LAWS.values():
        line = next(line for line in shown.splitlines() if line.split()[:1] == [law.name])
        assert law.formula in line
        assert ", ".join(law.inputs) in line
    main(["laws", "data_constrained"])
    shown = capsys.readouterr().out
    assert "arXiv 2305.16264" in shown
    assert "U unique tokens" in shown


def test_runs_that_repeat_the_inputs_are_named_as_the_group(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    x = np.tile(np.geomspace(1, 300, 12), 4)
    seed = np.repeat(np.arange(4), 12)
    y = np.exp(-x / np.array([40, 50, 60, 70])[seed])
    frame = pl.DataFrame({"x": x, "y": y, "noise": y + 0.1, "step_of_run": np.tile(np.arange(12), 4), "seed": seed})
    arguments = ["fit", "--law", "exponential", "--x", "x", "--y", "y"]
    warned = run(tmp_path, frame, *arguments)["warnings"]
    assert any(warning.endswith("share its noise, so pass --group seed") for warning in warned)
    for table, more in ((frame, ["--group", "seed"]), (frame.filter(seed=0), [])):
        assert not any("--group" in warning for warning in run(tmp_path, table, *arguments, *more)["warnings"])


def test_scatter_that_grows_with_the_value_is_told_with_the_intervals_to_trust(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rng, x = np.random.default_rng(0), np.concatenate([[0.0], np.geomspace(1, 3000, 39)])
    value = LAWS["exponential_floor"].value(np.array([0.9, 60.0, 0.2]), x[:, None])
    frame = pl.DataFrame({"x": x, "even": value + 0.03 * rng.normal(size=40),
                          "uneven": value + 0.1 * (value - 0.15) * rng.normal(size=40)})  # fmt: skip
    arguments = ["fit", "--law", "exponential_floor", "--x", "x", "--y"]
    assert run(tmp_path, frame, *arguments, "even")["scatter"] is None
    assert "the scatter " in run(tmp_path, frame, *arguments, "uneven")["scatter"]
    assert "trust --bootstrap 1000 instead; or --error lognormal" in capsys.readouterr().out
    run(tmp_path, frame, *arguments, "uneven", "--bootstrap", "200")
    assert "trust the bootstrap, not the profile likelihood" in capsys.readouterr().out


def counts(last: float | None = None) -> pl.DataFrame:
    """Six seeds that decay with T = 60, but for the last, whose rate is always what is given."""
    rng = np.random.default_rng(3)
    rows = []
    for seed in range(6):
        for t in np.concatenate([[0.0], np.geomspace(1, 3000, 20)]):
            rate = last if seed == 5 and last is not None else 0.9 * np.exp(-t / 60)
            rows.append((t, int(rng.binomial(300, rate)), 300, seed))
    return pl.DataFrame(rows, schema=["tau", "hits", "trials", "seed"], orient="row")


FIT_COUNTS = ["fit", "--law", "exponential", "--x", "tau", "--hits", "hits", "--trials", "trials", "--group", "seed"]


@pytest.mark.parametrize("chance", [0.0, 0.05])
def test_a_seed_that_never_had_the_skill_says_nothing_of_its_half_life(tmp_path: Path, chance: float) -> None:
    """It would otherwise enter with whatever time scale the fit to zeros ends at, such as 0.008, or as a seed that
    never loses the skill."""
    found = run(tmp_path, counts(chance), *FIT_COUNTS)
    for name, truth in (("half_life", 60 * np.log(2)), ("T", 60.0)):
        each = found["half_life"] if name == "half_life" else found["parameters"][name]
        assert each["low"] < truth < each["high"]
        assert each["estimate"] == pytest.approx(truth, rel=0.03)
    assert "1 left out, which never had the skill: it starts below half of" in found["intervals"]
    assert found["parameters"]["a"]["estimate"] == pytest.approx(0.9, abs=0.01)


def test_a_seed_that_never_loses_the_skill_is_a_bound_at_its_last_point(tmp_path: Path) -> None:
    found = run(tmp_path, counts(0.9), *FIT_COUNTS)
    half = found["half_life"]
    assert half["censored"] is True
    assert half["estimate"] > 60 * np.log(2)
    assert half["high"] > 3000 ** (1 / 6) * (60 * np.log(2)) ** (5 / 6)  # the mean is at least that of the bounds
    lost = counts().with_columns(hits=pl.when((pl.col("seed") == 5) & (pl.col("tau") > 0)).then(0).otherwise("hits"))
    early = run(tmp_path, lost, *FIT_COUNTS)["half_life"]  # lost by the first point after 0, at 1
    assert early["low"] < 60 ** (5 / 6) < early["high"]
    assert early["estimate"] > (60 * np.log(2)) ** (5 / 6) * 0.02 ** (1 / 6)


def test_beyond_the_data_is_told_with_a_lower_bound(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    tau = np.linspace(0, 10, 12)
    frame = pl.DataFrame({"tau": tau, "y": 0.9 + 0.01 * np.sin(tau)})
    found = run(tmp_path, frame, "fit", "--law", "constant", "--x", "tau", "--y", "y")
    assert found["half_life"]["at_least"] == 10
    assert "never reached under this law, by the data at least 10" in capsys.readouterr().out
    run(tmp_path, frame, "compare", "--laws", "constant,exponential", "--x", "tau", "--y", "y")
    assert "beyond the data, at least 10" in capsys.readouterr().out


def test_a_span_that_falls_short_is_not_rounded_up_to_what_is_needed(tmp_path: Path) -> None:
    x = np.concatenate([[0.0], np.geomspace(1, 60 * 10**1.496, 30)])
    y = LAWS["exponential_floor"].value(np.array([0.9, 60.0, 0.2]), x[:, None])
    frame = pl.DataFrame({"x": x, "y": y})
    warned = run(tmp_path, frame, "fit", "--law", "exponential_floor", "--x", "x", "--y", "y")["warnings"]
    assert any("ends 1.49 decades after T = 60; a tail or floor needs 1.5 decades" in warning for warning in warned)


def test_errors_in_the_logarithm_of_one_plus_y_take_zeros_and_large_values_alike(tmp_path: Path) -> None:
    rng, x = np.random.default_rng(0), np.tile(np.geomspace(1, 1000, 20), 2)
    y = np.expm1(np.maximum(np.log1p(2000 * np.exp(-x / 80)) + 0.1 * rng.normal(size=40), 0))
    frame = pl.DataFrame({"x": x, "y": np.round(y)})
    assert (frame["y"] == 0).any()
    found = run(tmp_path, frame, "fit", "--law", "exponential", "--x", "x", "--y", "y", "--error", "log1p")
    assert found["error"] == "log1p"
    for name, truth in (("a", 2000.0), ("T", 80.0)):
        assert found["parameters"][name]["low"] < truth < found["parameters"][name]["high"]
        assert found["parameters"][name]["estimate"] == pytest.approx(truth, rel=0.1)


def test_a_run_that_never_recovers_bounds_the_time_to_half_recovery(tmp_path: Path) -> None:
    x = np.concatenate([[0.0], np.geomspace(1, 500, 20)])
    rng, rows = np.random.default_rng(0), []
    for seed in range(6):
        rate = 0.9 * (1 - np.exp(-x / 60)) if seed else 0 * x
        rows += [(at, int(rng.binomial(300, p)), 300, seed) for at, p in zip(x, rate, strict=True)]
    frame = pl.DataFrame(rows, schema=["tau", "hits", "trials", "seed"], orient="row")
    half = run(tmp_path, frame, *["rising_exponential" if a == "exponential" else a for a in FIT_COUNTS])["half_life"]
    assert half["censored"] is True
    assert half["estimate"] > 60 * np.log(2)
    assert half["high"] > 500 ** (1 / 6) * (60 * np.log(2)) ** (5 / 6)
