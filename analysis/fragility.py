"""Fragility and bits of fitted prompts, from the phase in which a study measured them, against the information that
their behaviours take."""

from __future__ import annotations

import re

import polars as pl

from analysis import elicitation, information
from analysis.association import rank_correlation
from analysis.errors import UserError
from analysis.load import StudyData

PHASE = "fragility"
MEASURES = {
    "f1": "F1, gradient under noise", "f2": "F2, rise under noise", "f3": "F3, worst rise",
    "r50": "r50, radius that halves success", "curvature": "largest curvature",
}  # fmt: skip
CONTROLS = ("loss", "norm", "k")
"""What easy behaviours differ in besides: partial correlations hold these fixed."""
SCHEMA = {"behaviour": pl.String, "model": pl.String, "series": pl.String, "seed": pl.Int64, "k": pl.Int64}


def measured(data: StudyData) -> pl.DataFrame:
    """One row a prompt measured: SCHEMA, restart, and what was measured of it; empty where nothing was."""
    runs = elicitation.declared_points(data, elicitation.MODELS, (PHASE,))
    return runs if runs.height else pl.DataFrame(schema=SCHEMA)


def quantised(data: StudyData, found: pl.DataFrame) -> pl.DataFrame:
    """What `information.bits_table` takes: one row a prompt and bits a number, beside its behaviour's threshold."""
    kept = [name for name in found.columns if re.fullmatch(r"loss_\d+bits", name)]
    if not kept or "numbers" not in found.columns:
        return pl.DataFrame()
    aims = elicitation.with_threshold(elicitation.runs(data)).select("behaviour", "series", "threshold").unique()
    index = [*SCHEMA, "restart", "numbers"]
    return (
        found.unpivot(kept, index=index, variable_name="bits", value_name="score")
        .drop_nulls("score")
        .with_columns(bits=pl.col("bits").str.extract(r"(\d+)").cast(pl.Float64))
        .join(aims, on=["behaviour", "series"])
        .drop_nulls("threshold")
    )


def correlations(data: StudyData, found: pl.DataFrame) -> pl.DataFrame:
    """Spearman's correlation over behaviours of each measure with C (by loss), and the same with loss, norm and k held
    fixed, with 95 % intervals. Rows that too few behaviours allow are left out."""
    if found.is_empty():
        return pl.DataFrame()
    taken = information.distance_table(elicitation.runs(data).filter(pl.col("model") == "present"))
    if "c" not in taken.columns:
        return pl.DataFrame()
    table = found.filter(pl.col("model") == "present").join(
        taken.select("behaviour", "series", information="c"), on=["behaviour", "series"]
    )
    rows = []
    for name, label in MEASURES.items():
        for controls in ((), CONTROLS) if name in table.columns else ():
            try:
                r = rank_correlation(table, "information", name, controls)
            except UserError:
                continue
            held = ", ".join(controls) or "nothing"
            rows.append({"measure": label, "held fixed": held, "correlation with C": r.estimate, "low": r.low,
                         "high": r.high, "behaviours": r.count})  # fmt: skip
    return pl.DataFrame(rows)
