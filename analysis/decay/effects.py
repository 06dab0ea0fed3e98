"""How does each varied axis change persistence? Paired contrasts against its reference value.

Pairs agree in size, seed and every other axis. Their differences are averaged within a seed, then Student-t over
seeds. The area under retention is always defined. Censored half-lives count by their bounds while few are censored
(analysis.stats.imputation); otherwise no ratio is given, but analysis.decay.survival has one. Payload and arm are not
single changes: documents, repetitions or the length of the trunk change with them.
"""

from __future__ import annotations

import math
import sys

import polars as pl

from analysis.decay.conditions import skill_measure
from analysis.decay.design import reference, setting_axes, value_label, value_text, values_of
from analysis.decay.retention import AREA, areas, half_lives
from analysis.decay.savings import over_seeds
from analysis.runs.study import StudyData
from analysis.stats.imputation import few_censored, mean_over_seeds
from analysis.stats.intervals import Interval

EFFECTS = {
    "axis": pl.String, "value": pl.String, "against": pl.String, "pairs": pl.Int64, "seeds": pl.Int64,
    "area": pl.Float64, "area_low": pl.Float64, "area_high": pl.Float64,
    "observed": pl.Int64, "ratio": pl.Float64, "ratio_low": pl.Float64, "ratio_high": pl.Float64,
}  # fmt: skip


CHANGES_DOSE = ("payload", "arm")
"""Axes that also change the dose; the report shows them next to the sizes, not as effects."""


def effects(data: StudyData, curves: pl.DataFrame, measure: str | None = None) -> pl.DataFrame:
    """One row per axis value other than the reference's, without CHANGES_DOSE, which is held at the reference.

    area: difference of mean retention over log time. ratio: of half-lives in tokens (sustained). Both by `measure`, by
    default that of `conditions.skill_measure`. `observed`: pairs without a censored half-life. The ratio uses all pairs
    while few seeds have a censored one; otherwise it is null.
    """
    axes, chosen, measure = setting_axes(data), reference(data), measure or skill_measure(data, curves)
    times = half_lives(curves, ("tokens",)).filter((pl.col("criterion") == measure) & (pl.col("clock") == "tokens"))
    trials = (
        data.trials.filter(pl.col("role") == "treatment")
        .join(areas(curves).select("trial", area=AREA[measure]), on="trial")
        .join(times.select("trial", *_log_bounds()), on="trial", how="left")
    )
    rows = []
    for name in (axis.name for axis in axes if axis.name in CHANGES_DOSE):  # as in the text about the reference
        trials = trials.filter(pl.col(name).eq_missing(pl.lit(chosen[name])))
    for axis in (axis for axis in axes if axis.name not in CHANGES_DOSE):
        on = ["size", "seed", *(other.name for other in axes if other.name != axis.name)]
        base = trials.filter(pl.col(axis.name) == chosen[axis.name]).select(*on, "area", "low", "high")
        for value in values_of(data, axis):
            if value == chosen[axis.name]:
                continue
            pairs = (
                trials.filter(pl.col(axis.name) == value)
                .join(base, on=on, suffix="_base", nulls_equal=True)
                .with_columns(
                    difference=pl.col("area") - pl.col("area_base"),
                    low=pl.col("low") - pl.col("high_base"),
                    high=pl.col("high") - pl.col("low_base"),
                )
            )
            if pairs.is_empty():
                continue
            area, ratio = over_seeds(pairs, "difference"), _log_ratio(pairs)
            rows.append([
                axis.label, value_label(axis, value), value_text(chosen[axis.name]),
                pairs.height, area.count if area else 0,
                *((area.estimate, area.low, area.high) if area else (None, None, None)),
                pairs.filter(pl.col("low") == pl.col("high")).height,
                *((_exp(ratio.estimate), _exp(ratio.low), _exp(ratio.high)) if ratio else (None, None, None)),
            ])  # fmt: skip
    return pl.DataFrame(rows, schema=EFFECTS, orient="row")


LARGEST = math.log(sys.float_info.max)


def _log_bounds() -> tuple[pl.Expr, pl.Expr]:
    """ln half-life: low = high if reached; the last evaluation and infinity if censored; else null."""
    reached, late = pl.col("kind") == "observed", pl.col("kind") == "censored"
    low = pl.when(reached).then(pl.col("estimate").log()).when(late).then(pl.col("low").log())
    return low.alias("low"), pl.when(late).then(float("inf")).when(reached).then(pl.col("estimate").log()).alias("high")


def _log_ratio(pairs: pl.DataFrame) -> Interval | None:
    """Mean ln ratio over sizes within each seed, where bounds add up, then over seeds. None if more than a few
    pairs are censored: the remaining pairs are the fast ones, selected by their result."""
    known = pairs.drop_nulls(["low", "high", "seed"])
    seeds = known.group_by("seed").agg(pl.col("low", "high").mean()).sort("seed")
    low, high = seeds["low"].to_numpy(), seeds["high"].to_numpy()
    if (low == high).all():
        return over_seeds(known, "low")
    return mean_over_seeds(low, high) if low.size > 1 and few_censored((low != high)[:, None]) else None


def _exp(value: float | None) -> float | None:
    """e to the value; infinity beyond the floats, as ends of intervals from two or three seeds can be."""
    if value is None:
        return None
    return math.exp(value) if value < LARGEST else math.inf
