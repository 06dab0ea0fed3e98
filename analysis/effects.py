"""What does each thing that was varied do to persistence? Paired contrasts against its reference value.

Pairs agree in size, seed and every other axis. Their differences are averaged within a seed, then Student-t over
seeds. The area under retention is always defined; half-lives only where both of a pair were reached.
Payload and arm are no single change: with them documents, repetitions or the length of the trunk change too.
"""

from __future__ import annotations

import math

import polars as pl

from analysis.design import reference, setting_axes, value_label, value_text, values_of
from analysis.load import StudyData
from analysis.retention import areas, half_lives
from analysis.savings import over_seeds

EFFECTS = {
    "axis": pl.String, "value": pl.String, "against": pl.String, "pairs": pl.Int64, "seeds": pl.Int64,
    "area": pl.Float64, "area_low": pl.Float64, "area_high": pl.Float64,
    "observed": pl.Int64, "ratio": pl.Float64, "ratio_low": pl.Float64, "ratio_high": pl.Float64,
}  # fmt: skip


DOSE_TOO = ("payload", "arm")
"""Axes that change the dose as well; the report shows them beside the sizes, not as effects."""


def effects(data: StudyData, curves: pl.DataFrame) -> pl.DataFrame:
    """One row per axis value other than the reference's, DOSE_TOO left out.

    area: difference of mean retention over log time. ratio: of half-lives in tokens (log-probability, sustained),
    over the `observed` of the `pairs` of which neither is censored.
    """
    axes, chosen = setting_axes(data), reference(data)
    times = half_lives(curves).filter((pl.col("criterion") == "logprob") & (pl.col("clock") == "tokens"))
    trials = (
        data.trials.filter(pl.col("role") == "treatment")
        .join(areas(curves).select("trial", "area"), on="trial")
        .join(times.select("trial", pl.col("estimate").alias("half_life")), on="trial", how="left")
    )
    rows = []
    for axis in (axis for axis in axes if axis.name not in DOSE_TOO):
        on = ["size", "seed", *(other.name for other in axes if other.name != axis.name)]
        base = trials.filter(pl.col(axis.name) == chosen[axis.name]).select(*on, "area", "half_life")
        for value in values_of(data, axis):
            if value == chosen[axis.name]:
                continue
            pairs = (
                trials.filter(pl.col(axis.name) == value)
                .join(base, on=on, suffix="_base", nulls_equal=True)
                .with_columns(
                    difference=pl.col("area") - pl.col("area_base"),
                    log_ratio=pl.col("half_life").log() - pl.col("half_life_base").log(),
                )
            )
            if pairs.is_empty():
                continue
            area, ratio = over_seeds(pairs, "difference"), over_seeds(pairs, "log_ratio")
            rows.append([
                axis.label, value_label(axis, value), value_text(chosen[axis.name]),
                pairs.height, area.count if area else 0,
                *((area.estimate, area.low, area.high) if area else (None, None, None)),
                pairs.drop_nulls("log_ratio").height,
                *((_exp(ratio.estimate), _exp(ratio.low), _exp(ratio.high)) if ratio else (None, None, None)),
            ])  # fmt: skip
    return pl.DataFrame(rows, schema=EFFECTS, orient="row")


def _exp(value: float | None) -> float | None:
    return None if value is None else math.exp(value)
