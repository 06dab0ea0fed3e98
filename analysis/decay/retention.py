"""How much of a skill is left in each trial of a sweep: retention, its half-life and its area over log time.

None of these assumes a law of decay (the formulas are in `analysis.decay.formulas`). For success rates the control is
chance; for the log-probability of the answer it is the never-trained control at the same time. The log-probability is
primary: it is smooth, while success rates saturate and bounce (decay-and-backdoors: .98, .31, .92, .83, .00 in one
run).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import polars as pl

from analysis.decay.design import described
from analysis.decay.formulas import MIN_SUCCESS, area, control_at, crossing, retention
from analysis.runs.study import StudyData
from analysis.stats import censoring
from analysis.stats.intervals import binomial_interval
from halflife.tracking import schema

CLOCKS = {
    "tokens": "tokens since the drop",
    "steps": "steps since the drop",
    "rate_sum": "summed learning rate",
    "displacement": "relative weight displacement",
}


def retention_curves(data: StudyData, outcome: schema.Outcome | None = None) -> pl.DataFrame:
    """One row per trial and evaluation of the outcome's phase (by default the first declared outcome), with controls.

    Columns: outcome, chance (the trial's own if it logged one), trial, role, size, parameters, seed, setting,
    is_reference; clocks; hits, trials, success with its binomial interval; logprob and its control's; implanted;
    retention_success, retention_logprob; near, untriggered (false positives, as rates) and untriggered_logprob; loss
    (clean, nats per token); completed (the trial's phase ended as planned). Missing values are null. Computed once per
    `data` and outcome.
    """
    outcome = outcome or data.declaration.outcomes[0]
    key = f"curves/{outcome.name}"
    if key not in data.derived:
        data.derived[key] = _retention_curves(data, outcome)
    return data.derived[key]


def _retention_curves(data: StudyData, outcome: schema.Outcome) -> pl.DataFrame:
    trials = described(data)
    ended = f"outcome_{outcome.phase}"
    completed = pl.col(ended).eq_missing("complete") if ended in trials.columns else pl.lit(True)
    names = ("trial", "role", "size", "parameters", "seed", "setting", "is_reference", "absent")
    about = trials.select(*names, outcome=pl.lit(outcome.name), completed=completed)
    wide = wide_points(data, outcome.phase)
    task = outcome.task
    names = {
        "steps": schema.CLOCK_STEPS, "rate_sum": schema.CLOCK_RATE_SUM, "displacement": schema.CLOCK_DISPLACEMENT,
        "hits": f"{task}/{schema.HITS}", "trials": f"{task}/{schema.TRIALS}", "logprob": f"{task}/{schema.LOGPROB}",
        "loss": f"clean/{schema.LOSS}", "untriggered_logprob": f"untriggered/{schema.LOGPROB}",
        "chance": f"{task}/{schema.CHANCE}",
    }  # fmt: skip
    frame = wide.select(
        "trial",
        pl.col("step").cast(pl.Float64).alias("tokens"),
        *(_column(wide, source).alias(name) for name, source in names.items()),
        *(
            (_column(wide, f"{t}/{schema.HITS}") / _column(wide, f"{t}/{schema.TRIALS}")).alias(t)
            for t in ("near", "untriggered")
        ),
    )
    low, high = binomial_interval(frame["hits"].to_numpy(), frame["trials"].to_numpy())
    frame = frame.with_columns(
        success=pl.col("hits") / pl.col("trials"),
        success_low=pl.Series(low, nan_to_null=True),
        success_high=pl.Series(high, nan_to_null=True),
        chance=pl.col("chance").drop_nulls().first().over("trial").fill_null(outcome.chance),
    )
    frame = frame.join(about, on="trial").sort("role", "parameters", "seed", "setting", "trial", "tokens")
    return _with_retention(frame)


def wide_points(data: StudyData, phase: str) -> pl.DataFrame:
    """One row per trial and evaluation of a phase, one column per `task/measure`. Computed once."""
    key = f"wide/{phase}"
    if key not in data.derived:
        data.derived[key] = _wide_points(data, phase)
    return data.derived[key]


def _wide_points(data: StudyData, phase: str) -> pl.DataFrame:
    points = data.points.filter(pl.col("phase") == phase)
    if points.is_empty():
        return pl.DataFrame(schema={"trial": pl.String, "step": pl.Int64})
    return points.pivot(on="name", index=["trial", "step"], values="value").sort("trial", "step")


def _column(frame: pl.DataFrame, name: str) -> pl.Expr:
    return pl.col(name) if name in frame.columns else pl.lit(None, dtype=pl.Float64)


def _with_retention(frame: pl.DataFrame) -> pl.DataFrame:
    """Adds implanted, control, retention_success and retention_logprob, trial by trial."""
    curves = {key[0]: part for key, part in frame.group_by(["trial"], maintain_order=True)}
    series = {}
    for trial, part in curves.items():
        logprob = part["logprob"].to_numpy()
        present = np.isfinite(logprob)
        if present.any():
            series[trial] = (part["tokens"].to_numpy()[present], logprob[present])
    parts = []
    for part in curves.values():
        tokens, logprob, success = (part[name].to_numpy() for name in ("tokens", "logprob", "success"))
        control = np.full(tokens.size, np.nan)
        if (absent := part["absent"][0]) in series:
            control = control_at(tokens, *series[absent])
        at_drop, chance = bool(tokens.size) and tokens[0] == 0, float(part["chance"][0])
        min_success = MIN_SUCCESS * (1 - chance)
        implanted = at_drop and bool(success[0] - chance >= min_success > 0)
        by_logprob = by_success = np.full(tokens.size, np.nan)
        if implanted:
            by_success, by_logprob = retention(success, chance, min_success), retention(logprob, control)
        parts.append(
            part.with_columns(
                implanted=pl.lit(implanted),
                control=pl.Series(control, nan_to_null=True),
                retention_logprob=pl.Series(by_logprob, nan_to_null=True),
                retention_success=pl.Series(by_success, nan_to_null=True),
            )
        )
    if not parts:
        empty = {"control": pl.Float64, "retention_logprob": pl.Float64, "retention_success": pl.Float64}
        missing = [pl.lit(None, dtype=kind).alias(name) for name, kind in empty.items()]
        return frame.with_columns(pl.lit(False).alias("implanted"), *missing)
    return pl.concat(parts)


RUN = {
    "outcome": pl.String, "trial": pl.String, "size": pl.String, "parameters": pl.Int64, "seed": pl.Int64,
    "setting": pl.String, "is_reference": pl.Boolean,
}  # fmt: skip
HALF_LIVES = {**RUN, "criterion": pl.String, "clock": pl.String, **censoring.COLUMNS}
CRITERIA = {
    "logprob": ("retention_logprob", True),
    "logprob-first": ("retention_logprob", False),
    "success": ("retention_success", True),
    "success-first": ("retention_success", False),
}
"""Reported numbers use sustained crossings of one half; first crossings are given for comparison."""


def half_lives(curves: pl.DataFrame, clocks: Iterable[str] = CLOCKS) -> pl.DataFrame:
    """One row per treatment, criterion and clock: time until half of the retention is lost, censored if not reached.

    Treatments without the skill at the drop have no rows.
    """
    rows = []
    for about, part in treatments(curves):
        at = {clock: part[clock].to_numpy() for clock in clocks}
        kept = {column: part[column].to_numpy() for column, _ in CRITERIA.values()}
        for criterion, (column, sustained) in CRITERIA.items():
            for clock in at:
                found = crossing(at[clock], kept[column], sustained=sustained)
                if found is not None:
                    rows.append([*about, criterion, clock, *found.row])
    return pl.DataFrame(rows, schema=HALF_LIVES, orient="row")


def treatments(curves: pl.DataFrame) -> Iterator[tuple[list[Any], pl.DataFrame]]:
    """The values of RUN and the curve of each treatment."""
    treated = curves.filter(pl.col("role") == "treatment")
    first = [treated.columns.index(name) for name in RUN]
    for part in treated.partition_by("outcome", "trial", maintain_order=True):
        row = part.row(0)
        yield [row[i] for i in first], part


def outcomes_curves(data: StudyData) -> pl.DataFrame:
    """`retention_curves` of all declared outcomes, concatenated."""
    return pl.concat([retention_curves(data, outcome) for outcome in data.declaration.outcomes])


def main_measure(curves: pl.DataFrame) -> str:
    """logprob, which is smooth; success if the outcome has no log-probability to compare with a control's."""
    known = (pl.col("role") == "treatment") & pl.col("retention_logprob").is_not_null()
    return "success" if curves.filter(known).is_empty() and not curves.is_empty() else "logprob"


def common_span(curves: pl.DataFrame) -> tuple[float, float] | None:
    """Tokens of the latest first evaluation after the drop and of the earliest last one, over completed treatments.

    A run that diverged or was stopped has no area and does not shorten the span of the others.
    """
    completed = (pl.col("role") == "treatment") & pl.col("completed")
    measured = pl.any_horizontal(pl.col("logprob", "success").is_not_null())
    spans = (
        curves.filter(completed & (pl.col("tokens") > 0) & measured)
        .group_by("trial")
        .agg(first=pl.col("tokens").min(), last=pl.col("tokens").max())
    )
    if spans.is_empty():
        return None
    start, horizon = spans["first"].to_numpy().max(), spans["last"].to_numpy().min()
    return (float(start), float(horizon)) if start < horizon else None


AREA = {"logprob": "area", "success": "area_success"}
"""Column of `areas` by measure."""
AREAS = {"outcome": pl.String, "trial": pl.String, "area": pl.Float64, "area_success": pl.Float64}


def areas(curves: pl.DataFrame, span: tuple[float, float] | None = None) -> pl.DataFrame:
    """Mean retention over log tokens up to the common horizon, one row per treatment: a number that needs no law.

    Pass the `span` of all curves if `curves` is a subset.
    """
    span = span or common_span(curves)
    rows = []
    for about, part in treatments(curves):
        tokens = part["tokens"].to_numpy()
        found = [
            area(tokens, part[f"retention_{m}"].to_numpy(), *span) if span else None for m in ("logprob", "success")
        ]
        rows.append([about[0], about[1], *found])
    return pl.DataFrame(rows, schema=AREAS, orient="row")
