"""`python -m analysis fit` and `compare`: fit laws to any table."""

from __future__ import annotations

import json as encoder
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from analysis.errors import UserError

if TYPE_CHECKING:
    import polars as pl

    from analysis.fitting.extrapolation import HeldOut
    from analysis.fitting.intervals import HalfLife, Intervals
    from analysis.fitting.objectives import Objective
    from analysis.fitting.result import Fit
    from analysis.fitting.selection import Comparison
    from analysis.laws.base import Law
    from analysis.stats.intervals import Interval


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What to fit."""

    x: str
    """Input column of the law; several separated by commas, as N,D."""
    y: str | None = None
    """Response column."""
    hits: str | None = None
    """Column of successes, whole numbers."""
    trials: str | None = None
    """Column of trials."""
    group: str | None = None
    """Column with the seed or run of each row; rows of one group are not independent."""
    error: Literal["huber", "gaussian", "lognormal", "binomial", "beta-binomial"] | None = None
    """Error model. Default: binomial for counts, gaussian for y."""
    delta: float = 1e-3
    """Threshold of the Huber loss on log residuals."""
    chance: float = 0.0
    """Success rate of guessing, held fixed: the law describes the skill above it."""
    starts: int = 128
    """Number of starting points."""


def fit(
    data: Annotated[Path, tyro.conf.Positional],
    /,
    *,
    law: str = "exponential_floor",
    columns: Annotated[Columns, tyro.conf.arg(name="")],
    bootstrap: int = 0,
    json: Path | None = None,
) -> None:
    """Fit a law to a table and print its parameters with 95 % intervals, its half-life, and warnings.

    Args:
        data: A .csv, .tsv, .parquet or .jsonl file.
        law: Name of the law, such as chinchilla, or your own as mylaw.py:its_name; by default decay to a floor.
        bootstrap: Also show bootstrap intervals from this many resamples of the groups, or of the rows if there is no
            --group. 0: none.
        json: File to write the result to.
    """
    from analysis.fitting.extrapolation import held_out
    from analysis.fitting.intervals import cluster_bootstrap, intervals

    made, left_out = fitted(data, law, columns)
    found, predicted = intervals(made), held_out(made)
    resampled = cluster_bootstrap(made, bootstrap) if bootstrap else None
    if json is not None:
        result = as_json(made, found) | _source(data, columns, left_out)
        result |= {"held_out_error": {part: _finite(each.error) for part, each in predicted.items()}}
        write_json(json, result | ({"bootstrap": _ends(resampled)} if resampled else {}))
    _print_fit(made, found, resampled, predicted, left_out)


def compare(
    data: Annotated[Path, tyro.conf.Positional],
    /,
    *,
    laws: str,
    columns: Annotated[Columns, tyro.conf.arg(name="")],
    json: Path | None = None,
) -> None:
    """Fit several laws to one table; rank them by AICc and show the half-life under each.

    Args:
        data: A .csv, .tsv, .parquet or .jsonl file.
        laws: Names separated by commas, such as exponential,exponential_floor,mylaw.py:its_name.
        json: File to write the table to.
    """
    from analysis.fitting import selection

    names = [name.strip() for name in laws.split(",") if name.strip()]
    if len(set(names)) < 2:
        raise UserError(f"--laws is {laws!r}; expected two or more different names separated by commas")
    made = [fitted(data, name, columns) for name in names]
    left_out = made[0][1]  # the same rows for all laws
    found = selection.compare([each for each, _ in made])
    if found.ranked[0].aicc == math.inf:
        points = found.ranked[0].fit.observations.n
        raise UserError(f"{points} points are too few for the AICc of any of these laws")
    if json is not None:
        table = [
            as_json(each.fit, each.intervals)
            | _source(data, columns, left_out)
            | {"aicc": _finite(each.aicc), "delta_aicc": _finite(each.delta), "held_out_error": _finite(each.held_out),
               "held_out_log_likelihood": _finite(each.held_out_log_likelihood)}
            for each in found.ranked
        ]  # fmt: skip
        write_json(json, table)
    _print_comparison(found, left_out)


def _source(data: Path, columns: Columns, left_out: int) -> dict[str, Any]:
    """What was fitted, as JSON data: the file, its columns by role, and the number of rows without a response."""
    roles = {name: getattr(columns, name) for name in ("y", "hits", "trials", "group")}
    x = [name.strip() for name in columns.x.split(",")]
    return {
        "data": str(data),
        "columns": {"x": x} | {name: value for name, value in roles.items() if value is not None},
        "left_out": left_out,
    }


def write_json(path: Path, result: object) -> None:
    """Raises UserError if the file cannot be written."""
    try:
        path.write_text(encoder.dumps(result, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def fitted(data: Path | pl.DataFrame, law: str | Law, columns: Columns) -> tuple[Fit, int]:
    """The fit, and the number of rows left out because they have no response.

    Raises UserError on bad input, before any fitting.
    """
    from analysis.fitting.fit import fit
    from analysis.fitting.table import observations, read_table
    from analysis.laws import find_law

    found = find_law(law) if isinstance(law, str) else law
    if columns.starts < 1:
        raise UserError(f"--starts is {columns.starts}; expected 1 or more")
    table = read_table(data) if isinstance(data, Path) else data
    names = [name.strip() for name in columns.x.split(",")]
    points, left_out = observations(
        table, found, names, y=columns.y, hits=columns.hits, trials=columns.trials, group=columns.group
    )
    return fit(found, points, objective=_objective(columns), starts=columns.starts), left_out


def _objective(columns: Columns) -> Objective:
    from analysis.fitting.objectives import BetaBinomial, Binomial, Gaussian, Huber

    error = columns.error or ("gaussian" if columns.y is not None else "binomial")
    if error == "huber":
        return Huber(delta=columns.delta)
    if error in ("gaussian", "lognormal"):
        return Gaussian(log=error == "lognormal")
    return (Binomial if error == "binomial" else BetaBinomial)(chance=columns.chance)


def as_json(fit: Fit, found: Intervals) -> dict[str, Any]:
    """The result as JSON data; unknown values are null."""
    value = fit.objective if fit.log_likelihood is None else fit.log_likelihood
    return {
        "law": fit.law.name,
        "formula": fit.law.formula,
        "points": fit.observations.n,
        "groups": None if fit.observations.group is None else len(set(fit.observations.group.tolist())),
        "error": fit.error.name,
        **_ends(found),
        "objective": _finite(value),
        "starts_at_optimum": fit.starts_at_optimum,
        "warnings": list(fit.warnings),
    }


def _ends(found: Intervals) -> dict[str, Any]:
    """Intervals as JSON data."""
    half = found.half_life
    return {
        "intervals": found.method,
        "parameters": {
            name: {"estimate": _finite(each.estimate), "low": _finite(each.low), "high": _finite(each.high)}
            for name, each in found.parameters.items()
        },
        "half_life": None
        if half is None
        else {
            "estimate": _finite(half.estimate),
            "low": _finite(half.low),
            "high": _finite(half.high),
            "censored": bool(half.censored),
        },
    }


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _print_fit(
    fit: Fit, found: Intervals, resampled: Intervals | None, predicted: dict[str, HeldOut], left_out: int
) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True, highlight=False)
    console.print(f"[bold]{fit.law.name}[/bold]: {fit.law.formula}", f"({_data(fit, left_out)})")
    table = Table("", "estimate", "low", "high", *(["bootstrap"] if resampled else []), "", box=None, pad_edge=False)
    for parameter in fit.law.parameters:
        each = found.parameters[parameter.name]
        other = [_bracket(resampled.parameters[parameter.name])] if resampled else []
        ends = map(_number, (each.estimate, each.low, each.high))
        table.add_row(parameter.name, *ends, *other, parameter.meaning)
    if found.half_life is not None:
        half, other = found.half_life, [_bracket(resampled.half_life)] if resampled and resampled.half_life else []
        note = "beyond the data" if half.censored else f"in units of {fit.law.inputs[0]}"
        table.add_row("half-life", *map(_number, (half.estimate, half.low, half.high)), *other, note)
    console.print(table)
    value = ("summed huber", fit.objective) if fit.log_likelihood is None else ("log-likelihood", fit.log_likelihood)
    console.print(f"{value[0]} {value[1]:.8g}; {fit.starts_at_optimum:.0%} of {fit.starts} starts reached it")
    console.print(f"95 % intervals: {found.method}{f'; {resampled.method}' if resampled else ''}")
    if fit.error.own is not None and fit.own is not None:
        console.print(f"{fit.error.own.name} {fit.own:.4g}: {fit.error.own.meaning}")
    for part, each in predicted.items():
        console.print(f"held out: {part} ({each.points} points), predicted with error {_number(each.error)}")
    if (fit.warnings or resampled) and not _of_all_points(fit, found):
        shown = ", ".join(f"{name} = {_number(value)}" for name, value in fit.parameters.items())
        about = " and ".join([*(["the bootstrap"] if resampled else []), *(["the warnings"] if fit.warnings else [])])
        console.print(f"{about}: about the fit to all points at once ({shown}), not the mean over groups")
    for warning in fit.warnings:
        console.print(f"[yellow]warning:[/yellow] {warning}")


def _of_all_points(fit: Fit, found: Intervals) -> bool:
    """Whether the estimates shown are those of the fit to all points."""
    return all(found.parameters[name].estimate == value for name, value in fit.parameters.items())


def _print_comparison(found: Comparison, left_out: int) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True, highlight=False, width=max(110, Console().width))
    table = Table("law", "parameters", "log-likelihood", "ΔAICc", "held-out error", "half-life", "warnings", box=None,
                  pad_edge=False)  # fmt: skip
    for each in found.ranked:
        made = each.fit
        table.add_row(
            made.law.name, str(len(made.law.parameters) + made.extra), f"{made.log_likelihood:.2f}",
            f"{each.delta:.2f}", "" if each.held_out is None else _number(each.held_out), _half_life(each.half_life),
            str(len(made.warnings)) if made.warnings else "",
        )  # fmt: skip
    console.print(_data(found.ranked[0].fit, left_out))
    console.print(table)
    console.print(f"{found.text}.")
    for each in found.ranked:
        for warning in each.fit.warnings:
            console.print(f"[yellow]warning:[/yellow] {each.fit.law.name}: {warning}")


def _data(fit: Fit, left_out: int) -> str:
    group = fit.observations.group
    groups = "" if group is None else f" in {len(set(group.tolist()))} groups"
    dropped = f"; {left_out} rows without a response left out" if left_out else ""
    return f"{fit.observations.n} points{groups}, {fit.error.name} errors{dropped}"


def _half_life(half: HalfLife | None) -> str:
    if half is None:
        return "none in this law"
    if half.estimate is None:
        return f"beyond the data{'' if half.low is None else f', at least {_number(half.low)}'}"
    return f"{_number(half.estimate)} {_bracket(half)}{' (beyond the data)' if half.censored else ''}"


def _bracket(found: Interval | HalfLife) -> str:
    return rf"\[{_number(found.low)}, {_number(found.high)}]"


def _number(value: float | None) -> str:
    return "?" if value is None or not math.isfinite(value) else f"{value:.4g}"
