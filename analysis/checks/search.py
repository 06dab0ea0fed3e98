"""The check of a search: the best settings keep its constraints on seeds that it never saw."""

from __future__ import annotations

import polars as pl

from analysis.checks.check import Check
from analysis.decay.search import within
from analysis.runs.study import StudyData
from analysis.stats.format import plural
from halflife.tracking import schema


def search_checks(data: StudyData) -> list[Check]:
    """Of every setting that was evaluated on fresh seeds and every declared constraint: on the few seeds of the search
    it may have met a constraint by chance."""
    limits, trials = data.declaration.constraints, data.trials
    if not limits or schema.SUGGESTION not in trials.columns:
        return []
    fresh = trials.filter(pl.col("role") == schema.ROLE_HELD_OUT).drop_nulls(schema.SUGGESTION)
    if fresh.is_empty():
        return []
    values = {
        (name, trial): value
        for name, trial, value in data.points.filter(pl.col("phase") == schema.CONSTRAINT_PHASE)
        .select("name", "trial", "value")
        .iter_rows()
    }
    violated = []
    for (suggestion,), part in fresh.group_by([schema.SUGGESTION], maintain_order=True):
        for limit in limits:
            met = [within(limit, values.get((limit.name, trial))) for trial in part["trial"]]
            if not all(met):
                seeds = plural(len(met), "fresh seed")
                violated.append(f"setting {suggestion} has {limit.text} on {sum(met)} of {seeds}")
    settings = plural(fresh[schema.SUGGESTION].n_unique(), "setting")
    return [
        Check(
            name="Constraints hold on fresh seeds",
            expected=f"{' and '.join(limit.text for limit in limits)}, on every fresh seed",
            found="; ".join(violated) or f"so in {settings}",
            passed=not violated,
            remedy="a setting that violates a constraint is no answer: take the next best one, or search on more seeds "
            "(--seeds)",
        )
    ]  # fmt: skip
