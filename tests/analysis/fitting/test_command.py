"""`python -m analysis fit` and `compare` on tables: planted numbers, JSON as documented, one line on bad input."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from analysis.__main__ import main
from analysis.fitting.table import ROW, numbers, read_table
from analysis.laws import LAWS

COUNTS = ["--x", "tau", "--hits", "hits", "--trials", "trials"]


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seeds that decay to a floor of 0.2 with T = 60."""
    rng = np.random.default_rng(3)
    tau = np.concatenate([[0.0], np.geomspace(1, 3000, 20)])
    rate = LAWS["exponential_floor"].value(np.array([0.9, 60.0, 0.2]), tau[:, None])
    rows = [{"tau": t, "hits": int(rng.binomial(300, p)), "trials": 300, "seed": s}
            for s in range(6) for t, p in zip(tau, rate, strict=True)]  # fmt: skip
    path = tmp_path_factory.mktemp("tables") / "counts.csv"
    pl.DataFrame(rows).write_csv(path)
    return path


def run(path: Path, *arguments: str) -> Any:
    out = path.with_name("out.json")
    out.unlink(missing_ok=True)
    main([arguments[0], str(path), *arguments[1:], "--json", str(out)])
    return json.loads(out.read_text())


@pytest.mark.parametrize("group", [[], ["--group", "seed"]], ids=["pooled", "by seed"])
def test_fit_of_counts_recovers_planted_parameters(
    counts: Path, group: list[str], capsys: pytest.CaptureFixture
) -> None:
    found = run(counts, "fit", "--law", "exponential_floor", *COUNTS, *group)
    assert set(found) >= {"law", "parameters", "objective", "starts_at_optimum", "half_life", "warnings"}
    assert found["law"] == "exponential_floor"
    for name, truth in (("a", 0.9), ("T", 60.0), ("f", 0.2)):
        each = found["parameters"][name]
        assert set(each) == {"estimate", "low", "high"}
        assert each["low"] < truth < each["high"]
        assert each["estimate"] == pytest.approx(truth, rel=0.1)
    half = found["half_life"]
    assert half["low"] < 60 * np.log(0.7 / 0.25) < half["high"]
    assert half["censored"] is False
    assert found["objective"] < 0  # a log-likelihood
    assert found["starts_at_optimum"] > 0.5
    shown = capsys.readouterr().out
    assert "half-life" in shown
    assert "level that decay settles at" in shown


def test_fit_of_losses_over_two_inputs_in_any_order_and_format(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    inputs = np.exp(rng.uniform(np.log([1e7, 1e9]), np.log([1e10, 1e12]), (60, 2)))
    loss = LAWS["chinchilla"].value(np.array([1.69, 406.4, 410.7, 0.34, 0.28]), inputs)
    frame = pl.DataFrame({"N": inputs[:, 0], "D": inputs[:, 1], "loss": loss * np.exp(1e-3 * rng.normal(size=60))})
    arguments = ["fit", "--law", "chinchilla", "--y", "loss", "--error", "huber", "--x"]
    frame.write_csv(tmp_path / "a.csv")
    frame.write_parquet(tmp_path / "b.parquet")
    frame.write_ndjson(tmp_path / "c.jsonl")
    first = run(tmp_path / "a.csv", *arguments, "N,D")
    assert set(first["parameters"]) == {"E", "A", "B", "alpha", "beta"}
    assert first["parameters"]["alpha"]["estimate"] == pytest.approx(0.34, abs=0.01)
    assert 0 < first["objective"] < 60e-6
    assert first["half_life"] is None
    for other in (run(tmp_path / "b.parquet", *arguments, "N,D"), run(tmp_path / "c.jsonl", *arguments, "D,N")):
        assert other["objective"] == pytest.approx(first["objective"], rel=1e-9)


def test_a_half_life_beyond_the_data_is_censored(tmp_path: Path) -> None:
    tau = np.linspace(0, 10, 12)
    pl.DataFrame({"tau": tau, "y": 0.9 * np.exp(-tau / 100)}).write_csv(tmp_path / "slow.csv")
    half = run(tmp_path / "slow.csv", "fit", "--law", "exponential", "--x", "tau", "--y", "y")["half_life"]
    assert half["censored"] is True
    assert run(tmp_path / "slow.csv", "fit", "--law", "constant", "--x", "tau", "--y", "y")["half_life"] == {
        "estimate": None, "low": None, "high": None, "censored": True, "at_least": 10.0,
    }  # fmt: skip


def test_counts_without_hits_are_still_fitted_by_a_constant(counts: Path, tmp_path: Path) -> None:
    found = run(changed(counts, tmp_path, hits=pl.lit(0)), "fit", "--law", "constant", *COUNTS)
    (level,) = found["parameters"].values()
    assert level["estimate"] == pytest.approx(0, abs=1e-6)
    assert level["high"] < 0.01


def test_warnings_are_about_data_then_groups_then_the_pooled_fit_then_intervals(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    tau = np.geomspace(1, 300, 12)
    rows = [
        {"tau": t, "y": 0.9 * np.exp(-t / (20 + 40 * s)) + 0.2 * (s == 0), "seed": s} for s in range(3) for t in tau
    ]
    pl.DataFrame([*rows, {"tau": 1.0, "y": None, "seed": 0}]).write_csv(tmp_path / "seeds.csv")
    arguments = ["--law", "exponential_floor", "--x", "tau", "--y", "y", "--group", "seed"]
    found = run(tmp_path / "seeds.csv", "fit", *arguments)
    assert found["parameters"]["f"]["low"] >= LAWS["exponential_floor"].bounds[0][2]
    shown = capsys.readouterr().out
    lines = [line.removeprefix("warning: ") for line in shown.splitlines() if line.startswith("warning: ")]
    assert lines[: len(found["warnings"])] == found["warnings"]
    order = ("y is blank in 1 row", "f is at its bound", "in one fit to all points, ", "3 groups: intervals over fewer")
    places = [next(i for i, line in enumerate(lines) if line.startswith(start)) for start in order]
    assert places == sorted(places)


@pytest.mark.parametrize(
    "command", [["fit", "--law", "exponential_floor"], ["compare", "--laws", "constant,exponential"]]
)
def test_rows_without_a_response_are_left_out_and_counted(
    counts: Path, tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture
) -> None:
    nothing = {name: pl.when(pl.int_range(pl.len()) >= 5).then(name) for name in ("hits", "trials")}
    found = run(changed(counts, tmp_path, **nothing), *command, *COUNTS)
    assert "binomial errors; 5 rows without a response left out" in capsys.readouterr().out
    for each in found if isinstance(found, list) else [found]:
        assert (each["points"], each["left_out"]) == (121, 5)


def test_a_seed_without_hits_is_warned_of(counts: Path, tmp_path: Path) -> None:
    path = changed(counts, tmp_path, hits=pl.when(pl.col("seed") == 4).then(0).otherwise("hits"))
    found = run(path, "fit", "--law", "exponential", *COUNTS, "--group", "seed")
    warning = "1 of 6 groups have a constant response, which determines only a level of exponential"
    assert warning in found["warnings"]
    assert warning not in run(counts, "fit", "--law", "exponential", *COUNTS, "--group", "seed")["warnings"]


def test_the_json_records_data_columns_and_method(counts: Path) -> None:
    found = run(counts, "fit", "--law", "exponential_floor", *COUNTS, "--group", "seed")
    assert found["data"] == str(counts)
    assert found["columns"] == {"x": ["tau"], "hits": "hits", "trials": "trials", "group": "seed"}
    assert (found["points"], found["left_out"], found["groups"]) == (126, 0, 6)
    assert (found["error"], found["formula"]) == ("binomial", LAWS["exponential_floor"].formula)
    assert found["intervals"] == "one fit per group, Student-t over 6 groups"


def test_bootstrap_intervals_are_shown_next_to_the_others(
    counts: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["fit", "--law", "exponential", "--error", "gaussian", "--x", "tau", "--y", "y", "--bootstrap", "300"]
    tau, noise = np.geomspace(1, 300, 30), np.random.default_rng(0).normal(0, 0.02, 30)
    pl.DataFrame({"tau": tau, "y": 0.9 * np.exp(-tau / 50) + noise}).write_csv(tmp_path / "run.csv")
    found = run(tmp_path / "run.csv", *arguments)
    assert found["intervals"] == "profile likelihood"
    resampled = found["bootstrap"]
    assert resampled["intervals"] == "bootstrap over 30 rows, 300 replicates"
    for name, truth in (("a", 0.9), ("T", 50.0)):
        profiled, drawn = found["parameters"][name], resampled["parameters"][name]
        assert drawn["estimate"] == profiled["estimate"]
        assert drawn["low"] < truth < drawn["high"]
        assert 0.4 < (drawn["high"] - drawn["low"]) / (profiled["high"] - profiled["low"]) < 2.5
    assert resampled["half_life"]["low"] < 50 * np.log(2) < resampled["half_life"]["high"]
    shown = capsys.readouterr().out
    ends = resampled["parameters"]["a"]
    assert f"[{ends['low']:.4g}, {ends['high']:.4g}]" in shown
    assert "95 % intervals: profile likelihood; bootstrap over 30 rows, 300 replicates" in shown
    assert "bootstrap" not in run(tmp_path / "run.csv", *arguments[:-2])


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--bootstrap", "300", "--group", "seed"], "cannot bootstrap 6 groups: expected at least 10"),
        (["--bootstrap", "-1"], "-1 bootstrap replicates: expected at least 100"),
    ],
)
def test_a_bootstrap_that_would_mislead_is_refused(
    counts: Path, more: list[str], complaint: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["fit", str(counts), "--law", "exponential", *COUNTS, *more])
    assert end.value.code == 2
    assert complaint in capsys.readouterr().err


def test_chance_is_fixed_and_the_law_describes_the_skill_above_it(tmp_path: Path) -> None:
    tau = np.geomspace(1, 1000, 25)
    rate = 0.25 + 0.75 * 0.9 * np.exp(-tau / 50)
    pl.DataFrame({"tau": tau, "hits": np.round(1e5 * rate), "trials": 1e5 + 0 * tau}).write_csv(tmp_path / "four.csv")
    found = run(tmp_path / "four.csv", "fit", "--law", "exponential", *COUNTS, "--chance", "0.25")
    assert found["parameters"]["T"]["estimate"] == pytest.approx(50, rel=0.01)


def test_compare_ranks_by_aicc_and_names_a_winner_only_if_there_is_one(
    counts: Path, capsys: pytest.CaptureFixture
) -> None:
    found = run(counts, "compare", "--laws", "constant,exponential,exponential_floor,power_floor", *COUNTS)
    assert [each["delta_aicc"] for each in found] == sorted(each["delta_aicc"] for each in found)
    assert found[-1]["law"] == "constant"
    assert all(each["half_life"] is not None for each in found)
    for each in found:
        [part] = each["aicc_of"]
        k, n = part["parameters"], part["points"]
        assert each["aicc"] == pytest.approx(2 * k - 2 * part["log_likelihood"] + 2 * k * (k + 1) / (n - k - 1))
    shown = capsys.readouterr().out
    assert "held-out error (rate)" in shown
    assert all(row.split()[1] in ("binomial", "beta-binomial") for row in shown.splitlines()[2:6])
    if found[1]["delta_aicc"] < 2:
        assert "No winner" in shown
    run(counts, "compare", "--laws", "constant,exponential", *COUNTS)
    assert "exponential leads by ΔAICc" in capsys.readouterr().out


def changed(counts: Path, tmp_path: Path, **columns: pl.Expr) -> Path:
    path = tmp_path / "changed.csv"
    pl.read_csv(counts).with_columns(**columns).write_csv(path)
    return path


FIRST = pl.int_range(pl.len()) == 0


@pytest.mark.parametrize(
    ("columns", "arguments", "complaint"),
    [
        ({}, ["--law", "exponential", "--x", "t", *COUNTS[2:]], "there is no column 't', did you mean tau?; columns"),
        ({}, ["--x", "tau,seed", *COUNTS[2:]], "exponential_floor takes 1 input (x); --x gives 2 (tau,seed); name"),
        ({}, ["--law", "exponential", *COUNTS, "--loud"], "--loud"),
        ({}, ["--law", "exponential", *COUNTS, "--delta", "small"], "--delta"),
        ({}, ["--law", "exponent", *COUNTS], "there is no law 'exponent', did you mean exponential?; `python"),
        ({}, ["--law", "exponential", *COUNTS, "--y", "hits"], "pass either --y, or both --hits and --trials"),
        ({}, ["--law", "exponential", *COUNTS[:4]], "both --hits and --trials, or both --low and --high; got --hits"),
        ({}, ["--law", "chinchilla", *COUNTS], "chinchilla takes 2 inputs (N,D); --x gives 1 (tau)"),
        ({}, ["--law", "exponential", *COUNTS, "--error", "huber"], "huber is for a response"),
        ({}, ["--law", "exponential", *COUNTS, "--chance", "1"], "chance is 1.0; expected 0 or more, and below 1"),
        ({}, ["--law", "power", *COUNTS], "power has no value at 6 of 126 points, such as x = 0"),
        ({"hits": -pl.col("hits") - 1}, ["--law", "exponential", *COUNTS], "counts are 0 or more"),
        ({"hits": pl.col("trials") + 1}, ["--law", "exponential", *COUNTS],
         "hits are above trials at 126 of 126 points, first in row 1: hits is 301 and trials is 300"),
        ({"hits": pl.col("hits") / 300}, ["--law", "exponential", *COUNTS], "counts are whole numbers, not rates"),
        ({"tau": pl.lit(3.0)}, ["--law", "exponential", *COUNTS], "x is constant (3)"),
        ({"tau": pl.when(FIRST).then(float("nan")).otherwise("tau")}, ["--law", "exponential", *COUNTS],
         "column tau has 1 values that are NaN or infinite, first in row 1"),
        ({"tau": pl.when(FIRST).then(None).otherwise("tau")}, ["--law", "exponential", *COUNTS],
         "column tau has 1 missing values, first in row 1"),
        ({"hits": pl.lit(0)}, ["--law", "exponential", *COUNTS],
         "hits are 0 in all 126 rows: such data determine a constant rate, not the 2 parameters of exponential"),
        ({"hits": pl.col("trials")}, ["--law", "exponential", *COUNTS], "hits equal trials in all 126 rows"),
        ({"hits": pl.lit(0), "trials": pl.lit(0)}, ["--law", "constant", *COUNTS], "trials are 0 in all 126 rows"),
        ({"hits": pl.when(~FIRST).then("hits")}, ["--law", "exponential", *COUNTS],
         "column hits has 1 missing values, first in row 1"),
        ({"hits": pl.when(~FIRST).then(pl.when(pl.int_range(pl.len()) == 2).then(0.5).otherwise("hits")),
          "trials": pl.when(~FIRST).then("trials")}, ["--law", "exponential", *COUNTS], "hits has 0.5 in row 3"),
        ({"hits": pl.lit(None), "trials": pl.lit(None)}, ["--law", "exponential", *COUNTS],
         "no row has a value of hits or trials"),
        ({"tau": pl.lit("soon")}, ["--law", "exponential", *COUNTS],
         "column tau has 'soon' in row 1; expected numbers"),
        ({"tau": pl.when(pl.int_range(pl.len()) == 2).then(pl.lit("n/a")).otherwise(pl.col("tau").cast(pl.String))},
         ["--law", "exponential", *COUNTS], "column tau has 'n/a' in row 3; expected numbers"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(
    counts: Path, tmp_path: Path, columns: dict, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["fit", str(changed(counts, tmp_path, **columns)), *arguments])
    output = capsys.readouterr()
    assert end.value.code == 2
    assert complaint in output.err
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    assert output.out == ""


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("none.csv", None, "there is no file"),
        (".", None, "is a directory"),
        ("empty.csv", "tau,hits,trials\n", "has no rows"),
        ("nothing.csv", "", "cannot be read as csv"),
        ("notes.txt", "tau", "has an unknown format"),
        ("broken.parquet", "not parquet", "cannot be read as parquet"),
        ("short.csv", "tau,hits,trials\n1,2,3\n", "1 points cannot fit the 2 parameters"),
        ("thousands.csv", "tau;hits;trials\n1;1.234,5;3\n", "column hits has '1.234,5' in row 1; expected numbers"),
        ("cut.jsonl", '{"tau": 1}\n{"tau": ', "cut.jsonl, line 2: expected a JSON object (expecting value)"),
        ("array.jsonl", '[{"tau": 1}]\n', "array.jsonl, line 1: expected a JSON object, such as "),
    ],
)
def test_files_that_cannot_be_fitted_are_one_line(
    tmp_path: Path, name: str, text: str | None, complaint: str, capsys: pytest.CaptureFixture
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(SystemExit) as end:
        main(["fit", str(tmp_path / name), "--law", "exponential", *COUNTS])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


DECAY = 2.0 + 3.0 * np.exp(-np.arange(200) / 40)
"""A loss at steps 0 to 199."""


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


TABLES = {
    "a key that only later rows have.jsonl": _lines(
        [{"step": i, "train": 1} for i in range(150)] + [{"step": i, "loss": v} for i, v in enumerate(DECAY)]
    ),
    "whole numbers first.jsonl": _lines(
        [{"step": i, "loss": 5} for i in range(120)] + [{"step": i, "loss": v} for i, v in enumerate(DECAY)]
    ),
    "nulls first.jsonl": _lines([{"step": i, "loss": v if i > 110 else None} for i, v in enumerate(DECAY)]),
    "nested values, blanks, NaN elsewhere.jsonl": "\ufeff" + _lines(
        [{"step": i, "loss": v if i % 2 else "", "x": ([1], {"a": 2}, math.nan)[i % 3]} for i, v in enumerate(DECAY)]
    ),
    "quoted, a blank in every other row.csv": '"step","run - loss"\n'
    + "".join(f'"{i}","{v if i % 2 == 0 else ""}"\n' for i, v in enumerate(DECAY)),
    "semicolons and decimal commas.csv": '"step";"loss, mean"\n'
    + "".join(f"{i};{v:.6f}\n".replace(".", ",") for i, v in enumerate(DECAY)),
    "tabs, in a name with signs [1]?#%2F.tsv": "step\tloss\n" + "".join(f"{i}\t{v}\n" for i, v in enumerate(DECAY)),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_read_as_other_tools_write_them(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(TABLES[name])
    table = read_table(tmp_path / name)
    loss = next(column for column in table.columns if "loss" in column)
    x, y = (numbers(table.with_row_index(ROW, offset=1).drop_nulls(loss), column) for column in ("step", loss))
    kept = x if name != "whole numbers first.jsonl" else x[120:]
    assert y[-kept.size :] == pytest.approx(DECAY[kept.astype(int)], abs=1e-5)
    assert y.size > 80


@pytest.mark.filterwarnings("error")
def test_a_fit_without_a_law_is_of_decay_to_a_floor(tmp_path: Path) -> None:
    name = "quoted, a blank in every other row.csv"
    (tmp_path / name).write_text(TABLES[name])
    found = run(tmp_path / name, "fit", "--x", "step", "--y", "run - loss")
    assert (found["law"], found["points"], found["left_out"]) == ("exponential_floor", 100, 100)
    assert found["parameters"]["T"]["estimate"] == pytest.approx(40, rel=1e-3)


@pytest.mark.parametrize(
    ("laws", "more", "complaint"),
    [
        ("exponential", COUNTS, "expected two or more different names separated by commas"),
        (
            "exponential,stretched",
            ["--x", "tau", "--y", "trials", "--error", "huber"],
            "use --error lognormal",
        ),
    ],
)
def test_compare_refuses_laws_that_it_cannot_rank(
    counts: Path, laws: str, more: list[str], complaint: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["compare", str(counts), "--laws", laws, *more])
    assert end.value.code == 2
    assert complaint in capsys.readouterr().err


OWN = """
import numpy as np
from analysis.laws import Parameter, law

@law(
    name="hill_floor", formula="y = f + (a - f) / (1 + x/T)", source="mine", decays=True,
    parameters=(
        Parameter(name="a", low=0, high=1, unit="y"),
        Parameter(name="T", low=1e-9, high=1e18, log=True, unit="x"),
        Parameter(name="f", low=0, high=1, unit="y"),
    ),
)
def hill_floor(x, a, T, f):
    return f + (a - f) / (1 + np.exp(np.log(x + 1e-300) - np.log(T)))
"""


def test_a_user_law_is_fitted_and_compared_from_its_file(
    counts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.laws.base.LAWS", LAWS.copy())
    (tmp_path / "mylaw.py").write_text(OWN)
    own = f"{tmp_path / 'mylaw.py'}:hill_floor"
    found = run(counts, "fit", "--law", own, *COUNTS)
    assert found["law"] == "hill_floor"
    assert found["parameters"]["a"]["estimate"] == pytest.approx(0.9, abs=0.05)
    ranked = run(counts, "compare", "--laws", f"exponential_floor,{own}", *COUNTS)
    assert [each["law"] for each in ranked] == ["exponential_floor", "hill_floor"]


@pytest.mark.parametrize(
    ("text", "name", "complaint"),
    [
        (None, "hill_floor", "there is no file"),
        ("import no_such_thing", "hill_floor", "cannot be imported: ModuleNotFoundError: No module named"),
        ("def f(:", "hill_floor", "cannot be imported: SyntaxError"),
        (OWN, "hill", "registers no law 'hill'; it registers hill_floor"),
        ("x = 1", "exponential", "registers no law 'exponential'; it registers none"),
    ],
)
def test_a_file_without_the_law_is_one_line(
    counts: Path, tmp_path: Path, text: str | None, name: str, complaint: str, capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("analysis.laws.base.LAWS", LAWS.copy())
    if text is not None:
        (tmp_path / "mylaw.py").write_text(text)
    with pytest.raises(SystemExit) as end:
        main(["fit", str(counts), "--law", f"{tmp_path / 'mylaw.py'}:{name}", *COUNTS])
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert complaint in error
    assert error.count("\n") == 1


def test_times_of_laws_that_rise_are_called_so_and_unknown_ends_are_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    x = np.array([0.0, 1, 2, 4, 8, 16, 32, 64, 128])
    table = pl.DataFrame({"x": x, "up": 0.9 - 0.8 * np.exp(-x / 10) + 0.01 * np.cos(x), "flat": 0.9 + 0.01 * np.cos(x)})
    table.write_csv(tmp_path / "data.csv")
    data = [str(tmp_path / "data.csv"), "--x", "x", "--starts", "8"]
    main(["compare", *data, "--y", "up", "--laws", "rising_exponential,rising_sigmoid"])
    shown = capsys.readouterr().out
    assert "time to half recovery" in shown
    assert "half-life" not in shown
    main(["fit", *data, "--y", "flat", "--law", "exponential"])
    shown = capsys.readouterr().out
    assert ", ?]" in shown
    assert "?: the data do not bound it on that side" in shown
