"""How much behaviours take in tokens, numbers and bits, and the search for the smallest k.

One token has as many numbers as the model is wide, so k is not comparable between models. Comparable at any width are
the bits that a prompt can be quantised to, and the fewest numbers that suffice in random directions through the
initialisation (Li et al., arXiv 1804.08838).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from analysis.prompts import elicitation, information
from analysis.runs.study import StudyData
from analysis.stats.intervals import Median, median_interval

BITS, SUBSPACES, SEARCH = "bits", "subspaces", "search"
"""Phases."""
AMOUNTS = {
    "tokens": "tokens (C)", "numbers": "numbers (C × width)", "bits": "bits",
    "directions": "numbers in random directions",
}  # fmt: skip
INDEX = ("trial", "phase", "task", "behaviour", "model", "series", "seed", "k", "restart", "numbers")


def matched_loss(data: StudyData) -> float | None:
    """The loss that the study requires of every behaviour, in nats per token; None if each has half of its own gap."""
    settings = data.declaration.settings
    return settings.get("matched_loss", settings.get("matched"))  # the name in runs published by 0.1


def quantised(data: StudyData) -> pl.DataFrame:
    """Input of `information.bits_table`: one row per prompt and bits per number, with the behaviour's threshold; empty
    if no prompt was quantised."""
    return _scored(data, BITS, r"^loss_(\d+)bits$", "bits")


def in_subspaces(data: StudyData) -> pl.DataFrame:
    """One row per prompt fitted in a subspace: INDEX, `directions` (its dimension), `score`, `threshold`."""
    return _scored(data, SUBSPACES, r"^loss_(\d+)numbers$", "directions")


def _scored(data: StudyData, phase: str, pattern: str, name: str) -> pl.DataFrame:
    found = elicitation.declared_points(data, elicitation.MODELS, (phase,))
    kept = [column for column in found.columns if column.startswith("loss_")]
    if not kept:
        return pl.DataFrame()
    prompts = elicitation.with_threshold(elicitation.runs(data), matched_loss(data))
    thresholds = prompts.select("behaviour", "series", "seed", "threshold").unique()
    return (
        found.unpivot(kept, index=list(INDEX), variable_name=name, value_name="score")
        .drop_nulls("score")
        .with_columns(pl.col(name).str.extract(pattern).cast(pl.Float64))
        .join(thresholds, on=["behaviour", "series", "seed"], maintain_order="left")
        .drop_nulls("threshold")
    )


def directions_table(fitted: pl.DataFrame) -> pl.DataFrame:
    """The fewest numbers in random directions that reach the threshold: one row per behaviour, model and series, the
    median over seeds with its interval, inf if none did; `last`: the most evaluated. `fitted`: see `in_subspaces`."""
    rows = []
    if fitted.is_empty():
        return fitted
    for (behaviour, model, series), part in fitted.group_by(["behaviour", "model", "series"], maintain_order=True):
        reached = pl.when(pl.col("score") <= pl.col("threshold")).then("directions").otherwise(pl.lit(np.inf))
        least = part.group_by("seed").agg(reached.min().alias("least"))["least"]
        row = {"behaviour": behaviour, "model": model, "series": series, "directions": None}
        row |= _columns(median_interval(least), "directions")
        rows.append(row | {"last": float(part["directions"].to_numpy().max())})
    return pl.DataFrame(rows, infer_schema_length=None)


def _columns(found: Median, name: str) -> dict[str, Any]:
    return {
        name: found.estimate, "low": found.low, "high": found.high, "coverage": found.coverage,
        "reached": found.reached, "seeds": found.count,
    }  # fmt: skip


def searched(data: StudyData) -> pl.DataFrame:
    """C to one token by doubling and bisection, one row per trial, behaviour, model, series and seed: `c` (infinite if
    the largest k does not reach it), the `prompt_steps` of the search, `tried` lengths. Empty without a search."""
    threshold = matched_loss(data)
    if threshold is None or not (data.points["phase"] == SEARCH).any():
        return pl.DataFrame()
    lengths = {f"k{k}": {"k": k} for k in range(max(data.declaration.settings["tokens"]) + 1)}
    declared = replace(data, declaration=replace(data.declaration, prompts=lengths))
    steps = data.points.filter(pl.col("phase") == SEARCH).group_by("trial").agg(prompt_steps=pl.col("step").max())
    return (
        elicitation.declared_points(declared, elicitation.MODELS, (SEARCH,))
        .join(steps, on="trial", maintain_order="left")
        .group_by("trial", "behaviour", "model", "series", "seed", maintain_order=True)
        .agg(
            c=pl.when(pl.col("loss") <= threshold).then(pl.col("k").cast(pl.Float64)).otherwise(pl.lit(np.inf)).min(),
            prompt_steps=pl.col("prompt_steps").first(),
            tried=pl.len(),
        )
    )


def search_table(found: pl.DataFrame, settings: Mapping[str, Any]) -> pl.DataFrame:
    """Medians over seeds of `searched`, with their intervals; `of_full_grid`: prompt steps as a share of those for
    every k up to the largest, with as many restarts."""
    if found.is_empty():
        return found
    full, rows = max(settings["tokens"]) * settings["restarts"] * settings["steps"], []
    for (behaviour, model, series), part in found.group_by(["behaviour", "model", "series"], maintain_order=True):
        row = {"behaviour": behaviour, "model": model, "series": series} | _columns(median_interval(part["c"]), "c")
        share = float(np.median(part["prompt_steps"].to_numpy())) / full
        rows.append(row | {"tried": float(np.median(part["tried"].to_numpy())), "of_full_grid": share})
    return pl.DataFrame(rows, infer_schema_length=None)


def compared(data: StudyData) -> pl.DataFrame:
    """One row per amount, behaviour and size, for the models that have the behaviour: `estimate` (median over seeds),
    `low`, `high`, `reached`, `seeds`; infinite if not reached; `last`: the most evaluated. Empty if neither bits nor
    directions were measured."""
    rounded, fitted = quantised(data), in_subspaces(data)
    bits, few = bits_table(rounded), directions_table(fitted)
    rows = [frame for frame in (rounded, fitted) if frame.height]
    if bits.is_empty() and few.is_empty():
        return pl.DataFrame()
    prompts = elicitation.runs(data).filter(pl.col("model") == "present")
    taken = information.distance_table(prompts, "loss", matched_loss(data))
    if taken.is_empty():
        return pl.DataFrame()
    by, width = ["behaviour", "series"], (pl.col("numbers") / pl.col("k")).median()
    widths = pl.concat([frame.select(*by, "numbers", "k") for frame in rows]).group_by(by).agg(width=width)
    taken = taken.drop_nulls("c").drop("numbers")
    tokens = taken.join(widths, on=by, maintain_order="left").rename({"c": "estimate"})
    tokens = tokens.with_columns(low="c_low", high="c_high", last=pl.col("last_k").cast(pl.Float64))
    scale = {name: pl.col(name) * pl.col("width") for name in ("estimate", "low", "high", "last")}
    parts = {"tokens": tokens, "numbers": tokens.with_columns(**scale)}
    measured = tokens.select(by)
    for name, frame in (("bits", bits), ("directions", few)):
        if frame.height:
            parts[name] = frame.filter(pl.col("model") == "present").rename({name: "estimate"})
            measured = parts[name].select(by)
    columns = [*by, "estimate", "low", "high", "reached", "seeds", "last"]
    return pl.concat(
        [
            frame.join(measured, on=by, how="semi", maintain_order="left").select(
                pl.lit(name).alias("amount"), *columns
            )
            for name, frame in parts.items()
        ],
        how="vertical_relaxed",
    )


def bits_table(found: pl.DataFrame) -> pl.DataFrame:
    """`information.bits_table` of the output of `quantised`; `last`: the most bits evaluated."""
    if found.is_empty():
        return found
    by = ["behaviour", "model", "series"]
    most = found.group_by(by).agg(last=(pl.col("bits") * pl.col("numbers")).max())
    return information.bits_table(found).join(most, on=by, maintain_order="left")
