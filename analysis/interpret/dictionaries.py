"""Dictionaries of a model's streams: how many features they need, and whether blocks share them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from analysis.runs.study import StudyData

PHASE, WRITTEN = "features", "written-features"
"""Of residual streams, and of what MLPs write"""
NAME = re.compile(r"(\d+)-([a-z]+\d+)(-shared)?-s(\d+)")
SHARED, OWN = "shared", "per block"
LEVELS = 101
MEANINGS = ("concept", "trigger", "effect")
OBSERVED = "observed"
Row = dict[str, Any]


def measures(data: StudyData, phase: str = PHASE) -> pl.DataFrame:
    """trial, task (a dictionary's name), latents, dictionary (shared | per block), measure, value."""
    points = data.points.filter(pl.col("phase") == phase)
    task, measure = (pl.col("name").str.split("/").list.get(place) for place in (0, 1))
    named = points.select("trial", "value", task=task, measure=measure).filter(
        pl.col("task").str.contains(f"^{NAME.pattern}$")
    )
    shared = pl.when(pl.col("task").str.contains("-shared-")).then(pl.lit(SHARED)).otherwise(pl.lit(OWN))
    latents = pl.col("task").str.extract(r"^(\d+)-").cast(pl.Int64)
    return named.with_columns(latents=latents, dictionary=shared)


def specificity(data: StudyData) -> pl.DataFrame:
    """trial, dictionary, latents, specificity: the mean over seeds of dictionaries."""
    found = measures(data).filter(pl.col("measure") == "specificity")
    by = ["trial", "dictionary", "latents"]
    return found.group_by(by, maintain_order=True).agg(specificity=pl.col("value").mean()).sort(by)


def needed(curves: dict[str, list[tuple[int, float]]]) -> dict[str, tuple[float, float]]:
    """The latents that each dictionary needs, from its (latents, specificity): the geometric mean over all levels of
    specificity that both reach, as (value, value). Where they reach none in common, the better one's fewest, and bounds
    of the other's: (its most, infinity)."""
    counts, levels = {}, {}
    for name, curve in curves.items():
        ordered = sorted(curve)
        counts[name] = np.log([count for count, _ in ordered])
        levels[name] = np.maximum.accumulate([level for _, level in ordered])
    first = max(own[0] for own in levels.values())
    last = min(own[-1] for own in levels.values())
    if first < last:
        grid = np.linspace(first, last, LEVELS)
        means = {name: math.exp(_inverse(grid, levels[name], counts[name]).mean()) for name in curves}
        return {name: (mean, mean) for name, mean in means.items()}
    better = max(levels, key=lambda name: levels[name][0])
    ends = {name: (math.exp(counts[name][-1]), math.inf) for name in curves}
    fewest = math.exp(counts[better][0])
    return ends | {better: (fewest, fewest)}


def _inverse(grid: np.ndarray, levels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The fewest (in logarithms) that reach each level, by straight lines; `levels` never fall."""
    rising = np.concatenate([[True], np.diff(levels) > 0])
    return np.interp(grid, levels[rising], counts[rising])


def features_needed(data: StudyData) -> Iterator[Row]:
    """Of trials with dictionaries of several widths of both kinds."""
    table = specificity(data)
    for (trial,), part in table.group_by(["trial"], maintain_order=True):
        curves = {
            str(name): list(own.select("latents", "specificity").iter_rows())
            for (name,), own in part.drop_nulls().group_by(["dictionary"], maintain_order=True)
        }
        if set(curves) != {SHARED, OWN} or min(map(len, curves.values())) < 2:
            continue
        for name, (low, high) in needed(curves).items():
            row = {"trial": trial, "dictionary": name, "low": low, "high": high}
            yield row | ({"value": low} if low == high else {})


def sharing(data: StudyData) -> Iterator[Row]:
    """Shared over per block; of two bounds there is no ratio, and none has two."""
    found: dict[str, dict[str, Row]] = {}
    for row in features_needed(data):
        found.setdefault(row["trial"], {})[row["dictionary"]] = row
    for trial, rows in found.items():
        low = rows[SHARED]["low"] / rows[OWN]["high"]
        high = rows[SHARED]["high"] / rows[OWN]["low"]
        yield {"trial": trial, "low": low, "high": high} | ({"value": low} if low == high else {})


def agreement(data: StudyData) -> Iterator[Row]:
    """Of the first dictionary that is followed over blocks."""
    for meaning in MEANINGS:
        for row in _against(data, f"same_{meaning}", ("permuted",)):
            yield {**row, "meaning": meaning}


def persistence(data: StudyData, phase: str = PHASE) -> Iterator[Row]:
    yield from _against(data, "persistence", ("permuted", "random"), phase)


def _against(data: StudyData, measure: str, nulls: tuple[str, ...], phase: str = PHASE) -> Iterator[Row]:
    """A measure and its nulls, by trial."""
    names = {measure: OBSERVED} | {f"{measure}_{null}": null for null in nulls}
    found = measures(data, phase).filter(pl.col("measure").is_in(list(names)))
    for trial, name, value in (
        found.unique(["trial", "measure"], keep="first", maintain_order=True)
        .select("trial", "measure", "value")
        .iter_rows()
    ):
        yield {"trial": trial, "latents": names[name], "value": value, "low": value, "high": value}
