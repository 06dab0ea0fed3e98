"""What a study's general figures are about: its leading trend over size, its times, its first quantities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from analysis.answers.questions import SEED
from analysis.decay.design import reference
from analysis.runs.study import StudyData
from halflife.tracking.questions import DERIVED, Against, Crossing, Quantity, Trend
from halflife.tracking.schema import HITS, LOGPROB

SIZE = "parameters"


def half_life(data: StudyData) -> Quantity | None:
    """The half-life of the first outcome's log-probability, or of its success where that was not measured, declared or
    not; None without a never-exposed control."""
    outcome = next(iter(data.declaration.outcomes), None)
    if outcome is None or not (data.trials["role"] == "absent").any():
        return None
    smooth = (data.points["name"] == f"{outcome.task}/{LOGPROB}").any()
    measure = f"{outcome.phase}/{outcome.task}/{LOGPROB if smooth else HITS}"
    moment, against = Crossing(threshold=0.5), Against(role="absent", how="retention")
    for quantity in data.declaration.quantities:
        if (quantity.measure, quantity.moment, quantity.against) == (measure, moment, against):
            return quantity
    return Quantity(name="half_life", label=f"the {outcome.skill}'s half-life", measure=measure, moment=moment,
                    transform="log", unit="tokens", chance=outcome.chance, against=against)  # fmt: skip


def times(data: StudyData) -> list[Quantity]:
    """Declared times to cross a threshold, those of questions first; the half-life where none is declared."""
    asked = [name for question in data.declaration.questions for name in question.quantities]
    found = [quantity for quantity in data.declaration.quantities if isinstance(quantity.moment, Crossing)]
    found.sort(key=lambda quantity: asked.index(quantity.name) if quantity.name in asked else len(asked))
    usual = half_life(data)
    return found or ([usual] if usual else [])


def quantities(data: StudyData) -> list[Quantity]:
    """Those of questions that have one number per trial, primary ones first; the half-life where there are none."""
    declared = {
        quantity.name: quantity for quantity in data.declaration.quantities
        if not (quantity.derived and DERIVED[quantity.derived].items)
    }  # fmt: skip
    ordered = sorted(data.declaration.questions, key=lambda question: not question.primary)
    names = dict.fromkeys(name for question in ordered for name in question.quantities if name in declared)
    usual = half_life(data)
    return [declared[name] for name in names] or ([usual] if usual else [])


def leading_trend(data: StudyData) -> tuple[Quantity, Trend] | None:
    """The first primary trend over size, else the first trend over size, else that of the half-life at the reference
    setting; None where there are not two sizes."""
    declared = {quantity.name: quantity for quantity in data.declaration.quantities}
    trends = [
        question for question in data.declaration.questions
        if isinstance(question, Trend) and question.axis == SIZE and question.quantity in declared
    ]  # fmt: skip
    for question in sorted(trends, key=lambda question: not question.primary):
        return declared[question.quantity], question
    usual, sizes = half_life(data), data.trials[SIZE].n_unique() if SIZE in data.trials.columns else 0
    if usual is None or sizes < 2:
        return None
    return usual, at_setting(usual, reference(data))


def at_setting(quantity: Quantity, where: dict[str, Any]) -> Trend:
    """The trend over size at a setting."""
    return Trend(name=f"{quantity.name} by size", label="", quantity=quantity.name, axis=SIZE, where=where)


def with_quantities(data: StudyData, asked: Sequence[Quantity]) -> StudyData:
    """`data` that declares these quantities and no others, without pilot seeds."""
    trials, pilots = data.trials, data.declaration.pilot_seeds
    if pilots and SEED in trials.columns:
        trials = trials.filter(~pl.col(SEED).is_in(pilots))
    return replace(data, trials=trials, declaration=replace(data.declaration, quantities=tuple(asked), questions=()))
