"""Conditions: the settings of a sweep of families, in words and in an order that a figure can have."""

from __future__ import annotations

from typing import Any

import polars as pl

from analysis.design import described, reference, setting_axes, setting_label, values_of
from analysis.load import StudyData
from halflife.tracking.schema import Axis

FAMILY = "family"
DROPPED = "drop"
"""Parameter: the names of the dropped languages, joined by "+"."""
NULL = "answers shuffled"


def family_axis(data: StudyData) -> Axis | None:
    """The axis of families, where treatments of several were run."""
    return next((axis for axis in setting_axes(data) if axis.name == FAMILY), None)


def families(data: StudyData) -> list[Any]:
    """The families that treatments have, in the declared order; one nameless where there is no such axis."""
    axis = next((axis for axis in data.declaration.axes if axis.name == FAMILY), None)
    return values_of(data, axis) if axis and FAMILY in data.trials.columns else [""]


def conditions(data: StudyData) -> pl.DataFrame:
    """`described` trials with family, condition (in words: the family, and in what else a trial differs from the
    reference), plain (in nothing else) and place (the order of conditions: by family, plain ones first).

    Of the null control, a condition of its own. Trials without a place are other controls.
    """
    chosen = reference(data)
    others = tuple(axis for axis in setting_axes(data) if axis.name != FAMILY)
    frame, order = described(data), families(data)
    if FAMILY not in frame.columns:
        frame = frame.with_columns(pl.lit("").alias(FAMILY))
    rows: list[tuple[str, bool]] = []
    for row in frame.iter_rows(named=True):
        different = setting_label(row, others, chosen)
        plain = different == "reference"
        said = [f"family {row[FAMILY]}"] if row[FAMILY] != "" else []
        said += [] if plain else [different]
        said += [NULL] if row["role"] == "null" else []
        rows.append((", ".join(said) or "reference", plain))
    names = pl.DataFrame(rows, schema={"condition": pl.String, "plain": pl.Boolean}, orient="row")
    frame = pl.concat([frame, names], how="horizontal")
    ranks: dict[str, tuple] = {}
    for row in frame.filter(pl.col("role").is_in(["treatment", "null"])).iter_rows(named=True):
        settings = tuple(
            values_of(data, axis).index(row[axis.name]) if row[axis.name] in values_of(data, axis) else 0
            for axis in others
        )
        changed = sum(place > 0 for place in settings)
        family = order.index(row[FAMILY]) if row[FAMILY] in order else len(order)
        ranks.setdefault(row["condition"], (family, row["role"] == "null", changed, [-place for place in settings]))
    places = {condition: place for place, condition in enumerate(sorted(ranks, key=lambda name: ranks[name]))}
    place = pl.col("condition").replace_strict(places, default=None, return_dtype=pl.Int64)
    shown = pl.col("role").is_in(["treatment", "null"])
    return frame.with_columns(place=pl.when(shown).then(place))


def missed(data: StudyData) -> pl.DataFrame:
    """Trunks of treatments by family and size: trunks, and how many of them never reached the strength at which a
    branch was to fork. Columns: family, size, parameters, seed, trunk, missed."""
    frame = conditions(data).filter(pl.col("role") == "treatment")
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
