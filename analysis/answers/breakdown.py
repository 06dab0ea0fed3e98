"""The exploratory breakdown of a question: its quantity at every value of the other axes that varied, one at a time,
with the rest at the reference setting."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from analysis.answers.quantities import values
from analysis.answers.questions import SEED, Answer, apart, cells
from analysis.decay.design import reference
from analysis.runs.study import StudyData
from analysis.stats import verdicts
from analysis.stats.estimates import Censored, Estimates
from halflife.tracking.schema import Axis

ROWS = {
    "axis": pl.String, "value": pl.String, "estimate": pl.Float64, "low": pl.Float64, "high": pl.Float64,
    "seeds": pl.Int64, "trials": pl.Int64, "censored": pl.Int64,
}  # fmt: skip


def breakdown(data: StudyData, answer: Answer) -> pl.DataFrame:
    """Means over seeds with 95 % t intervals, each on its own; of a quantity in logarithms they are factors, or
    geometric means. Without an estimate where too many values are censored. Empty if nothing else varied."""
    if not answer.quantities or answer.used.is_empty():
        return pl.DataFrame(schema=ROWS)
    declared, quantity = data.declaration, answer.quantities[0]
    frame = values(data, quantity).filter(~pl.col(SEED).is_in(declared.pilot_seeds))
    chosen = {name: value for name, value in (reference(data) | answer.question.where).items() if name in frame.columns}
    rows = []
    for axis in _other_axes(data, answer):
        rest = {name: value for name, value in chosen.items() if name != axis.name}
        part = _at(frame, rest)
        if axis.name != "role":
            part = part.filter(pl.col("role").is_in(answer.question.roles))
        for value in part[axis.name].unique().drop_nulls().sort().to_list() if axis.name in part.columns else ():
            own = part.filter(pl.col(axis.name) == value)
            if (found := _mean(apart(data, own, [SEED]))) is not None:
                shown = f"{value:g}" if isinstance(value, float) else str(value)
                rows.append([axis.label, shown, *_unlogged(found, quantity.on_log_scale), own.height, _censored(own)])
    return pl.DataFrame(rows, schema=ROWS, orient="row")


def _other_axes(data: StudyData, answer: Answer) -> Iterator[Axis]:
    """That varied, also the roles where the quantity is not itself a comparison with one."""
    asked = {*answer.question.axes, *answer.question.values}
    for axis in data.declaration.axes:
        varied = axis.name in data.trials.columns and data.trials[axis.name].n_unique() > 1
        if varied and axis.name not in asked and axis.role != "replicate":
            yield axis
    if "role" not in asked and answer.quantities[0].against is None and data.trials["role"].n_unique() > 1:
        yield Axis(name="role", label="Role", values=())


def _at(frame: pl.DataFrame, setting: dict[str, Any]) -> pl.DataFrame:
    for name, value in setting.items():
        frame = frame.filter(pl.col(name).cast(pl.String).eq_missing(pl.lit(None if value is None else _text(value))))
    return frame


def _text(value: Any) -> str:
    return pl.Series([value]).cast(pl.String)[0]


def _censored(frame: pl.DataFrame) -> int:
    return frame.filter(pl.col("reason").is_null() & pl.col("value").is_null()).height


def _mean(frame: pl.DataFrame) -> tuple[float | None, float | None, float | None, int] | None:
    """Estimate, low, high, seeds, each seed's mean over its other trials; None without any value."""
    seeds = cells(frame, [SEED]).drop_nulls(["low", "high"]).sort(SEED)
    low, high = (seeds[name].to_numpy() for name in ("low", "high"))
    known = np.isfinite(low) | np.isfinite(high)
    low, high = low[known], high[known]
    if not low.size:
        return None
    censored = Censored(x=np.zeros(1), low=low[:, None], high=high[:, None]) if (low != high).any() else None
    estimates = Estimates(values=np.where(np.isfinite(low), low, high), censored=censored)
    found = verdicts.judge([verdicts.Question(estimates=estimates)])[0].interval
    return (None, None, None, low.size) if found is None else (found.estimate, found.low, found.high, low.size)


def _unlogged(found: tuple[Any, ...], on_log_scale: bool) -> tuple[Any, ...]:
    *numbers, seeds = found
    if on_log_scale:
        with np.errstate(over="ignore"):
            numbers = [None if each is None else float(np.exp(each)) for each in numbers]
    return (*numbers, seeds)
