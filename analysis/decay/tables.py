"""Half-lives from anyone's table of curves: one row per run and evaluation, with counts or a level of skill."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis.decay.formulas import MIN_SUCCESS, crossing, retention
from analysis.errors import UserError
from analysis.fitting.gaps import late_start, since
from analysis.fitting.groups import never_started
from analysis.fitting.table import ROW, labels, numbers
from analysis.stats import censoring
from analysis.stats.format import short

RUN = {"size": pl.String, "parameters": pl.Float64, "seed": pl.String, "run": pl.String}
TIMES = {**RUN, **censoring.COLUMNS}
LEFT_OUT = {**RUN, "why": pl.String}


@dataclass(frozen=True, kw_only=True)
class Curves:
    """The columns of such a table."""

    step: str
    """Clock since training on the skill stopped: steps, tokens, ..."""
    size: str
    """Parameters of the model."""
    seed: str
    run: str | None = None
    """Further column that tells runs of one size and seed apart."""
    hits: str | None = None
    trials: str | None = None
    y: str | None = None
    """A level of skill, in place of counts."""
    chance: float = 0.0
    """Its level without skill."""
    origin: float | None = None
    """Value of the clock at which training on the skill stopped: it is subtracted."""


def half_lives_of_table(frame: pl.DataFrame, columns: Curves) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Per run when half of the skill above chance at its first step is lost for good (columns of TIMES), and the runs
    left out (columns of LEFT_OUT): evaluated once, or without the skill at their first step. That is as in fits
    (analysis.fitting.groups.never_started, over all runs), at or below chance, and of counts below MIN_SUCCESS of the
    way from chance to 1.

    Raises UserError on missing columns or values, where a run has two rows at one step, and where the clock seems to
    begin before training on the skill stopped and no origin is given.
    """
    if (columns.y is None) == (columns.hits is None and columns.trials is None):
        raise UserError("pass either --y, or both --hits and --trials")
    frame = frame.with_row_index(ROW, offset=1)
    if columns.y is not None:
        level, least = numbers(frame, columns.y), 0.0
    else:
        if columns.hits is None or columns.trials is None:
            raise UserError("counts need both --hits and --trials")
        hits, trials = (numbers(frame, name, whole=True) for name in (columns.hits, columns.trials))
        if (hits > trials).any() or not (trials > 0).all():
            raise UserError(f"expected {columns.hits} of at most {columns.trials}, and {columns.trials} above 0")
        level, least = hits / trials, MIN_SUCCESS * (1 - columns.chance)
    size = numbers(frame, columns.size)
    if (size <= 0).any():
        raise UserError(f"column {columns.size} has values of 0 or below; expected numbers of parameters")
    run = np.full(frame.height, "") if columns.run is None else labels(frame, columns.run)
    table = pl.DataFrame({"parameters": size, "seed": labels(frame, columns.seed), "run": run,
                          "step": numbers(frame, columns.step), "level": level})  # fmt: skip
    if (twice := table.filter(table.select("parameters", "seed", "run", "step").is_duplicated())).height:
        first = twice.row(0, named=True)
        raise UserError(
            f"{twice.height} rows share size, seed and step, such as {first['parameters']:g}, {first['seed']} and "
            f"{first['step']:g}: name the column that tells runs apart with --run"
        )
    run = table.select(pl.struct("parameters", "seed", "run").rank("dense")).to_series().to_numpy()
    table = table.with_columns(step=pl.col("step") - _origin(table["step"].to_numpy(), run, columns))
    weights = np.ones(table.height) if columns.trials is None else numbers(frame, columns.trials)
    never = never_started(run, table["step"].to_numpy(), level, weights, columns.chance)
    table = table.with_columns(never=never[run - 1])
    rows, left = [], []
    for (n, seed, name), part in table.sort("step").group_by(["parameters", "seed", "run"], maintain_order=True):
        run, values = [short(float(str(n))), n, seed, name], part["level"].to_numpy()
        gap = values[0] - columns.chance
        if values.size < 2:
            left.append([*run, "evaluated only once"])
        elif part["never"][0] or not (gap > 0 and gap >= least):
            left.append([*run, f"without the skill at the first {columns.step}"])
        else:
            found = crossing(part["step"].to_numpy(), retention(values, columns.chance, gap), sustained=True)
            assert found is not None, "two finite points have a crossing or a bound"
            rows.append([*run, *found.row])
    names = ("parameters", "seed", "run")
    return (
        pl.DataFrame(rows, schema=TIMES, orient="row").sort(names),
        pl.DataFrame(left, schema=LEFT_OUT, orient="row").sort(names),
    )


def _origin(clock: np.ndarray, run: np.ndarray, columns: Curves) -> float:
    if columns.origin is None:
        if (first := late_start(clock, run)) is not None:
            raise UserError(since(columns.step, first))
        return 0.0
    if not clock.min() >= columns.origin:
        raise UserError(f"--origin is {columns.origin:g}, but {columns.step} begins at {clock.min():g}: expected the "
                        "time at which training on the skill stopped")  # fmt: skip
    return columns.origin
