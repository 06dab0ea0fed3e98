"""The public door to runs, fits and figures."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from matplotlib.figure import Figure

from analysis.figures import FIGURES
from analysis.fitting.result import Fit
from analysis.runs.study import StudyData
from halflife import results
from halflife.tracking.questions import Against, Crossing, Quantity, Trend
from tests.analysis import planted
from tests.analysis.conftest import SMALL

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder whose runs are planted."""
    folder = tmp_path_factory.mktemp("door") / "results"
    planted.write(folder, SMALL)
    return folder


@pytest.fixture(scope="module")
def data(folder: Path) -> StudyData:
    return results.load(SMALL.study, results=folder)


def test_the_example_of_the_docstring_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (results.__doc__ or "").splitlines()
    example = textwrap.dedent("\n".join(line for line in lines if line.startswith("    ")))
    assert len(example.splitlines()) == 12
    assert example in (ROOT / "README.md").read_text().replace("\n\n", "\n")
    monkeypatch.chdir(folder.parent)
    monkeypatch.delenv("HALFLIFE_RESULTS", raising=False)
    found: dict = {}
    exec(example, found)
    assert found["times"].height == len(SMALL.sizes) * SMALL.seeds
    assert isinstance(found["fit"], Fit)
    assert found["fit"].observations.n == found["largest"].height
    assert Path("half_life.pdf").read_bytes().startswith(b"%PDF")
    shown = capsys.readouterr().out
    assert "the slope of ln_T over ln parameters is " in shown
    assert "exponential_floor: y = f + (a - f) exp(-x/T)" in shown


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import sys; from halflife import results; print({'polars', 'numpy', 'analysis', 'tyro'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_every_public_name_is_there_and_no_other() -> None:
    assert dir(results) == sorted(results.__all__)
    assert all(getattr(results, name) is not None for name in results.__all__)
    with pytest.raises(AttributeError, match="no attribute 'ask'"):
        results.ask  # noqa: B018


def test_half_lives_are_those_planted(data: StudyData) -> None:
    times = results.half_lives(data).filter(
        criterion="logprob", clock="tokens", is_reference=True, kind="observed", size="100k"
    )
    settings = {"parameters": 100_000, "learning_rate": 1.0, "trunk_regularizer": "none", "branch_regularizer": "none",
                "arm": "equal-exposure", "payload": "fixed"}  # fmt: skip
    planted_tokens = planted.half_life_steps(SMALL, settings) * planted.STEP
    assert times.height == SMALL.seeds
    assert times["estimate"].to_numpy() == pytest.approx(planted_tokens, rel=0.25)


def test_a_study_prints_as_a_few_lines(data: StudyData) -> None:
    lines = repr(data).splitlines()
    assert len(lines) < 15
    assert max(map(len, lines)) < 250
    assert lines[0].startswith(f"{data.sweep.name}, finished: {data.trials.height} trials (")
    assert f"  seed: {', '.join(map(str, range(SMALL.seeds)))}" in lines
    assert any(line.startswith("  size: ") for line in lines)
    assert lines[-1] == f".points: {data.points.height:,} rows of trial, phase, step, name, value"


def test_half_lives_that_were_not_reached_count_in_a_trend_as_bounds(
    data: StudyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = results.curves(data)
    middle = results.half_lives(data).filter(clock="tokens")["half_life"].median()
    monkeypatch.setattr(results, "curves", lambda data: whole.filter(pl.col("tokens") < middle))
    halves = results.half_lives(data)
    late = halves.filter(pl.col("kind") == "censored")
    assert late.height
    assert late["censored"].all()
    assert late["half_life"].equals(late["low"])
    assert halves.filter(kind="observed")["half_life"].equals(halves.filter(kind="observed")["estimate"])
    rows = [{"seed": seed, "N": size, "half_life": 2.0 * size + 0.1 * seed, "censored": seed == 0 and size == 3}
            for seed in range(5) for size in (1, 2, 3)]  # fmt: skip
    found = results.trend(pl.DataFrame(rows), "half_life", "N", censored="censored")
    assert found.estimates is not None
    assert found.estimates.censored is not None


@pytest.mark.parametrize("made", [False, True], ids=["missing", "empty"])
def test_a_store_that_is_not_there_or_empty_is_one_line(tmp_path: Path, made: bool) -> None:
    folder = tmp_path / "none"
    if made:
        folder.mkdir()
        sqlite3.connect(folder / "mlflow.db").close()
        (folder / "mlflow.db").touch()
    with pytest.raises(results.UserError, match=r"^no tracking store at .*mlflow.db: expected .*$"):
        results.load("backdoor_persistence", results=folder)


def test_your_own_law_is_fitted_to_a_frame_or_a_file(tmp_path: Path) -> None:
    @results.law(
        register=False, name="gompertz", formula="y = a exp(-(exp(x/T) - 1))", source="none", decays=True,
        parameters=(results.Parameter(name="a", low=0, high=10, unit="y"),
                    results.Parameter(name="T", low=1e-6, high=1e6, log=True, unit="x")),
    )  # fmt: skip
    def gompertz(x, a, T):
        return a * np.exp(1 - np.exp(x / T))

    frame = pl.DataFrame({"x": np.linspace(0, 5, 21)}).with_columns(y=2 * (1 - (pl.col("x") / 3).exp()).exp())
    frame.write_csv(tmp_path / "table.csv")
    for table in (frame, tmp_path / "table.csv", str(tmp_path / "table.csv")):
        fit = results.fit(table, gompertz, x="x", y="y")
        assert fit.parameters == pytest.approx({"a": 2.0, "T": 3.0}, rel=1e-6)


def test_the_inputs_of_a_law_are_a_sequence_of_columns() -> None:
    n, d = np.meshgrid([1e6, 1e7, 1e8, 1e9], [1e8, 1e9, 1e10, 1e11])
    frame = pl.DataFrame({"N": n.ravel(), "D": d.ravel()})
    frame = frame.with_columns(loss=1.8 + 400 / pl.col("N") ** 0.34 + 410 / pl.col("D") ** 0.28)
    fit = results.fit(frame, "chinchilla", x=["N", "D"], y="loss", error="huber")
    assert fit.predict(np.array([[1e7, 1e10]])) == pytest.approx(
        frame.filter(N=1e7, D=1e10)["loss"].to_numpy(), rel=1e-3
    )


@pytest.mark.parametrize("name", ["retention", "half_life", "relearning", "effects", "clean_loss"])
def test_a_figure_is_drawn_in_place_of_the_callers_axes(data: StudyData, name: str) -> None:
    own = Figure(figsize=(12, 5), layout="constrained")
    left, right = own.subplots(1, 2)
    left.plot([0, 1], [0, 1])
    assert results.figure(name, data, axes=right) is own
    own.draw_without_rendering()
    alone = results.figure(name, data)
    (part,) = own.subfigs
    assert own.axes[0] is left
    assert [len(axes.lines) for axes in part.axes] == [len(axes.lines) for axes in alone.axes]
    assert sum(len(axes.lines) for axes in part.axes) > 0
    assert all(axes.get_window_extent().x0 > left.get_window_extent().x1 for axes in part.axes)
    assert results.figure(name, data) is not own  # and only there


def test_a_study_in_which_nothing_is_lost_has_no_curves_and_figures_that_say_so(data: StudyData) -> None:
    bare = replace(data, declaration=replace(data.declaration, outcomes=()))
    for read in (results.curves, results.half_lives):
        with pytest.raises(results.UserError, match="declares no outcome that decays"):
            read(bare)
    for name in results.FIGURES:
        with contextlib.suppress(results.UserError):
            results.figure(name, bare)


def test_columns_may_mix_whole_numbers_and_others_and_one_input_may_be_a_list() -> None:
    fit = results.fit({"x": [0, 1, 2, 3.5], "y": [1, 0.5, 0.25, 2**-3.5]}, "exponential", x="x", y="y", starts=8)
    assert fit.half_life == pytest.approx(1.0, rel=1e-6)
    assert fit.predict(np.array([0.0, 1.0])) == pytest.approx([1, 0.5], rel=1e-6)
    with pytest.raises(results.UserError, match=r"x has shape \(1, 2\); expected one row a point with a column for"):
        fit.predict(np.array([[0.0, 1.0]]))


def test_bad_input_is_one_line(folder: Path, data: StudyData) -> None:
    with pytest.raises(results.UserError, match=r"no study .none.*it has backdoor_persistence"):
        results.load("none", results=folder)
    with pytest.raises(results.UserError, match="there is no figure 'nothing'; figures: retention, "):
        results.figure("nothing", data)
    with pytest.raises(results.UserError, match="backdoor_persistence has nothing to draw as pareto: no search was"):
        results.figure("pareto", data)
    with pytest.raises(results.UserError, match="these axes lie in no grid"):
        results.figure("half_life", data, axes=Figure().add_axes((0, 0, 1, 1)))
    with pytest.raises(results.UserError, match="there is no column 'tau'"):
        results.fit(data.trials, "exponential", x="tau", y="seed")
    with pytest.raises(results.UserError, match="there is no law 'none'; `python -m analysis laws` lists all"):
        results.fit(data.trials, "none", x="seed", y="seed")


def test_figures_give_their_tables(data: StudyData) -> None:
    assert results.FIGURES is FIGURES
    assert results.FIGURES["half_life"].table(data)["size"].unique().sort().to_list() == sorted(SMALL.sizes)


def test_a_fit_is_printed_in_ten_readable_lines() -> None:
    x = np.concatenate([[0.0], np.geomspace(1, 3000, 30)])
    y = results.LAWS["exponential_floor"].value(np.array([0.9, 60.0, 0.2]), x[:, None])
    frame = pl.DataFrame({"x": x, "y": y + 0.01 * np.random.default_rng(0).normal(size=x.size)})
    lines = str(results.fit(frame, "exponential_floor", x="x", y="y", starts=16)).splitlines()
    assert len(lines) <= 10
    assert lines[:2] == ["exponential_floor: y = f + (a - f) exp(-x/T)", "31 points, gaussian errors"]
    assert lines[2].split() == ["estimate", "95", "%", "interval", "by"]
    assert [line.split()[0] for line in lines[3:7]] == ["a", "T", "f", "half-life"]


def test_a_table_is_asked_and_answers_with_verdict_interval_and_sentence() -> None:
    rng = np.random.default_rng(0)
    rows = [(s, n, 0.4 * np.log(n) + 0.1 * s + 0.05 * rng.normal()) for s in range(6) for n in (1e5, 1e6, 1e7)]
    frame = pl.DataFrame(rows, schema=["seed", "N", "y"], orient="row")
    found = results.trend(frame, "y", "N", log=True, margin=0.1)
    assert isinstance(found, results.Asked)
    assert found.verdict == "effect"
    assert found.interval is not None
    assert found.interval.low is not None
    assert found.interval.low < 0.4 < (found.interval.high or 0)
    assert str(found).startswith("Effect: the slope of y over ln N is 0.4")
    other = results.contrast(frame, "y", "N", high=1e7, low=1e5)
    assert other.interval is not None
    assert other.interval.estimate == pytest.approx(0.4 * np.log(100), rel=0.05)
    with pytest.raises(results.UserError, match="there is no column 'z'"):
        results.associate(frame, "y", "z", item="N")


def test_inputs_bounds_and_held_parameters_are_given_by_name() -> None:
    rng, size = np.random.default_rng(0), np.tile(np.geomspace(1e5, 1e7, 5), 5)
    time = 1e4 * (size / 1e6) ** 0.25 * np.exp(0.2 * rng.normal(size=25))
    late = time > np.quantile(time, 0.7)
    frame = pl.DataFrame({"size": size, "time": np.minimum(time, np.quantile(time, 0.7)), "late": late})
    fit = results.fit(frame, "half_life_size", x={"N": "size"}, y="time", censored="late", starts=16)
    assert fit.parameters["gamma"] == pytest.approx(0.25, abs=0.06)
    held = results.fit(frame, "half_life_size", x=["size"], y="time", censored="late", fix={"gamma": 0.25}, starts=16)
    assert held.parameters["gamma"] == 0.25
    assert held.parameters["T0"] == pytest.approx(1e4, rel=0.2)


def test_a_fit_to_a_table_is_drawn_into_the_callers_axes() -> None:
    steps = np.tile(np.concatenate([[0.0], np.geomspace(1, 500, 12)]), 3)
    hits = np.random.default_rng(0).binomial(200, 0.25 + 0.75 * 0.9 * np.exp(-steps / 60))
    frame = pl.DataFrame({"step": steps, "hits": hits, "trials": 200})
    fit = results.fit(frame, "exponential", x="step", hits="hits", trials="trials", chance=0.25, starts=16)
    own = Figure()
    axes = own.subplots(1, 2)[1]
    assert results.draw(fit, axes, x="steps", y="success") is own
    curve = axes.lines[-2]
    assert axes.get_xlabel() == "steps (logarithmic; 0 is set apart at the left)"
    assert np.asarray(curve.get_ydata(), dtype=float)[0] == pytest.approx(0.25 + 0.75 * 0.9, abs=0.03)  # with chance
    assert results.draw(fit).axes[0].get_title(loc="left") == "exponential: y = a exp(-x/T)"


@pytest.mark.parametrize("top", [8e17, 3e21])
def test_ticks_of_large_numbers_are_short_and_whole(top: float) -> None:
    x = np.geomspace(1e17, top, 6)
    fit = results.fit(pl.DataFrame({"C": x, "N": 0.1 * x**0.5}), "power", x="C", y="N", error="lognormal", starts=8)
    figure = results.draw(fit)
    figure.canvas.draw()
    for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis):
        labels = [tick.get_text() for tick in axis.get_ticklabels()]
        assert all(len(label) <= 6 for label in labels)
        assert axis.get_offset_text().get_text() == ""
    assert "1e17" in [tick.get_text() for tick in figure.axes[0].xaxis.get_ticklabels()]


CURVE = pl.DataFrame({"step": [0.0, 1, 2, 4, 8, 16, 32], "rate": [1.0, 0.95, 0.91, 0.81, 0.68, 0.44, 0.21]},
                     ).with_columns(size=1, arm=pl.lit("a"))  # fmt: skip


@pytest.mark.parametrize("kind", ["pandas", "arrow", "dict"])
def test_a_table_of_another_library_is_fitted_like_polars_own(kind: str) -> None:
    class Exported:  # by a library that has the interface and nothing else
        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            return CURVE.__arrow_c_stream__(requested_schema)

    table = {
        "pandas": lambda: pytest.importorskip("pandas").DataFrame(CURVE.to_dict(as_series=False)),
        "arrow": Exported,
        "dict": lambda: CURVE.to_dict(as_series=False),
    }[kind]()
    found = results.fit(table, "exponential", x="step", y="rate", starts=8)
    assert found.parameters == results.fit(CURVE, "exponential", x="step", y="rate", starts=8).parameters
    asked = results.contrast(table, "rate", "step", high=8, low=4, seed="size", pair="arm")
    assert asked.interval is not None
    assert asked.interval.estimate == pytest.approx(-0.13)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"x": "step"}, "pass either y=, or both hits= and trials="),
        ({"x": "step", "y": "rate", "censored": "rate", "low": "step", "high": "rate"}, "censored= says where y= is"),
        ({"x": "Step", "y": "rate"}, "no column 'Step', did you mean step"),
        ({"x": {"t": "step"}, "y": "rate"}, 'as x={"x": COLUMN}'),
        ({"x": "step", "y": "rate", "error": "hubber"}, "error= is 'hubber', did you mean huber"),
        ({"x": "step", "y": "rate", "fix": {"T": -1}}, 'fix={"T": -1}: T lies'),
        ({"x": "step", "y": "rate", "chance": 0.2}, "chance=0.2 is for counts (hits= and trials=)"),
    ],
)
def test_errors_speak_of_arguments_to_a_caller_from_python(given: dict, complaint: str) -> None:
    with pytest.raises(results.UserError, match=re.escape(complaint)) as error:
        results.fit(CURVE, "exponential", **given)
    assert "--" not in str(error.value)


def test_a_question_speaks_of_arguments_too() -> None:
    with pytest.raises(results.UserError, match="why= gives a reason for a margin, but there is no margin="):
        results.trend(CURVE.with_columns(seed=1), "rate", "step", why="a guess")
    with pytest.raises(results.UserError, match="expected a data frame"):
        results.fit(7, "exponential", x="step", y="rate")  # pyright: ignore[reportArgumentType]
    with pytest.raises(results.UserError, match=r"@results.law\(...\) above a function makes one"):
        results.fit(CURVE, lambda x, a: a * x, x="step", y="rate")  # pyright: ignore[reportArgumentType]


def test_answers_say_which_are_exploratory_and_the_level_of_their_intervals(data: StudyData) -> None:
    where = {"arm": "equal-exposure", "learning_rate": 1.0, "branch_regularizer": "none"}
    first = Trend(name="first", label="Slower?", quantity="t", axis="parameters", where=where, primary=True)
    first = replace(first, margin=0.1, reason="a guess")
    crossing = Quantity(name="t", label="t", measure="branch/backdoor/logprob", moment=Crossing(threshold=0.5),
                        transform="log", against=Against(role="absent", how="retention"))  # fmt: skip
    questions = (first, replace(first, name="second"), replace(first, name="other", primary=False))
    asked = replace(data.declaration, quantities=(crossing,), questions=questions)
    found = results.answers(replace(data, declaration=asked))
    assert [each.primary for each in found] == [True, True, False]
    assert [str(each).endswith(" (exploratory)") for each in found] == [False, False, True]
    assert [each.method for each in found] == ["97.5 % interval", "97.5 % interval", "95 % interval"]


def test_a_folder_with_a_store_is_a_tracking_uri_and_another_says_what_was_expected(folder: Path) -> None:
    assert results.load(SMALL.study, tracking_uri=str(folder)).sweep.id
    assert results.load(SMALL.study, tracking_uri=str(folder / "mlflow.db")).sweep.id
    for place, what in ((folder / "nowhere", "does not exist"), (folder / "empty", "holds no runs")):
        (folder / "empty").mkdir(exist_ok=True)
        with pytest.raises(results.UserError, match=f"{what}: expected a folder with mlflow.db"):
            results.load(SMALL.study, tracking_uri=str(place))


def test_a_misspelt_study_or_figure_is_answered_with_the_nearest(data: StudyData, folder: Path) -> None:
    with pytest.raises(results.UserError, match=f"did you mean {SMALL.study}"):
        results.load(SMALL.study.upper()[:-1], results=folder)
    with pytest.raises(results.UserError, match="did you mean half_life"):
        results.figure("halflife", data)
