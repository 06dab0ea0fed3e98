"""What the declared outcomes after the first say: the same analysis, told in brief.

A study may measure several things of the same runs: held-out items, memorised ones, a forced choice. Each is analysed
as if it were declared first (design.leading); the first alone has the figures and the laws.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from analysis.decay.design import leading
from analysis.decay.effects import effects
from analysis.decay.floors import floor_summary, floors
from analysis.decay.numbers import size_summary
from analysis.decay.retention import main_measure, retention_curves
from analysis.decay.survival import TimeRatios, study_time_ratios
from analysis.errors import UserError
from analysis.report.sentences.decay import outcome_answer
from analysis.runs.study import StudyData
from halflife.tracking.schema import Outcome


@dataclass(frozen=True, kw_only=True)
class Brief:
    """One further outcome."""

    outcome: Outcome
    data: StudyData
    """The sweep with this outcome declared first."""
    measure: str
    """logprob | success: by which effects, ratios and mean retention are told."""
    sentences: list[str]
    sizes: pl.DataFrame
    """`numbers.size_summary` at the reference, with floor, floor_low, floor_high, settled, unsettled and chance."""
    effects: pl.DataFrame
    """`effects.effects`."""
    ratios: TimeRatios | None
    """Of all runs; None where too few half-lives were seen, or nothing varies."""


def further(data: StudyData) -> list[Brief]:
    """Every declared outcome but the first, in the declared order; those that were never measured are left out."""
    briefs = []
    for outcome in data.declaration.outcomes[1:]:
        view = leading(data, outcome)
        curves = retention_curves(view)
        if curves["hits"].null_count() == curves.height and curves["logprob"].null_count() == curves.height:
            continue
        measure = main_measure(curves)
        try:
            ratios = study_time_ratios(view, criterion=measure)
        except UserError:
            ratios = None
        briefs.append(
            Brief(
                outcome=outcome, data=view, measure=measure, sentences=outcome_answer(view, curves),
                sizes=_sizes(curves, measure), effects=effects(view, curves), ratios=ratios,
            )
        )  # fmt: skip
    return briefs


def _sizes(curves: pl.DataFrame, measure: str) -> pl.DataFrame:
    main = curves.filter((pl.col("role") == "treatment") & pl.col("is_reference"))
    chance = main.group_by("size").agg(pl.col("chance").mean())
    settled = floor_summary(floors(main).filter(pl.col("measure") == measure), by=("size",)).select(
        "size", "floor", "settled", "unsettled", floor_low="low", floor_high="high"
    )
    return size_summary(curves).join(chance, on="size", how="left").join(settled, on="size", how="left")


def tables(briefs: list[Brief]) -> dict[str, pl.DataFrame]:
    """What the briefs hold as tables by name, with the outcome as first column; those without rows left out."""
    frames = {
        "outcomes": [(brief, brief.sizes) for brief in briefs],
        "outcome_effects": [(brief, brief.effects) for brief in briefs],
        "outcome_time_ratios": [(brief, brief.ratios.effects) for brief in briefs if brief.ratios],
    }
    found = {
        name: pl.concat([frame.select(pl.lit(brief.outcome.name).alias("outcome"), pl.all()) for brief, frame in parts],
                        how="diagonal")
        for name, parts in frames.items() if parts
    }  # fmt: skip
    return {name: frame for name, frame in found.items() if not frame.is_empty()}
