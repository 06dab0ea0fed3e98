"""What an adaptive search evaluated: objectives by setting, the Pareto front, and which hyperparameters mattered."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.decay.design import REPLICATES
from analysis.runs.study import StudyData
from analysis.stats.intervals import Interval, t_interval
from halflife.tracking import schema

Array = NDArray[np.float64]
MIN_SETTINGS = 12
"""Settings below which no importances are computed."""
SETTINGS = {
    "suggestion": pl.Int64, "role": pl.String, "seeds": pl.Int64, "x": pl.Float64, "x_low": pl.Float64,
    "x_high": pl.Float64, "y": pl.Float64, "y_low": pl.Float64, "y_high": pl.Float64, "x_label": pl.String,
    "y_label": pl.String, "feasible": pl.Boolean, "front": pl.Boolean,
}  # fmt: skip
IMPORTANCES = {"dial": pl.String, "share": pl.Float64, "low": pl.Float64, "high": pl.Float64}


def evaluated_settings(data: StudyData) -> pl.DataFrame:
    """One row per setting and role (treatment | held-out): means over its seeds of the first two objectives (x, y)
    with t intervals, whether every constraint held on every seed, whether the setting is on the Pareto front; then one
    column per hyperparameter. Empty if the sweep declares no objectives. Settings without a measured objective are left
    out: a failed run is not a small value."""
    objectives = list(data.declaration.objectives[:2])
    if not objectives or schema.SUGGESTION not in data.trials.columns:
        return pl.DataFrame(schema=SETTINGS)
    dials = dial_names(data)
    trials = data.trials.filter(pl.col("role").is_in(["treatment", schema.ROLE_HELD_OUT])).drop_nulls(schema.SUGGESTION)
    values = {
        (phase, name, trial): value
        for phase, name, trial, value in data.points.filter(
            pl.col("phase").is_in([schema.OBJECTIVE_PHASE, schema.CONSTRAINT_PHASE])
        )
        .select("phase", "name", "trial", "value")
        .iter_rows()
    }
    rows = []
    for (suggestion, role), part in trials.group_by([schema.SUGGESTION, "role"], maintain_order=True):
        means = [
            _mean([values.get((schema.OBJECTIVE_PHASE, objective.name, trial)) for trial in part["trial"]])
            for objective in objectives
        ]
        if None in means:
            continue
        met = [within(limit, values.get((schema.CONSTRAINT_PHASE, limit.name, trial)))
               for limit in data.declaration.constraints for trial in part["trial"]]  # fmt: skip
        x, y = means[0], means[1] if len(means) > 1 else None
        rows.append({
            "suggestion": suggestion, "role": role, "seeds": part.height, "feasible": all(met), "front": False,
            **_numbers("x", x), **_numbers("y", y), "x_label": _label(objectives[0]),
            "y_label": _label(objectives[1]) if len(objectives) > 1 else None,
            **{dial: part[dial][0] for dial in dials},
        })  # fmt: skip
    if not rows:
        return pl.DataFrame(schema=SETTINGS)
    table = pl.DataFrame(rows, schema_overrides=SETTINGS, infer_schema_length=None).select(*SETTINGS, *dials)
    wanted = [1.0 if objective.direction == "maximize" else -1.0 for objective in objectives]
    points = table.select(["x", "y"][: len(objectives)]).to_numpy() * np.array(wanted)
    among = (table["feasible"] & (table["role"] == "treatment")).to_numpy()
    return table.with_columns(front=pl.Series(on_front(points, among))).sort(
        "role", "suggestion", descending=[True, False]
    )


def dial_names(data: StudyData) -> list[str]:
    """The declared axes that differ between suggested settings."""
    suggested = data.trials.filter(pl.col("role") == "treatment")
    names = [axis.name for axis in data.declaration.axes if axis.name in suggested.columns]
    return [name for name in names if name not in REPLICATES and suggested[name].n_unique() > 1]


def _mean(values: list[float | None]) -> Interval | None:
    return t_interval([value for value in values if value is not None])


def within(limit: schema.Constraint, value: float | None) -> bool:
    """Whether one seed's value is within the bounds; a missing value is not."""
    if value is None or not math.isfinite(value):
        return False
    return (limit.at_least is None or value >= limit.at_least) and (limit.at_most is None or value <= limit.at_most)


def _numbers(name: str, found: Interval | None) -> dict[str, float | None]:
    ends = (found.estimate, found.low, found.high) if found else (None, None, None)
    return dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))


def _label(objective: schema.Objective) -> str:
    return f"{objective.label} ({objective.unit})" if objective.unit else objective.label


def on_front(points: Array, among: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of `points` (n, objectives), all maximised, are in `among` and dominated by none of `among`."""
    better = (points[None] >= points[:, None]).all(-1) & (points[None] > points[:, None]).any(-1)
    return among & ~(better & among[None]).any(1)


def importances(data: StudyData, table: pl.DataFrame) -> pl.DataFrame:
    """Per hyperparameter the share of the first objective's variance over settings that it alone explains: adjusted R²
    of a parabola in its rank, or of group means for a category; low and high: jackknife over settings, within [0, 1].

    Main effects only, over the settings that the search chose. Empty below MIN_SETTINGS.
    """
    settings = table.filter(pl.col("role") == "treatment")
    if settings.height < MIN_SETTINGS:
        return pl.DataFrame(schema=IMPORTANCES)
    y = settings["x"].to_numpy()
    labels = {axis.name: axis.label for axis in data.declaration.axes}
    rows = []
    for dial in dial_names(data):
        columns = _columns(settings[dial])
        if y.std() == 0 or settings.height <= columns.shape[1] + 1:
            continue
        share = _explained(columns, y)
        left_out = np.array([_explained(np.delete(columns, i, 0), np.delete(y, i)) for i in range(y.size)])
        half_width = 1.96 * np.sqrt((y.size - 1) / y.size * ((left_out - left_out.mean()) ** 2).sum())
        rows.append([labels[dial], max(share, 0.0), *np.clip([share - half_width, share + half_width], 0, 1).tolist()])
    return pl.DataFrame(rows, schema=IMPORTANCES, orient="row").sort("share", descending=True)


def _columns(values: pl.Series) -> Array:
    """The design matrix of one hyperparameter, (n, p), with a constant."""
    if values.dtype.is_numeric() and values.n_unique() > 4:
        rank = values.rank().to_numpy() / len(values) - 0.5
        return np.stack([np.ones_like(rank), rank, rank**2], 1)
    groups = values.cast(pl.String).fill_null("none").to_numpy()
    return np.stack([groups == name for name in np.unique(groups)], 1).astype(float)


def _explained(columns: Array, y: Array) -> float:
    residual = y - columns @ np.linalg.lstsq(columns, y, rcond=None)[0]
    total = ((y - y.mean()) ** 2).sum()
    free = y.size - np.linalg.matrix_rank(columns)
    return float(1 - (residual @ residual / free) / (total / (y.size - 1))) if total > 0 and free > 0 else 0.0
