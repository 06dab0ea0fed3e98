"""The check of models that are pretrained with a dictionary: their streams have not collapsed to one constant."""

from __future__ import annotations

import polars as pl

from analysis.checks import remedies
from analysis.checks.check import Check
from analysis.runs.study import StudyData
from analysis.stats.format import plural

COSINE, ALIVE = 0.99, 0.1
"""A model lowers a dictionary's loss without learning anything when it adds one huge vector to all its streams: then
neighbouring sites are alike, and almost no latent fires."""
MEASURES = ("adjacent_cosine", "alive")


def dictionary_checks(data: StudyData) -> list[Check]:
    """Of every companion that logs both measures, at the last point of each trial."""
    named = data.points.with_columns(task=pl.col("name").str.split("/").list.first()).filter(
        pl.col("name").is_in([f"{task}/{measure}" for task in _companions(data) for measure in MEASURES])
    )
    if named.is_empty():
        return []
    last = named.sort("step").group_by("trial", "phase", "task", "name").agg(pl.col("value").last())
    rows = last.with_columns(pl.col("name").str.split("/").list.last()).pivot(
        on="name", index=["trial", "phase", "task"], values="value"
    )
    collapsed = rows.filter((pl.col("adjacent_cosine") > COSINE) & (pl.col("alive") < ALIVE)).sort("trial")
    found = ", ".join(
        f"{trial}: cosine {cosine:.3f}, {alive:.0%} alive"
        for trial, cosine, alive in collapsed.select("trial", *MEASURES).iter_rows()
    )
    weaker = remedies.flags(data, "dose", "rate", by=0.5, otherwise="half the strength of its loss, or half its rate")
    return [
        Check(
            name="Streams beside a dictionary have not collapsed", required=True, passed=not found,
            expected=f"a mean cosine of neighbouring sites of at most {COSINE:g}, or {ALIVE:.0%} of the latents alive",
            found=found or plural(rows.height, "run"),
            remedy=f"a weaker dictionary beside the model: {weaker}",
        )
    ]  # fmt: skip


def _companions(data: StudyData) -> list[str]:
    names = set(data.points["name"].unique())
    tasks = {name.split("/")[0] for name in names if name.endswith(f"/{MEASURES[0]}")}
    return sorted(task for task in tasks if f"{task}/{MEASURES[1]}" in names)
