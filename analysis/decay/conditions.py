"""Conditions: the settings of a sweep over families, with labels and in the order that figures use."""

from __future__ import annotations

from typing import Any

import polars as pl

from analysis.decay.design import described, reference, setting_axes, setting_label, values_of
from analysis.decay.retention import main_measure
from analysis.runs.study import StudyData

FAMILY = "family"
DROPPED = "subject"
"""Parameter: the names of the dropped languages, joined by "+"."""
ARM, STRENGTH = "arm", "equal-strength"
NULL = "answers shuffled"
MEASURE = "success"
"""The primary measure of a language's skill: its answers are right or wrong. A language is so unlikely to a model that
never saw it that half of the log-probability's gap may be left when no answer is right any more."""


def is_family_study(data: StudyData) -> bool:
    return any(axis.name == FAMILY for axis in data.declaration.axes) and FAMILY in data.trials.columns


def skill_measure(data: StudyData, curves: pl.DataFrame) -> str:
    """MEASURE in a study of families, otherwise `retention.main_measure`."""
    return MEASURE if is_family_study(data) else main_measure(curves)


def families(data: StudyData) -> list[Any]:
    """The families among treatments, in the declared order; one with an empty name if there is no such axis."""
    axis = next((axis for axis in data.declaration.axes if axis.name == FAMILY), None)
    return values_of(data, axis) if axis and FAMILY in data.trials.columns else [""]


def conditions(data: StudyData) -> pl.DataFrame:
    """`described` trials with family, condition (its label: the family and how the trial differs from the reference),
    plain (it does not differ) and place (rank of the condition: by family, plain ones first).

    The null control is a condition of its own. Other controls have no place. Computed once per `data`.
    """
    if "conditions" not in data.derived:
        data.derived["conditions"] = _conditions(data)
    return data.derived["conditions"]


def _conditions(data: StudyData) -> pl.DataFrame:
    chosen = reference(data)
    others = tuple(axis for axis in setting_axes(data) if axis.name != FAMILY)
    frame, order = described(data), families(data)
    if FAMILY not in frame.columns:
        frame = frame.with_columns(pl.lit("").alias(FAMILY))
    rows: list[tuple[str, bool]] = []
    for row in frame.iter_rows(named=True):
        different = setting_label(row, others, chosen)
        plain = different == "reference"
        label = [f"family {row[FAMILY]}"] if row[FAMILY] != "" else []
        label += [] if plain else [different]
        label += [NULL] if row["role"] == "null" else []
        rows.append((", ".join(label) or "reference", plain))
    names = pl.DataFrame(rows, schema={"condition": pl.String, "plain": pl.Boolean}, orient="row")
    frame = pl.concat([frame, names], how="horizontal")
    ranks: dict[str, tuple] = {}
    orders = {axis.name: {value: at for at, value in enumerate(values_of(data, axis))} for axis in others}
    for row in frame.filter(pl.col("role").is_in(["treatment", "null"])).iter_rows(named=True):
        settings = [places.get(row[name], 0) for name, places in orders.items()]
        changed = sum(row[name] != chosen[name] for name in orders)
        family = order.index(row[FAMILY]) if row[FAMILY] in order else len(order)
        ranks.setdefault(row["condition"], (family, row["role"] == "null", changed, [-place for place in settings]))
    places = {condition: place for place, condition in enumerate(sorted(ranks, key=lambda name: ranks[name]))}
    place = pl.col("condition").replace_strict(places, default=None, return_dtype=pl.Int64)
    shown = pl.col("role").is_in(["treatment", "null"])
    return frame.with_columns(place=pl.when(shown).then(place))


def missed(data: StudyData) -> pl.DataFrame:
    """Treatment trunks whose branch forks at a requested strength, and whether they never reached it.

    Columns: family, size, parameters, seed, trunk, missed."""
    frame = conditions(data).filter(pl.col("role") == "treatment")
    if ARM in frame.columns and (frame[ARM] == STRENGTH).any():
        frame = frame.filter(pl.col(ARM) == STRENGTH)
    phase = data.declaration.outcomes[0].phase
    ended = f"outcome_{phase}"
    outcome = pl.col(ended) if ended in frame.columns else pl.lit(None, dtype=pl.String)
    trunk = pl.col("stage_trunk") if "stage_trunk" in frame.columns else pl.col("trial")
    return (
        frame.select(
            FAMILY, "size", "parameters", "seed", trunk.alias("trunk"),
            missed=outcome.str.contains("never reached").fill_null(False),
        )
        .group_by(FAMILY, "size", "parameters", "seed", "trunk")
        .agg(pl.col("missed").any())
        .sort(FAMILY, "parameters", "seed", "trunk")
    )  # fmt: skip
