"""Runs, fits and figures from Python: load what a study measured, fit laws to it or to any table, draw its figures.

    from halflife import results

    data = results.load("backdoor_persistence")
    curves, halves = results.curves(data), results.half_lives(data)
    times = halves.filter(criterion="logprob", clock="tokens", is_reference=True)
    times = times.with_columns(ln_T=times["half_life"].log())
    print(data, times.select("size", "seed", "half_life", "censored"), *results.answers(data), sep="\\n")
    if times["size"].n_unique() > 1:  # a study of one size has no trend
        print(results.trend(times, "ln_T", "parameters", log=True, censored="censored"))  # the exponent of half-life
    largest = curves.filter(role="treatment", is_reference=True, parameters=curves["parameters"].max())
    fit = results.fit(largest, "exponential_floor", x="tokens", hits="hits", trials="trials", group="seed")
    print(fit)
    results.figure("half_life", data).savefig("half_life.pdf")

`results.report(study)` draws the whole page. `contrast`, `trend` and `associate` ask any table, `answers` what the
study declared: each an `Asked` with its verdict, interval and sentence. `results.LAWS` holds the laws by name; pass one
to `fit`, or your own: a function below `@results.law(name="mine", formula="y = a exp(-x/T)", source="me", decays=True,
parameters=(results.Parameter(name="a", low=0, high=1, unit="y"), ...))`. `results.FIGURES` holds the figures by name,
each with `table(data)` and `draw(table)`; `draw(fit, axes)` draws a fit to any table. Bad input raises
`results.UserError`: what was given, what was expected, how to mend it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import halflife.errors

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from analysis.answers.ask import Asked, associate, contrast, trend
    from analysis.figures import FIGURES
    from analysis.fitting.describe import Told
    from analysis.fitting.frames import Frame
    from analysis.fitting.intervals import intervals
    from analysis.fitting.result import Fit
    from analysis.laws.base import LAWS, Law, Parameter, UserError, law
    from analysis.runs.study import StudyData
    from halflife.sweep.reporting import Answered, Written
    from halflife.sweep.site import ExecutionSite

Folder = str | os.PathLike[str]
Error = Literal["huber", "gaussian", "lognormal", "log1p", "binomial", "beta-binomial"]

__all__ = [
    "FIGURES", "LAWS", "Asked", "Law", "Parameter", "UserError", "answers", "associate", "contrast", "curves", "draw",
    "figure", "fit", "half_lives", "intervals", "law", "load", "report", "study_report", "trend",
]  # fmt: skip


def __getattr__(name: str) -> object:
    """What stands in analysis as it is, and `main`, which the console script halflife-analysis calls."""
    if name in ("LAWS", "Law", "Parameter", "UserError", "law"):
        from analysis.laws import base as home
    elif name in ("associate", "contrast", "trend"):
        from analysis.answers import ask
        from analysis.errors import for_python

        function = getattr(ask, name)
        return for_python(function)(function)
    elif name == "Asked":
        from analysis.answers import ask as home
    elif name == "intervals":
        from analysis.fitting import intervals as home
    elif name == "FIGURES":
        from analysis import figures as home
    elif name == "main":
        from analysis import __main__ as home
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(home, name)


def __dir__() -> list[str]:
    return sorted(__all__)


def load(
    study: str, *, results: Folder | None = None, tracking_uri: str | None = None, sweep: str | None = None
) -> StudyData:
    """The newest sweep of a study, or the one whose digest begins with `sweep`.

    Printed as a few lines. `trials` has one row per trial (its parameters, role and outcomes), `points` one row per
    measured value (trial, phase, step in tokens, name, value). Read from `mlflow.db` in `results` (default:
    HALFLIFE_RESULTS, or results) or from `tracking_uri`, an MLflow store or exported folder. Raises UserError without
    such a store, study or sweep.
    """
    from analysis.errors import for_python
    from analysis.runs.load import load_study
    from analysis.runs.places import store_of

    with for_python(load):
        uri, cache = store_of(results, tracking_uri)
        return load_study(uri, study, sweep, cache)


def curves(data: StudyData) -> pl.DataFrame:
    """Retention over time, one row per outcome, trial (controls too) and evaluation: the four clocks, counts, success
    and log-probability with their controls, retention_success and retention_logprob (1 at the drop, 0 at the control).
    What was not measured is null. Raises UserError for a study in which nothing is to be lost."""
    from analysis.decay.retention import outcomes_curves
    from analysis.errors import UserError

    if not data.declaration.outcomes:
        raise UserError(
            f"{data.declaration.study} declares no outcome that decays, so it has no curves or half-lives: what it "
            "measured is in `points`, what it asks in `answers`"
        )
    return outcomes_curves(data)


def half_lives(data: StudyData) -> pl.DataFrame:
    """Time until half of the retention is lost, one row per outcome, treatment, criterion and clock.

    `kind` is observed (between `low` and `high`, interpolated to `estimate`), censored (not reached by `low`) or
    at-start (lost by `high`, the first evaluation). `half_life` is the estimate, or `low` where `censored` is true, a
    lower bound: the columns for `trend` and `fit`. Treatments without the skill at the drop have no rows.
    """
    import polars as pl

    from analysis.decay.retention import half_lives

    late = pl.col("kind") == "censored"
    return half_lives(curves(data)).with_columns(
        half_life=pl.when(late).then("low").otherwise("estimate"), censored=late
    )


def answers(data: StudyData) -> list[Asked]:
    """What the study asked, in its order: each with verdict, interval and sentence. Empty if it declared nothing."""
    from analysis.answers.ask import of_study

    return of_study(data)


def fit(
    table: Frame | Mapping[str, Any] | Folder, law: str | Law, *, x: str | Sequence[str] | Mapping[str, str],
    y: str | None = None, hits: str | None = None, trials: str | None = None, censored: str | None = None,
    low: str | None = None, high: str | None = None, group: str | None = None, weights: str | None = None,
    errors: str | None = None,
    error: Error | None = None, delta: float = 1e-3, chance: float = 0.0, fix: Mapping[str, float] | None = None,
    origin: float | None = None, starts: int = 128,
) -> Told:  # fmt: skip
    """A law (a name in LAWS, FILE.py:NAME, or a Law) fitted to columns of a data frame (polars, pandas, or another with
    Arrow's interface), of a dict of columns or of a file; printed as ten lines.
    A fit that takes more than a few seconds says on stderr how far it is.

    `x` names a column for each of the law's inputs, as {"N": "params", "D": "tokens"} or in the law's order. The
    response is `y` (a lower bound where `censored` is true; between `low` and `high` where it is blank), or counts:
    `hits` of `trials`. Rows without a response are left out, but a missing time is refused. `group` names the column of
    seeds: rows of one seed are not independent. `weights` or standard `errors` of y weigh the rows. `error` is binomial
    for counts, lognormal for times of which some are bounds, gaussian for other `y`; `delta` is Huber's, `chance` the
    success rate of guessing; `fix` holds parameters; `origin`, such as the raw step of the drop, is subtracted from the
    law's clock. `parameters` and `half_life` of the fit are those printed, means over groups where each has a fit of
    its own; its `pooled` is the one fit to all points.
    Raises UserError on a missing column, on missing or impossible values, and when no start has a finite objective.
    """
    from analysis.errors import for_python
    from analysis.fitting.command import Columns, fitted
    from analysis.fitting.progress import shown

    named = [f"{name}={column}" for name, column in x.items()] if isinstance(x, Mapping) else x
    columns = Columns(
        x=named if isinstance(named, str) else ",".join(named), y=y, hits=hits, trials=trials, censored=censored,
        low=low, high=high, group=group, weights=weights, errors=errors, error=error, delta=delta, chance=chance,
        origin=origin, starts=starts,
        fix=",".join(f"{name}={value!r}" for name, value in (fix or {}).items()),
    )  # fmt: skip
    with for_python(fit), shown():
        return fitted(table, law, columns)[0]


def figure(name: str, data: StudyData, axes: Axes | None = None) -> Figure:
    """A figure of FIGURES, or that of a declared question, by its name: as a figure of its own or in place of `axes`, a
    cell of the caller's `subplots`.

    Most have several panels: a subfigure that holds them replaces `axes`. Use layout="constrained" in the caller's
    figure, which is returned. Raises UserError on an unknown name, when there is nothing to draw, and for axes that lie
    in no grid.
    """
    from analysis.figures import drawn

    return drawn(name, data, axes)


def draw(fit: Fit, axes: Axes | None = None, *, x: str = "", y: str = "") -> Figure:
    """The data of a fit with the law's curve, into the caller's `axes` or a figure of their own. The labels `x` and `y`
    are by default the columns of its table. Where the fit's table is a mean over groups, its curve is drawn before
    those of the groups. Arrows are values known only as bounds; further inputs of the law give a curve each. The x axis
    is logarithmic over a decade or more, and where `axes` had it so: x = 0 is then set apart, which the label says."""
    from analysis.figures.fitted import draw_fitted, fitted_figure, fitted_table, names

    if axes is None:
        return fitted_figure(fit)
    own_x, own_y = names(fit)
    draw_fitted(fitted_table(fit), axes, x_label=x or own_x, y_label=y or own_y, log_y=fit.error.relative)
    return cast("Figure", axes.get_figure(root=True))


def report(
    study: str, *, results: Folder | None = None, tracking_uri: str | None = None, sweep: str | None = None,
    out: Folder | None = None,
) -> Path:  # fmt: skip
    """Draws a study's report into `out` and returns the HTML file. By default that is a folder of the sweep's own below
    reports/STUDY in the results folder, where `latest` leads to the newest.

    The other arguments and errors are those of `load`; also raises UserError when nothing was measured yet.
    """
    from analysis.report.kept import default_folder
    from analysis.report.write import write_report
    from analysis.runs.places import results_folder, store_of

    uri, cache = store_of(results, tracking_uri)
    place = default_folder(results_folder(results), study) if out is None else Path(out)
    return write_report(study, tracking_uri=uri, out=place, sweep=sweep, cache=cache, kept=out is None)


class _StudyReport:
    """What a study's sweep asks of the analysis (halflife.sweep.reporting). Raises the platform's UserError."""

    def write(self, study: str, site: ExecutionSite, sweep: str) -> Written:
        from analysis.answers.write import FILES
        from analysis.report.write import NUMBERS
        from halflife.sweep.reporting import Written

        path = self._drawn(study, site, sweep, live=False)
        answers = path.with_name(FILES[0])  # written with the report, if the study asks anything
        document: dict[str, Any] = json.loads(answers.read_text()) if answers.exists() else {"questions": ()}
        return Written(
            path=path,
            answers=_answered(document),
            not_valid=document.get("not_valid", ""),
            trials=json.loads(path.with_name(NUMBERS).read_text()),
        )

    def begin(self, study: str, preset: str, site: ExecutionSite, sweep: str) -> Path:
        from analysis.report import kept

        return kept.begun(kept.folder_of(kept.default_folder(site.results, study), preset, sweep))

    def redraw(self, study: str, site: ExecutionSite, sweep: str) -> Path:
        return self._drawn(study, site, sweep, live=True)

    def answers(self, study: str, site: ExecutionSite, sweep: str) -> tuple[Answered, ...]:
        from analysis.answers.write import document

        with _one_error():
            return _answered(document(load(study, tracking_uri=site.actual_tracking_uri, sweep=sweep)))

    def _drawn(self, study: str, site: ExecutionSite, sweep: str, *, live: bool) -> Path:
        from analysis.report.kept import default_folder
        from analysis.report.write import write_report

        folder, uri = default_folder(site.results, study), site.actual_tracking_uri
        with _one_error():
            return write_report(study, tracking_uri=uri, out=folder, sweep=sweep, live=live, kept=True)


def _answered(document: dict[str, Any]) -> tuple[Answered, ...]:
    """Of the content of answers.json."""
    from halflife.sweep.reporting import Answered

    names = ("name", "primary", "verdict", "sentence", "valid")
    found = [Answered(**{name: row[name] for name in names}) for row in document["questions"]]
    return tuple(sorted(found, key=lambda answer: not answer.primary))


@contextlib.contextmanager
def _one_error() -> Iterator[None]:
    from analysis import errors

    try:
        yield
    except errors.UserError as error:
        raise halflife.errors.UserError(str(error)) from error


study_report = _StudyReport()
"""For a study's `main`: the report and the answers of its sweep."""
