"""Several triggers from a file: how many are trained and how many held out, and the success of each."""

from __future__ import annotations

import re
from typing import Any

import polars as pl

from analysis.decay.design import described
from analysis.report.tables import page_table
from analysis.runs.study import StudyData
from analysis.stats.format import plural
from analysis.stats.intervals import binomial_interval
from halflife.tracking.schema import HITS, TRIALS, Outcome

MOMENTS = ("at the drop", "at the end")


def triggers_section(data: StudyData) -> dict[str, Any] | None:
    """Of treatments at the reference setting, the prompts of all seeds pooled; None without a file of triggers."""
    if not data.declaration.settings.get("triggers") or data.points.is_empty():
        return None
    rows = described(data).filter((pl.col("role") == "treatment") & pl.col("is_reference"))
    points = data.points.join(rows.select("trial", "size", "parameters"), on="trial").sort("parameters", "step")
    found, counts, before = list[dict[str, Any]](), list[str](), 0
    for outcome in data.declaration.outcomes:
        name = pl.col("name").str
        own = points.filter(
            pl.col("phase") == outcome.phase,
            name.starts_with(f"{outcome.task}/") | name.starts_with(f"{outcome.task}-trigger-"),
        )
        members = _members(own, outcome)
        for (size,), part in own.group_by(["size"], maintain_order=True):
            every = plural(members, "trigger")
            found.append({"measures": outcome.label, "size": size, "trigger": every, **_success(part, outcome.task)})
            for number in range(1, members + 1) if members > 1 else ():
                success = _success(part, f"{outcome.task}-trigger-{number}")
                line = f"number {before + number} of the file"
                found.append({"measures": outcome.label, "size": size, "trigger": line, **success})
        if own.height:
            counts.append(f"{outcome.label}: {plural(members, 'trigger')}")
            before += members
    return {"counts": counts, "table": page_table(pl.DataFrame(found), shown=None)} if found else None


def _members(points: pl.DataFrame, outcome: Outcome) -> int:
    """One trigger alone has no counts of its own."""
    pattern = re.compile(rf"{re.escape(outcome.task)}-trigger-(\d+)/{HITS}")
    return max((int(match[1]) for name in points["name"].unique() if (match := pattern.fullmatch(name))), default=1)


def _success(points: pl.DataFrame, task: str) -> dict[str, str | None]:
    """ "0.92 [0.86, 0.95]" at each moment"""
    found = dict[str, str | None]()
    first, last = pl.col("step") == 0, pl.col("step") == pl.col("step").max().over("trial", "name")
    for moment, at in zip(MOMENTS, (first, last), strict=True):
        there = points.filter(at)
        counted = (there.filter(pl.col("name") == f"{task}/{name}")["value"].to_numpy() for name in (HITS, TRIALS))
        hits, trials = (float(each.sum()) for each in counted)
        low, high = (float(end) for end in binomial_interval(hits, trials))
        found[moment] = f"{hits / trials:.2f} [{low:.2f}, {high:.2f}]" if trials else None
    return found
