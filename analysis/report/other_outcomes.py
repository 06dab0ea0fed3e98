"""A short analysis of every declared outcome but the first.

A study may measure several outcomes on the same runs: held-out items, memorised items, a forced choice. Each is
analysed as if it were declared first (design.leading); only the first has figures and laws.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from analysis.decay.conditions import skill_measure
from analysis.decay.design import decaying, leading
from analysis.decay.effects import effects
from analysis.decay.floors import floor_summary, floors
from analysis.decay.numbers import size_summary
from analysis.decay.retention import retention_curves
from analysis.decay.survival import TimeRatios, study_time_ratios
from analysis.errors import UserError
from analysis.runs.study import StudyData
from halflife.tracking.schema import Outcome


@dataclass(frozen=True, kw_only=True)
class OutcomeSummary:
    """The analysis of one outcome."""

    outcome: Outcome
    data: StudyData
    """The sweep with this outcome declared first."""
    measure: str
    """logprob | success: the measure of effects, ratios and mean retention."""
    sizes: pl.DataFrame
    """`numbers.size_summary` at the reference, with floor, floor_low, floor_high, settled, unsettled and chance."""
    effects: pl.DataFrame
    """`effects.effects`."""
    ratios: TimeRatios | None
    """Over all runs; None if too few half-lives were observed, or nothing varies."""


def summaries(data: StudyData) -> list[OutcomeSummary]:
    """Every declared outcome but the first, in the declared order, without those that were never measured."""
    found = []
    for outcome in decaying(data)[1:]:
        view = leading(data, outcome)
        curves = retention_curves(view)
        if curves["hits"].null_count() == curves.height and curves["logprob"].null_count() == curves.height:
            continue
        measure = skill_measure(view, curves)
        try:
            ratios = study_time_ratios(view, criterion=measure)
        except UserError:
            ratios = None
        found.append(
            OutcomeSummary(
                outcome=outcome, data=view, measure=measure, sizes=_sizes(curves, measure),
                effects=effects(view, curves), ratios=ratios,
            )
        )  # fmt: skip
    return found


def _sizes(curves: pl.DataFrame, measure: str) -> pl.DataFrame:
    main = curves.filter((pl.col("role") == "treatment") & pl.col("is_reference"))
    chance = main.group_by("size").agg(pl.col("chance").mean())
    settled = floor_summary(floors(main).filter(pl.col("measure") == measure), by=("size",)).select(
        "size", "floor", "settled", "unsettled", floor_low="low", floor_high="high"
    )
    return size_summary(curves, measure).join(chance, on="size", how="left").join(settled, on="size", how="left")


def outcome_tables(outcomes: list[OutcomeSummary]) -> dict[str, pl.DataFrame]:
    """The tables of all outcomes by name, with the outcome as first column; empty ones are left out."""
    frames = {
        "outcomes": [(own, own.sizes) for own in outcomes],
        "outcome_effects": [(own, own.effects) for own in outcomes],
        "outcome_time_ratios": [(own, own.ratios.effects) for own in outcomes if own.ratios],
    }
    found = {
        name: pl.concat([frame.select(pl.lit(own.outcome.name).alias("outcome"), pl.all()) for own, frame in parts],
                        how="diagonal")
        for name, parts in frames.items() if parts
    }  # fmt: skip
    return {name: frame for name, frame in found.items() if not frame.is_empty()}
