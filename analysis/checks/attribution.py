"""The check of attributions: single features that were moved on purpose are found."""

from __future__ import annotations

import polars as pl

from analysis.checks import remedies
from analysis.checks.check import Check
from analysis.runs.study import StudyData

FOUND = 0.9
"""Share of the planted features that must be ranked first"""
NAME = r"^planted\.[a-z]+/first$"


def attribution_checks(data: StudyData) -> list[Check]:
    """The positive control: without it, low scores could be those of a method that finds nothing."""
    planted = data.points.filter(pl.col("name").str.contains(NAME))
    if planted.is_empty():
        return []
    worst = planted.sort("value").row(0, named=True)
    way = worst["name"].removeprefix("planted.").removesuffix("/first")
    longer = remedies.flags(data, "steps", by=2.0, otherwise="a longer fit of the dictionary")
    return [
        Check(
            name="Planted features are found", required=True, passed=worst["value"] >= FOUND,
            expected=f"of features that are moved alone, at least {FOUND:.0%} are ranked first",
            found=f"at the least {worst['value']:.0%} ({way})",
            remedy=f"dictionaries whose features differ more: {longer}, or fewer latents",
        )
    ]  # fmt: skip
