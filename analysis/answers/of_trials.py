"""One number per trial of what a study asks about, for the page of its runs in MLflow."""

from __future__ import annotations

import math

import polars as pl

from analysis.answers.quantities import values
from analysis.runs.study import StudyData
from halflife.tracking import schema
from halflife.tracking.questions import DERIVED


def trial_numbers(data: StudyData) -> dict[str, dict[str, float]]:
    """By trial: each declared quantity that has one number per trial, in its own unit, and success when the leading
    outcome was first measured. What is censored or missing is left out."""
    found: dict[str, dict[str, float]] = {trial: {} for trial in data.trials["trial"]}
    for trial, share in _at_the_drop(data).rows():
        found[trial][schema.AT_THE_DROP] = share
    for quantity in data.declaration.quantities:
        if quantity.derived and DERIVED[quantity.derived].items:
            continue
        for trial, value in values(data, quantity).select("trial", "value").drop_nulls().rows():
            found[trial][quantity.name] = math.exp(value) if quantity.transform == "log" else value
    return {trial: numbers for trial, numbers in found.items() if numbers}


def _at_the_drop(data: StudyData) -> pl.DataFrame:
    """Columns trial and success, of the trials in which the leading outcome was counted."""
    empty = pl.DataFrame(schema={"trial": pl.String, "success": pl.Float64})
    if not data.declaration.outcomes:
        return empty
    outcome = data.declaration.outcomes[0]
    counts = {name: f"{outcome.task}/{name}" for name in (schema.HITS, schema.TRIALS)}
    points = data.points.filter((pl.col("phase") == outcome.phase) & pl.col("name").is_in(list(counts.values())))
    first = points.filter(pl.col("step") == pl.col("step").min().over("trial"))
    wide = first.pivot("name", index="trial", values="value")
    if not set(counts.values()) <= set(wide.columns):
        return empty
    return wide.select("trial", success=pl.col(counts[schema.HITS]) / pl.col(counts[schema.TRIALS])).drop_nulls()
