"""Shared by several figures: which trials are shown side by side, and which trial is the control of which."""

from __future__ import annotations

import polars as pl

from analysis.decay.design import controls, described, reference, setting_axes, value_label, values_of
from analysis.runs.study import StudyData
from halflife.tracking.schema import Axis

FACETS = 3
"""Maximum number of columns on a page."""
KINDS = {"absent": ":", "positive": "--", "extinction": "-.", "null": (0, (1, 1, 4, 1))}
"""Kinds of controls that figures draw, with their line styles."""


def facet_axis(data: StudyData) -> Axis | None:
    """The axis shown as columns: the branch's learning rate if it varies, else the first other axis."""
    axes = [axis for axis in setting_axes(data) if axis.name not in ("arm", "payload")]
    return next((axis for axis in axes if axis.name == "learning_rate"), axes[0] if axes else None)


def facets(data: StudyData, most: int = FACETS) -> pl.DataFrame:
    """trial, facet (its label), place (its order): treatments at the reference in everything but the facet axis."""
    chosen, axis = reference(data), facet_axis(data)
    trials = described(data).filter(pl.col("role") == "treatment")
    for name, value in chosen.items():
        if axis is None or name != axis.name:
            trials = trials.filter(pl.col(name).eq_missing(pl.lit(value)))
    if axis is None:
        return trials.select("trial", facet=pl.lit(""), place=pl.lit(0))
    values = values_of(data, axis)[:most]
    labels = pl.DataFrame(
        {axis.name: values, "facet": [value_label(axis, value) for value in values], "place": list(range(len(values)))},
        schema_overrides={axis.name: trials.schema[axis.name]},
    )
    return trials.join(labels, on=axis.name).select("trial", "facet", "place")


def control_labels(data: StudyData) -> dict[str, str]:
    """Role -> the study's label of that control, in the order of KINDS; only controls that are trials of their own."""
    declared = {control.role: control for control in data.declaration.controls if control.role}
    order = sorted(declared, key=lambda role: [*KINDS, declared[role].kind].index(declared[role].kind))
    return {role: declared[role].label for role in order}


def with_controls(data: StudyData, shown: pl.DataFrame, roles: tuple[str, ...]) -> pl.DataFrame:
    """`shown` and the controls of its trials, each once in every facet that has one of its trials.

    A never-exposed control serves all settings; one that keeps the cause, or its trigger, is shown only with the branch
    that it shares.
    """
    axis = facet_axis(data)
    own = {row["trial"]: row.get(axis.name) if axis else None for row in data.trials.to_dicts()}
    rows = []
    for role in roles:
        of = controls(data, role)
        for trial, facet, place in shown.iter_rows():
            control = of.get(trial)
            if control is not None and (role == "absent" or own[control] == own[trial]):
                rows.append((control, facet, place))
    return pl.concat([shown, pl.DataFrame(rows, schema=shown.schema, orient="row").unique(maintain_order=True)])
