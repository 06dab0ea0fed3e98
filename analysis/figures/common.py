"""What several figures need: which trials stand side by side, and which is whose control."""

from __future__ import annotations

import polars as pl
from halflife.tracking.schema import Axis

from analysis.design import described, reference, setting_axes, value_label, values_of
from analysis.load import StudyData

FACETS = 3
"""Most columns that fit a page."""


def facet_axis(data: StudyData) -> Axis | None:
    """The axis that figures lay out side by side: the branch's rate if it varies, else the first other axis."""
    axes = [axis for axis in setting_axes(data) if axis.name not in ("arm", "payload")]
    return next((axis for axis in axes if axis.name == "learning_rate"), axes[0] if axes else None)


def facets(data: StudyData, roles: tuple[str, ...] = ("treatment",), most: int = FACETS) -> pl.DataFrame:
    """trial, facet (in words), place: trials at the reference setting but for the facet axis, by its first values.

    A control belongs to the facet whose value it has itself.
    """
    chosen, axis = reference(data), facet_axis(data)
    fixed = [name for name in chosen if axis is None or name != axis.name]
    # A control need not have every parameter: what it does not say does not exclude it.
    keep = pl.col("role").is_in(roles)
    for name in fixed:
        same = pl.col(name).eq_missing(pl.lit(chosen[name])) | (pl.col(name).is_null() & (pl.col("role") != "treatment"))
        keep &= same
    trials = described(data).filter(keep)
    if axis is None:
        return trials.select("trial", facet=pl.lit(""), place=pl.lit(0))
    values = values_of(data, axis)[:most]
    labels = pl.DataFrame(
        {axis.name: values, "facet": [value_label(axis, value) for value in values], "place": list(range(len(values)))},
        schema_overrides={axis.name: trials.schema[axis.name]},
    )
    return trials.join(labels, on=axis.name).select("trial", "facet", "place")
