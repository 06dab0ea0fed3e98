"""From points to one number per trial: what a declared quantity reads, with bounds where it is censored.

Missing stays missing, with its reason; counts stay counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from analysis.answers.derived import READINGS
from analysis.decay.design import controls
from analysis.decay.formulas import MIN_GAP, MIN_SUCCESS, area, control_at, crossing, retention, rising
from analysis.decay.retention import wide_points
from analysis.errors import UserError, nearest
from analysis.runs.study import StudyData
from analysis.stats.arrays import Array
from halflife.tracking.questions import TOKENS, At, Crossing, First, Last, Mean, Quantity, Slope
from halflife.tracking.schema import CHANCE, HITS, TRIALS

READING = {
    "value": pl.Float64, "low": pl.Float64, "high": pl.Float64, "hits": pl.Float64, "trials": pl.Float64,
    "reason": pl.String,
}  # fmt: skip

ALREADY = "the level asked was already reached at the start"
"""Reason of a crossing that no phase could show."""


@dataclass(frozen=True)
class Reading:
    """In the order of READING. Known: value = low = high. Censored: no value; it lies between low and high. Missing:
    only a reason."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    hits: float | None = None
    trials: float | None = None
    reason: str | None = None

    @property
    def row(self) -> tuple[float | str | None, ...]:
        return self.value, self.low, self.high, self.hits, self.trials, self.reason


def _known(value: float, hits: float | None = None, trials: float | None = None) -> Reading:
    return Reading(value, value, value, hits, trials) if math.isfinite(value) else Reading(reason="not a number")


def _between(low: float, high: float) -> Reading:
    if low == high:
        return _known(low)
    if math.isinf(low) and math.isinf(high):
        return Reading(reason="censored on both sides: it could be anything")
    return Reading(None, low, high)


@dataclass(frozen=True, kw_only=True)
class Series:
    """A measure over one trial's phase, (n,) each, in order; without missing values."""

    tokens: Array
    clock: Array
    level: Array
    hits: Array | None
    trials: Array | None
    chance: float
    ended: str
    """complete, or how the phase ended otherwise."""

    def at(self, index: int) -> Reading:
        counts = (None, None) if self.hits is None or self.trials is None else (self.hits[index], self.trials[index])
        return _known(float(self.level[index]), *(None if count is None else float(count) for count in counts))


def values(data: StudyData, quantity: Quantity) -> pl.DataFrame:
    """One row per trial, of a derived reading per trial and item: trial, role, its parameters, items, and the columns
    of READING. Computed once per `data`."""
    key = f"quantity/{quantity!r}"
    if key in data.derived:
        return data.derived[key]
    if quantity.derived:
        data.derived[key] = _derived(data, quantity)
    else:
        found = _readings(data, quantity)
        frame = pl.DataFrame([found[trial].row for trial in data.trials["trial"]], schema=READING, orient="row")
        data.derived[key] = pl.concat([about(data), frame], how="horizontal")
    return data.derived[key]


def _derived(data: StudyData, quantity: Quantity) -> pl.DataFrame:
    """Trials without a reading have one row, with a reason."""
    if quantity.derived not in READINGS:
        raise UserError(f"no reading {quantity.derived!r} is known{nearest(quantity.derived, list(READINGS))}")
    frame, against = READINGS[quantity.derived](data), quantity.against
    items = [name for name in frame.columns if name not in ("trial", *READING)]
    rows = {
        (row["trial"], *(row[name] for name in items)): _transformed(
            Reading(**{name: row[name] for name in READING}), quantity, quantity.chance
        )
        for row in frame.iter_rows(named=True)
    }
    if against:
        pairs = controls(data, against.role)
        rows = {
            (trial, *item): _compared(own, rows[pairs[trial], *item], quantity)
            if (pairs.get(trial), *item) in rows
            else _alone(own, against.role)
            for (trial, *item), own in rows.items()
        }
    types = {"trial": pl.String} | {name: frame.schema[name] for name in items} | READING
    read = pl.DataFrame([(*key, *own.row) for key, own in rows.items()], schema=types, orient="row")
    whole = about(data).drop(items, strict=False)
    lacking = pl.col("reason").is_null() & pl.col("low").is_null()
    return whole.join(read, on="trial", how="left", maintain_order="left_right").with_columns(
        reason=pl.when(lacking).then(pl.lit("it was not measured")).otherwise("reason")
    )


def about(data: StudyData) -> pl.DataFrame:
    """trial, role and the parameters of every trial; one that has the name of a column of READING gets a prefix."""
    frame = data.trials.select("trial", "role", *(n for n in data.parameters if n not in ("trial", "role")))
    return frame.rename({name: f"parameter_{name}" for name in frame.columns if name in READING})


def _readings(data: StudyData, quantity: Quantity) -> dict[str, Reading]:
    """By trial."""
    series, against = _curves(data, quantity), quantity.against
    span = _common_span([found for found in series.values() if isinstance(found, Series)])
    read = {
        trial: found
        if isinstance(found, Reading)
        else _transformed(_moment(quantity, found, span), quantity, found.chance)
        for trial, found in series.items()
    }
    if against and against.how != "retention":
        pairs = controls(data, against.role)
        read = {
            trial: _compared(own, read[pairs[trial]], quantity) if trial in pairs else _alone(own, against.role)
            for trial, own in read.items()
        }
    return read


def _alone(own: Reading, role: str) -> Reading:
    return own if own.reason else Reading(reason=f"no control of role {role!r} of the same seed and size")


def _curves(data: StudyData, quantity: Quantity) -> dict[str, Series | Reading]:
    """By trial: its series, as retention if the quantity reads that. Quantities of one measure share them."""
    role = quantity.against.role if quantity.against and quantity.against.how == "retention" else None
    key = f"series/{quantity.measure}/{_clock(quantity)}/{quantity.chance}/{role}"
    if key not in data.derived:
        series = _series(data, quantity)
        if role is not None:
            pairs = controls(data, role)
            series = {trial: _retained(found, series.get(pairs.get(trial, ""))) for trial, found in series.items()}
        data.derived[key] = series
    return data.derived[key]


def _clock(quantity: Quantity) -> str:
    return getattr(quantity.moment, "clock", TOKENS)


def _series(data: StudyData, quantity: Quantity) -> dict[str, Series | Reading]:
    """By trial: its series, or why there is none."""
    wide = wide_points(data, quantity.phase)
    name = quantity.measure.partition("/")[2]
    counted = name.rpartition("/")[2] == HITS
    trials = f"{quantity.task}/{TRIALS}"
    clock = _clock(quantity)
    columns = {"tokens": "step", "clock": "step" if clock == TOKENS else clock, "level": name}
    columns |= {"trials": trials} if counted else {}
    parts: Mapping[str, slice] = {}
    arrays: dict[str, Array] = {}
    lacking = [column for column in columns.values() if column not in wide.columns]
    if not lacking:
        own = f"{quantity.task}/{CHANCE}"
        chance = pl.col(own) if own in wide.columns else pl.lit(None)
        read = {new: pl.col(old).cast(pl.Float64) for new, old in columns.items()}
        frame = wide.select("trial", **read, chance=chance.cast(pl.Float64))
        frame = frame.drop_nulls(list(columns)).sort("clock").sort("trial", maintain_order=True)
        arrays = {name: frame[name].to_numpy() for name in (*columns, "chance")}
        parts = _runs(frame["trial"])
    ended = f"outcome_{quantity.phase}"
    found: dict[str, Series | Reading] = {}
    for row in data.trials.to_dicts():
        ahead = data.unfinished and row.get(f"stage_{quantity.phase}")
        end, part = row.get(ended) or ("not finished yet" if ahead else "complete"), parts.get(row["trial"])
        if part is None:
            why = f"no trial has {quantity.phase}/{lacking[0]}" if lacking else f"{quantity.measure} was not measured"
            found[row["trial"]] = Reading(reason=why if end == "complete" else f"{quantity.phase}: {end}")
            continue
        level, hits, asked = arrays["level"][part], None, None
        if counted:
            hits, asked = level, arrays["trials"][part]
            level = hits / asked
        own = arrays["chance"][part]
        own = own[~np.isnan(own)]
        found[row["trial"]] = Series(
            tokens=arrays["tokens"][part], clock=arrays["clock"][part], level=level, hits=hits, trials=asked,
            chance=float(own[0]) if own.size else quantity.chance, ended=end,
        )  # fmt: skip
    return found


def _runs(column: pl.Series) -> dict[str, slice]:
    """Where each value of a sorted column stands."""
    lengths = column.rle().struct.unnest()
    ends = np.cumsum(lengths["len"].to_numpy().astype(np.int64)).tolist()
    return {
        value: slice(end - size, end) for value, size, end in zip(lengths["value"], lengths["len"], ends, strict=True)
    }


def _retained(own: Series | Reading, control: Series | Reading | None) -> Series | Reading:
    """The series as retention against its control's at the same tokens."""
    if isinstance(own, Reading):
        return own
    if not isinstance(control, Series):
        return Reading(reason="its control was not measured" if control else "it has no control of its seed and size")
    if own.tokens[0] != 0:
        return Reading(reason="not measured when the phase began: nothing to compare what is kept with")
    gap = MIN_GAP if own.hits is None else MIN_SUCCESS * (1 - own.chance)
    kept = retention(own.level, control_at(own.tokens, control.tokens, control.level), gap)
    if not np.isfinite(kept).any():
        return Reading(reason=f"less than {gap:g} above its control when the phase began: nothing to keep")
    return Series(
        tokens=own.tokens, clock=own.clock, level=kept, hits=None, trials=None, chance=own.chance, ended=own.ended
    )


Span = tuple[float, float]


def _common_span(found: list[Series]) -> Span | None:
    """The latest first evaluation after 0, and the earliest last one, of completed trials."""
    whole = [series for series in found if series.ended == "complete" and (series.clock > 0).any()]
    if not whole:
        return None
    return max(float(each.clock[each.clock > 0][0]) for each in whole), min(float(each.clock[-1]) for each in whole)


def _moment(quantity: Quantity, series: Series, span: Span | None) -> Reading:
    return READERS[quantity.moment.kind](quantity.moment, series, span)


def _first(moment: First, series: Series, span: Span | None) -> Reading:
    return series.at(0)


def _last(moment: Last, series: Series, span: Span | None) -> Reading:
    return series.at(-1) if series.ended == "complete" else Reading(reason=f"the run ended early: {series.ended}")


def _at(moment: At, series: Series, span: Span | None) -> Reading:
    exact = np.flatnonzero(series.clock == moment.amount)
    if exact.size:
        return series.at(int(exact[0]))
    if not series.clock[0] <= moment.amount <= series.clock[-1]:
        ends = f"{series.clock[0]:g} to {series.clock[-1]:g}"
        return Reading(reason=f"measured from {ends} {moment.clock}, not at {moment.amount:g}")
    return _known(float(np.interp(moment.amount, series.clock, series.level)))


def _ends(moment: Mean | Slope, span: Span | None) -> Span | None:
    start = moment.start if moment.start is not None or span is None else span[0]
    end = moment.end if moment.end is not None or span is None else span[1]
    return None if start is None or end is None or not start < end else (start, end)


def _mean(moment: Mean, series: Series, span: Span | None) -> Reading:
    if (ends := _ends(moment, span)) is None:
        return Reading(reason="no span of the clock that all completed trials have")
    if moment.scale == "log":
        found = area(series.clock, series.level, *ends)
    else:
        present = np.isfinite(series.level)
        clock, level = series.clock[present], series.level[present]
        grid = np.unique(np.concatenate([ends, clock[(clock > ends[0]) & (clock < ends[1])]]))
        spans = clock.size > 1 and clock[0] <= ends[0] and clock[-1] >= ends[1]
        found = float(np.trapezoid(np.interp(grid, clock, level), grid) / (ends[1] - ends[0])) if spans else None
    if found is None:
        return Reading(reason=f"not measured all the way from {ends[0]:g} to {ends[1]:g} {moment.clock}")
    return _known(found)


def _slope(moment: Slope, series: Series, span: Span | None) -> Reading:
    start = -math.inf if moment.start is None else moment.start
    end = math.inf if moment.end is None else moment.end
    used = np.isfinite(series.level) & (series.clock >= start) & (series.clock <= end)
    used &= (series.clock > 0) | (moment.scale != "log")
    x = np.log(series.clock[used]) if moment.scale == "log" else series.clock[used]
    if np.unique(x).size < 2:
        return Reading(reason="fewer than two evaluations in the span of the slope")
    return _known(float(np.polyfit(x - x.mean(), series.level[used], 1)[0]))


def _crossing(moment: Crossing, series: Series, span: Span | None) -> Reading:
    if moment.direction == "above":
        found = rising(series.clock, series.level, moment.threshold)
    else:
        found = crossing(series.clock, series.level, moment.threshold, sustained=moment.sustained)
    if found is None:
        known = series.level[np.isfinite(series.level)]
        ended = known.size == 1 and (known[0] >= moment.threshold) == (moment.direction == "above")
        return Reading(reason=ALREADY if ended else "fewer than two evaluations")  # ended at once, for that reason
    if found.kind == "observed" and found.estimate is not None:
        return _known(found.estimate)
    if found.kind == "censored":
        return _between(found.low, math.inf)
    if not found.high:
        return Reading(reason=ALREADY)
    return _between(0.0, found.high)


READERS: dict[str, Callable[[Any, Series, Span | None], Reading]] = {
    "first": _first, "last": _last, "at": _at, "mean": _mean, "crossing": _crossing, "slope": _slope,
}  # fmt: skip
"""By kind of moment."""


def _transformed(read: Reading, quantity: Quantity, chance: float) -> Reading:
    if read.low is None or read.high is None or quantity.transform == "none":
        return read
    if quantity.transform == "above chance":
        low, high = read.low - chance, read.high - chance
        return _known(low, read.hits, read.trials) if read.value is not None else _between(low, high)
    if quantity.transform == "log":
        if read.high <= 0 or (read.low <= 0 and read.value is not None):
            return Reading(reason=f"{read.high:g} has no logarithm")
        return _between(math.log(read.low) if read.low > 0 else -math.inf, math.log(read.high))
    if read.hits is not None and read.trials is not None:  # empirical logit: defined at 0 and at all hits
        return _known(math.log((read.hits + 0.5) / (read.trials - read.hits + 0.5)), read.hits, read.trials)
    if read.value is None or not 0 < read.value < 1:
        return Reading(reason=f"{read.low:g} has no logit")
    return _known(math.log(read.value / (1 - read.value)))


def _compared(own: Reading, control: Reading, quantity: Quantity) -> Reading:
    """The trial's reading against its control's; bounds add up."""
    if own.low is None or own.high is None:
        return own
    if control.low is None or control.high is None:
        return Reading(reason=f"its control: {control.reason}")
    if quantity.against is not None and quantity.against.how == "ratio" and not quantity.on_log_scale:
        if control.low <= 0 or own.low < 0:
            return Reading(reason=f"no ratio of {own.low:g} and its control's {control.low:g}")
        return _between(own.low / control.high, own.high / control.low)
    return _between(own.low - control.high, own.high - control.low)
