"""The slope of the leading trend under every defensible choice: a multiverse, or specification curve.

Simonsohn, Simmons and Nelson 2020 (Nature Human Behaviour 4, 1208): all combinations of choices that a reader could
defend, so that none is picked for its result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import polars as pl

from analysis.answers.leading import leading_trend, with_quantities
from analysis.answers.questions import SEED, cells, estimated
from analysis.decay.design import controls
from analysis.decay.retention import wide_points
from analysis.runs.study import StudyData
from analysis.stats.arrays import Array
from analysis.stats.estimates import Estimates
from analysis.stats.imputation import slopes_over_seeds
from analysis.stats.verdicts import Question, judge
from halflife.tracking.questions import TOKENS, Crossing, Mean, Quantity, Slope, Trend
from halflife.tracking.schema import CLOCK_DISPLACEMENT, CLOCK_RATE_SUM, CLOCK_STEPS

CLOCKS = (TOKENS, CLOCK_STEPS, CLOCK_RATE_SUM, CLOCK_DISPLACEMENT)
THRESHOLDS = (0.8, 1.2)
"""Times the declared one."""
WHOLE, HALF, NOTHING = "whole", "first half", "nothing"
SPECIFICATIONS = {
    "clock": pl.String, "threshold": pl.Float64, "crossing": pl.String, "scale": pl.String, "span": pl.String,
    "left_out": pl.String, "left_out_value": pl.String, "declared": pl.Boolean, "estimate": pl.Float64,
    "low": pl.Float64, "high": pl.Float64, "seeds": pl.Int64, "censored": pl.Int64,
}  # fmt: skip
CHAINS = 8


@dataclass(frozen=True, kw_only=True)
class _Grid:
    """What one specification of the quantity reads: ln or plain values by seed and size, with bounds."""

    choices: dict[str, Any]
    x: Array
    """(K,): sizes, on the question's scale."""
    sizes: tuple[Any, ...]
    seeds: tuple[Any, ...]
    low: Array
    """(S, K), NaN where missing."""
    high: Array


def multiverse(data: StudyData) -> pl.DataFrame:
    """SPECIFICATIONS, sorted by estimate: clock, threshold, last or first crossing, scale of a mean and span, where the
    quantity has them and they change a slope, each with nothing, each size and each seed left out. The declared one has
    the question's own estimate, over all seeds. Specifications with too much censoring for an estimate have none; empty
    without a trend over size."""
    found = leading_trend(data)
    if found is None:
        return pl.DataFrame(schema=SPECIFICATIONS)
    quantity, question = found
    data = with_quantities(data, [quantity])
    own = estimated(data, question)
    if own.used.is_empty() or own.estimates is None or own.used["low"].null_count() == own.used.height:
        return pl.DataFrame(schema=SPECIFICATIONS)
    data = _needed(data, quantity, own.used)
    rows = [row for grid in _distinct(list(_grids(data, quantity, question))) for row in _left_out(grid)]
    _estimate(rows)
    for row in rows:
        if row["declared"]:
            row |= _own(own.estimates)
    about = [{name: value for name, value in row.items() if name in SPECIFICATIONS} for row in rows]
    table = pl.DataFrame(about, schema=SPECIFICATIONS)
    return table.sort("estimate", "declared", nulls_last=True)


def _distinct(grids: list[_Grid]) -> list[_Grid]:
    """Without those choices of span and crossing that change no value."""
    own = next((grid.choices for grid in grids if grid.choices["declared"]), None)
    if own is None:
        return grids
    for name in ("crossing", "span"):
        values = dict.fromkeys(grid.choices.get(name) for grid in grids)
        by_choices = {_apart(grid, name): grid for grid in grids if grid.choices.get(name) == own.get(name)}
        for value in [value for value in values if value != own.get(name)]:
            part = [grid for grid in grids if grid.choices.get(name) == value]
            if all(_same(grid, by_choices.get(_apart(grid, name))) for grid in part):
                grids = [grid for grid in grids if grid.choices.get(name) != value]
    return grids


def _apart(grid: _Grid, name: str) -> tuple[Any, ...]:
    """All choices but this one."""
    return tuple(value for key, value in sorted(grid.choices.items()) if key not in (name, "declared"))


def _same(grid: _Grid, other: _Grid | None) -> bool:
    ends = ("low", "high")
    return other is not None and all(
        np.array_equal(getattr(grid, end), getattr(other, end), equal_nan=True) for end in ends
    )


def _own(estimates: Estimates) -> dict[str, float | None]:
    """As the question has it. With many bounds it has no more than a bound, and a specification no estimate."""
    found = judge([Question(estimates=estimates)])[0].interval
    if found is None or not np.isfinite([found.low or 0.0, found.high or 0.0]).all():
        return {}
    return {"estimate": found.estimate, "low": found.low, "high": found.high}


def _needed(data: StudyData, quantity: Quantity, used: pl.DataFrame) -> StudyData:
    """Only the trials that the question is about, and their controls."""
    if quantity.derived:
        return data  # from more than one phase
    kept = set(used["trial"])
    if quantity.against:
        of = controls(data, quantity.against.role)
        kept |= {of[trial] for trial in kept if trial in of}
    trials = data.trials.filter(pl.col("trial").is_in(kept))
    phase = (pl.col("phase") == quantity.phase) & pl.col("trial").is_in(kept)
    return replace(data, trials=trials, points=data.points.filter(phase))


def _grids(data: StudyData, quantity: Quantity, question: Trend) -> Iterator[_Grid]:
    variants = list(_variants(data, quantity, question))
    spans = [(WHOLE, data)]
    if isinstance(quantity.moment, Crossing | Mean | Slope):
        end = data.points["step"].max()
        assert isinstance(end, int)
        spans.append((HALF, replace(data, points=data.points.filter(pl.col("step") <= end / 2))))
    for span, part in spans:
        part = with_quantities(part, [variant for variant, _ in variants])
        for variant, choices in variants:
            grid = _grid(part, variant, question, choices | {"span": span})
            if grid is not None:
                yield grid


def _variants(data: StudyData, quantity: Quantity, question: Trend) -> Iterator[tuple[Quantity, dict[str, Any]]]:
    """The quantity under each combination of choices, and these choices; the declared one first."""
    moment = quantity.moment
    if isinstance(moment, Crossing):
        thresholds = dict.fromkeys((moment.threshold, *(moment.threshold * factor for factor in THRESHOLDS)))
        ways = (True, False) if moment.direction == "below" else (moment.sustained,)
        for clock, threshold, sustained in product(_clocks(data, quantity, question), thresholds, ways):
            chosen = replace(moment, clock=clock, threshold=threshold, sustained=sustained)
            name = f"{quantity.name} {clock} {threshold:g} {sustained}"
            crossing = "last" if sustained and moment.direction == "below" else "first"
            choices = {"clock": clock, "threshold": threshold, "crossing": crossing}
            yield replace(quantity, name=name, moment=chosen), choices | {"declared": chosen == moment}
    elif isinstance(moment, Mean):
        fixed = moment.start is not None or moment.end is not None
        clocks = (moment.clock,) if fixed else _clocks(data, quantity, question)
        for clock, scale in product(clocks, dict.fromkeys((moment.scale, "log", "linear"))):
            chosen = replace(moment, clock=clock, scale=scale)
            choices = {"clock": clock, "scale": scale, "declared": chosen == moment}
            yield replace(quantity, name=f"{quantity.name} {clock} {scale}", moment=chosen), choices
    else:
        yield quantity, {"declared": True}


def _clocks(data: StudyData, quantity: Quantity, question: Trend) -> list[str]:
    """The clocks that were measured and change a slope: within one learning rate and batch size, tokens, steps and
    summed rate are proportional."""
    moment = quantity.moment
    assert isinstance(moment, Crossing | Mean)
    measured = [TOKENS, *wide_points(data, quantity.phase).columns]
    among = [moment.clock, *(clock for clock in CLOCKS if clock in measured and clock != moment.clock)]
    variants = [replace(quantity, name=clock, moment=replace(moment, clock=clock)) for clock in among]
    data = with_quantities(data, variants)
    kept: dict[str, Array] = {}
    for clock in among:
        found = estimated(data, replace(question, quantity=clock)).estimates
        slopes = found.values if found is not None else np.empty(0)
        # To a tenth of a percent: clocks are logged in single precision.
        if slopes.size and not any(np.allclose(slopes, other, rtol=1e-3, equal_nan=True) for other in kept.values()):
            kept[clock] = slopes
    return list(kept) or [moment.clock]


def _grid(data: StudyData, quantity: Quantity, question: Trend, choices: dict[str, Any]) -> _Grid | None:
    answer = estimated(data, replace(question, quantity=quantity.name))
    if answer.used.is_empty():
        return None
    table = cells(answer.used, [SEED, question.axis])
    sizes, seeds = (tuple(table[name].unique().sort()) for name in (question.axis, SEED))
    ends = []
    for end in ("low", "high"):
        values = np.full((len(seeds), len(sizes)), np.nan)
        for seed, size, value in table.select(SEED, question.axis, end).iter_rows():
            values[seeds.index(seed), sizes.index(size)] = np.nan if value is None else value
        ends.append(values)
    # A value known only from above has no place in a slope, as in the question's own estimate.
    ends[0][~np.isfinite(ends[0])] = np.nan
    x = np.array(sizes, dtype=float)
    declared = choices["declared"] and choices["span"] == WHOLE
    return _Grid(choices=choices | {"declared": declared}, x=np.log(x) if question.scale == "log" else x, sizes=sizes,
                 seeds=seeds, low=ends[0], high=ends[1])  # fmt: skip


def _left_out(grid: _Grid) -> Iterator[dict[str, Any]]:
    """Specifications of one grid, with the arrays that they use."""
    every = [(NOTHING, "", np.ones(len(grid.seeds), bool), np.ones(grid.x.size, bool))]
    if grid.x.size > 2:
        for i, size in enumerate(grid.sizes):
            every.append(("size", str(size), np.ones(len(grid.seeds), bool), np.arange(grid.x.size) != i))
    if len(grid.seeds) > 2:
        for i, seed in enumerate(grid.seeds):
            every.append(("seed", str(seed), np.arange(len(grid.seeds)) != i, np.ones(grid.x.size, bool)))
    for what, value, seeds, sizes in every:
        low, high = (ends[np.ix_(seeds, sizes)] for ends in (grid.low, grid.high))
        whole = np.isfinite(low).all(axis=1)
        yield {
            **grid.choices, "left_out": what, "left_out_value": value,
            "declared": grid.choices["declared"] and what == NOTHING,
            "x": grid.x[sizes], "bounds": (low[whole], high[whole]),
            "seeds": int(whole.sum()), "censored": int((low[whole] != high[whole]).sum()),
        }  # fmt: skip


def _estimate(rows: Sequence[dict[str, Any]]) -> None:
    """Adds estimate, low and high; rows of one shape are estimated together."""
    shapes: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        if row["seeds"] and row["x"].size > 1:
            shapes.setdefault((row["seeds"], tuple(row["x"])), []).append(row)
    for (seeds, x), alike in shapes.items():
        low, high = (np.stack([row["bounds"][end] for row in alike]) for end in (0, 1))
        if seeds == 1:
            found = _one_seed(np.array(x), low, high)
        else:
            found = slopes_over_seeds(np.array(x), low, high, chains=CHAINS)
        for row, *ends in zip(alike, *found, strict=True):
            row |= {
                name: float(end) if np.isfinite(end) else None
                for name, end in zip(("estimate", "low", "high"), ends, strict=True)
            }


def _one_seed(x: Array, low: Array, high: Array) -> tuple[Array, Array, Array]:
    """A slope without an interval, where nothing is censored."""
    away = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    slopes = np.where((low == high).all(axis=(1, 2)), (low @ away)[:, 0], np.nan)
    return slopes, np.full(slopes.size, np.nan), np.full(slopes.size, np.nan)
