"""`python -m analysis fit` and `compare`: fit laws to any table."""

from __future__ import annotations

import json as encoder
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, get_args

import tyro

from analysis.errors import UserError, nearest

if TYPE_CHECKING:
    from analysis.fitting.describe import Told
    from analysis.fitting.frames import Frame
    from analysis.fitting.intervals import HalfLife, Intervals
    from analysis.fitting.objectives import Objective
    from analysis.fitting.result import Fit
    from analysis.laws.base import Law
    from analysis.stats.arrays import Array
    from analysis.stats.intervals import Interval


ErrorName = Literal["huber", "gaussian", "lognormal", "log1p", "binomial", "beta-binomial"]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What to fit."""

    x: str
    """Input columns of the law: named, as x=step,N=params, or alone in the law's order, as N,D."""
    y: str | None = None
    """Response column."""
    hits: str | None = None
    """Column of successes, whole numbers."""
    trials: str | None = None
    """Column of trials."""
    censored: str | None = None
    """Column that is true where y is only a lower bound, such as a time that was not reached."""
    low: str | None = None
    """Column of lower bounds where y is blank, or in place of y; blank where there is none."""
    high: str | None = None
    """Column of its upper bounds; equal to the lower where it is known."""
    group: str | None = None
    """Column with the seed or run of each row; rows of one group are not independent."""
    weights: str | None = None
    """Column of weights."""
    errors: str | None = None
    """Column of standard errors of y: rows weigh 1 / error^2."""
    error: ErrorName | None = None
    """Error model. Default: binomial for counts (beta-binomial where they scatter more), lognormal for times of which
    some are bounds, gaussian for other y."""
    delta: float = 1e-3
    """Threshold of the Huber loss on log residuals."""
    chance: float = 0.0
    """Success rate of guessing, held fixed: the law describes the skill above it."""
    origin: float | None = None
    """Value of a law's clock x at which what decays was last trained, such as 50000 for raw steps: it is subtracted."""
    fix: str = ""
    """Parameters to hold, as b=0.25,alpha=0.34."""
    starts: int = 128
    """Number of starting points."""


def fit(
    data: Annotated[Path, tyro.conf.Positional],
    /,
    *,
    law: str = "exponential_floor",
    columns: Annotated[Columns, tyro.conf.arg(name="")],
    bootstrap: int = 0,
    hold_out: str = "",
    compute: str = "",
    json: Path | None = None,
) -> None:
    """Fit a law to a table and print its parameters with 95 % intervals, its half-life, and warnings.

    Args:
        data: A .csv, .tsv, .parquet or .jsonl file.
        law: Name of the law, such as chinchilla, or your own as mylaw.py:its_name; by default decay to a floor.
            `python -m analysis laws` lists them.
        bootstrap: Also show bootstrap intervals from this many resamples of the groups, or of the rows if there is no
            --group. 0: none.
        hold_out: Input, by the law's name or its column's, whose largest value is predicted from the others, such as N.
        compute: Budgets in FLOPs at which to show the optimal parameters and tokens, as 1e20,1e21 (C = 6 N D).
        json: File to write the result to.
    """
    from analysis.fitting import describe, half_lives
    from analysis.fitting.compute import reach, trusted
    from analysis.fitting.derived import allocation, bootstrapped, of_functions
    from analysis.fitting.describe import Told
    from analysis.fitting.extrapolation import held_out
    from analysis.fitting.intervals import cluster_bootstrap, intervals
    from analysis.fitting.scatter import uneven
    from analysis.laws import find_law
    from analysis.laws.allocation import FLOPS

    known = find_law(law)
    splits = {budget: allocation(known, budget) for budget in budgets("--compute", compute)}
    if hold_out and hold_out not in {*known.inputs, *(name.strip() for name in re.split("[=,]", columns.x))}:
        raise UserError(
            f"--hold-out {hold_out}: {known.name} has no such input; it has {', '.join(known.inputs)}, and --x names "
            f"no such column ({columns.x})"
        )
    told, left_out, x = fitted(data, known, columns)
    hold_out = known.inputs[x.index(hold_out)] if hold_out in x else hold_out
    spent = FLOPS * told.observations.x.prod(axis=1)
    if splits:
        told = Told.of(told, *reach(list(splits), spent))
    made = told.pooled
    found, predicted, follows = intervals(made), held_out(made, hold_out), of_functions(made, made.law.derived)
    allocated = {budget: of_functions(made, parts) for budget, parts in splits.items()}
    resampled = cluster_bootstrap(made, bootstrap) if bootstrap else None
    if resampled is not None:
        resampled = replace(resampled, parameters=resampled.parameters | bootstrapped(made, made.law.derived))
        allocated |= {budget: bootstrapped(made, parts) for budget, parts in splits.items()}
    allocated = {budget: trusted(parts, told.warnings, reach([budget], spent)) for budget, parts in allocated.items()}
    if json is not None:
        result = as_json(made, found) | _source(data, columns, x, left_out)
        result |= half_lives.as_json(made)
        result |= {"held_out_error": {part: _finite(each.error) for part, each in predicted.items()}}
        result |= {"held_out_error_of": made.error.compared}
        result |= {"scatter": uneven(made)} | {"derived": {name: _interval(each) for name, each in follows.items()}}
        result |= {"allocation": [{"compute": budget} | {name: _interval(each) for name, each in parts.items()}
                                  for budget, parts in allocated.items()]}  # fmt: skip
        write_json(json, result | ({"bootstrap": _ends(resampled, made.law)} if resampled else {}))
    lines = describe.summary(made, found, follows, resampled, left_out)
    lines += [describe.allocation(budget, parts, bool(bootstrap)) for budget, parts in allocated.items()]
    _print([*lines, *describe.notes(made, found, predicted, resampled is not None)])


def compare(
    data: Annotated[Path, tyro.conf.Positional],
    /,
    *,
    laws: str,
    columns: Annotated[Columns, tyro.conf.arg(name="")],
    json: Path | None = None,
) -> None:
    """Fit several laws to one table; rank them by AICc and show the half-life, or time to half recovery, under each.

    Args:
        data: A .csv, .tsv, .parquet or .jsonl file.
        laws: Names separated by commas, such as exponential,exponential_floor,mylaw.py:its_name.
        json: File to write the table to.
    """
    from analysis.fitting import selection
    from analysis.fitting.comparison_table import printed
    from analysis.fitting.fit import each_alone

    names = [name.strip() for name in laws.split(",") if name.strip()]
    if len(set(names)) < 2:
        raise UserError(f"--laws is {laws!r}; expected two or more different names separated by commas")
    made = [fitted(data, name, columns) for name in names]
    if 0 < sum(each_alone(each.fit.law, each.fit.observations) for each in made if columns.group) < len(made):
        made = [fitted(data, name, columns, pooled=True) for name in names]
    _, left_out, x = made[0]  # the same rows for all laws
    found = selection.compare([each.fit.pooled for each in made])
    if found.ranked[0].aicc == math.inf:
        points = found.ranked[0].fit.observations.n
        raise UserError(f"{points} points are too few for the AICc of any of these laws")
    if json is not None:
        table = [
            as_json(each.fit, each.intervals)
            | _source(data, columns, x, left_out)
            | {"aicc": _finite(each.aicc), "delta_aicc": _finite(each.delta), "held_out_error": _finite(each.held_out),
               "held_out_error_of": each.fit.error.compared,
               "held_out_log_likelihood": _finite(each.held_out_log_likelihood),
               "aicc_of": [asdict(part) | {"aicc": _finite(part.aicc)} for part in each.scores]}
            for each in found.ranked
        ]  # fmt: skip
        write_json(json, table)
    printed(found, left_out)


def _source(data: Path, columns: Columns, x: list[str], left_out: int) -> dict[str, Any]:
    """What was fitted, as JSON data: the file, its columns by role, and the number of rows without a response."""
    roles = ("y", "hits", "trials", "censored", "low", "high", "group", "weights", "errors")
    given = {name: getattr(columns, name) for name in roles if getattr(columns, name) is not None}
    return {"data": str(data), "columns": {"x": x} | given, "left_out": left_out}


def write_json(path: Path, result: object) -> None:
    """Raises UserError if the file cannot be written."""
    try:
        path.write_text(encoder.dumps(result, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


class Fitted(NamedTuple):
    """A fit to a table."""

    fit: Told
    left_out: int
    """Rows without a response."""
    x: list[str]
    """Columns of the law's inputs, in its order."""


def fitted(
    data: Frame | Mapping[str, Any] | str | os.PathLike[str], law: str | Law, columns: Columns, pooled: bool = False
) -> Fitted:
    """A law fitted to columns of a table. `pooled`: without groups that never had what decays, even where each can be
    fitted alone, as in a comparison with laws for which none can.

    Raises UserError on bad input, before any fitting.
    """
    from analysis.fitting import compute, gaps
    from analysis.fitting.describe import Told
    from analysis.fitting.fit import fit
    from analysis.fitting.frames import as_polars
    from analysis.fitting.groups import NEVER, without_never_had
    from analysis.fitting.table import Roles, inputs, likely_group, observations
    from analysis.laws import find_law
    from analysis.laws.base import Law

    found = find_law(law) if isinstance(law, str) else law
    if not isinstance(found, Law):
        raise UserError(
            f"law is {found!r}: expected a name, FILE.py:NAME, or a Law; @results.law(...) above a function makes one"
        )
    if columns.starts < 1:
        raise UserError(f"--starts is {columns.starts}; expected 1 or more")
    table = as_polars(data)
    names = [name for name in Roles.__dataclass_fields__ if name != "x"]
    roles = Roles(x=inputs(found, columns.x, table), **{name: getattr(columns, name) for name in names})
    table, notes = gaps.complete(table, found, roles)
    points, left_out = observations(table, found, roles, _relative_to(_error(columns, found)))
    objective = _objective(columns, found)
    points, late = gaps.from_origin(points, found, roles.x[0], columns.origin)
    points, never = without_never_had(found, points, columns.chance, pooled)
    notes += [*late, *(f"{columns.group} {gaps.named(never)} left out: each {NEVER}" for _ in never[:1])]
    held = _held(columns.fix, found if columns.hits is None else found.of_counts)
    made = fit(found, points, objective=objective, starts=columns.starts, fixed=held)
    notes += [
        *gaps.blanks(table, roles),
        *gaps.mostly_bounds(table, roles, points.censored),
        *gaps.tied(table, found, roles),
    ]
    named = dict(zip(found.inputs, roles.x, strict=True))
    notes += compute.swapped(named)
    if found.optimum is not None or "N" in named:
        taken = named if found.optimum is not None else {"N": named["N"]}
        notes += compute.units(table, taken)
    if columns.group is None and (run := likely_group(table, roles)) is not None:
        notes.append(
            f"rows that differ in {run} have the same inputs: rows of one run share its noise, so pass --group {run}"
        )
    return Fitted(Told.of(replace(made, columns=roles.named(found.inputs)), *notes), left_out, roles.x)


def _held(given: str, law: Law) -> dict[str, float]:
    """NAME=VALUE,... as numbers by name. Raises UserError on other words and on names that the law does not have."""
    held: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in given.split(","))):
        name, _, value = (each.strip() for each in part.partition("="))
        if name not in law.names:
            raise UserError(f"--fix {part}: {law.name} has no parameter {name!r}; it has {', '.join(law.names)}")
        try:
            held[name] = float(value)
        except ValueError:
            raise UserError(f"--fix {part}: expected NAME=NUMBER, such as {name}=0.5") from None
        parameter = law.parameters[law.names.index(name)]
        if not parameter.low <= held[name] <= parameter.high or (parameter.log and held[name] <= 0):
            raise UserError(f"--fix {part}: {name} lies between {parameter.low:g} and {parameter.high:g}")
    if len(held) == len(law.names):
        raise UserError(f"--fix holds all parameters of {law.name}: there is nothing to fit")
    return held


def budgets(flag: str, given: str) -> list[float]:
    try:
        found = [float(part) for part in given.split(",") if part.strip()]
    except ValueError:
        raise UserError(f"{flag} is {given!r}; expected numbers separated by commas, such as 1e20,1e21") from None
    if any(not (math.isfinite(each) and each > 0) for each in found):
        raise UserError(f"{flag} is {given!r}; expected numbers above 0")
    return found


def _error(columns: Columns, law: Law) -> str:
    if columns.error is not None:
        return columns.error
    if columns.hits is not None:
        return "binomial"
    return "lognormal" if law.times and (columns.censored or columns.low) else "gaussian"


def _relative_to(error: str) -> Callable[[Array], Array] | None:
    """What standard errors of y are relative to, so that they weigh residuals of ln y or ln(1 + y)."""
    return {"huber": lambda y: y, "lognormal": lambda y: y, "log1p": lambda y: 1 + y}.get(error)


def _objective(columns: Columns, law: Law) -> Objective:
    from analysis.fitting.log1p import Log1p
    from analysis.fitting.objectives import BetaBinomial, Binomial, Gaussian, Huber

    error = _error(columns, law)
    if error not in get_args(ErrorName):  # from Python, whose types nobody may check
        known = get_args(ErrorName)
        raise UserError(f"--error is {error!r}{nearest(error, known)}: expected one of {', '.join(known)}")
    if columns.chance and columns.hits is None:
        raise UserError(
            f"--chance {columns.chance:g} is for counts (--hits and --trials): leave it out with a response --y"
        )
    if error == "huber":
        return Huber(delta=columns.delta)
    if error == "log1p":
        return Log1p()
    if error in ("gaussian", "lognormal"):
        return Gaussian(log=error == "lognormal")
    if error == "beta-binomial":
        return BetaBinomial(chance=columns.chance)
    return Binomial(chance=columns.chance, adapts=columns.error is None)


def as_json(fit: Fit, found: Intervals) -> dict[str, Any]:
    """The result as JSON data; unknown values are null."""
    from analysis.fitting import describe

    value = fit.objective if fit.log_likelihood is None else fit.log_likelihood
    return {
        "law": fit.law.name,
        "formula": fit.law.formula,
        "points": fit.observations.n,
        "groups": None if fit.observations.group is None else len(set(fit.observations.group.tolist())),
        "error": fit.error.name,
        "chi_square_per_degree_of_freedom": None if fit.dispersion is None else _finite(fit.dispersion.ratio),
        **_ends(found, fit.law),
        "objective": _finite(value),
        "starts_at_optimum": fit.starts_at_optimum,
        "warnings": describe.warnings(fit, found),
    }


def _ends(found: Intervals, law: Law) -> dict[str, Any]:
    """Intervals as JSON data."""
    half = found.half_life
    return {
        "intervals": found.method,
        "intervals_by": dict(found.by),
        "parameters": {name: _interval(each) for name, each in found.parameters.items()},
        "half_life": None if half is None
        else _interval(half) | {"censored": bool(half.censored), "at_least": half.bound},
        "half_life_is": None if half is None else law.half_name,
    }  # fmt: skip


def _interval(each: Interval | HalfLife) -> dict[str, float | None]:
    return {"estimate": _finite(each.estimate), "low": _finite(each.low), "high": _finite(each.high)}


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _print(lines: list[str]) -> None:
    """Lines as they are, warnings in colour on a terminal."""
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    for line in lines:
        console.print(Text(line, style="yellow" if line.startswith("warning:") else ""))
