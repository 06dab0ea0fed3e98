"""A study as tables for other programs: what was measured, what is computed from it, and the meaning of every column.

The folder can be read back like a store: `load_study` accepts it (analysis.runs.tables).
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import polars as pl

from analysis.decay.conditions import is_family_study
from analysis.decay.erasure import shares
from analysis.decay.floors import floor_summary, floors
from analysis.decay.retention import areas, half_lives, outcomes_curves, retention_curves
from analysis.decay.savings import THRESHOLDS, log_savings, relearning_times, savings_summary
from analysis.decay.survival import EFFECTS, study_time_ratios, survival_table
from analysis.errors import UserError
from analysis.report.data_dictionary import meaning
from analysis.runs.study import StudyData
from halflife.secrets import masked
from halflife.tracking.schema import Outcome

Format = Literal["csv", "parquet"]
log = logging.getLogger("analysis")


def tables(data: StudyData) -> dict[str, pl.DataFrame]:
    """Every tidy frame of a study by name, for all its outcomes."""
    outcomes = data.declaration.outcomes
    curves = outcomes_curves(data)
    found = floors(curves)
    relearning = [relearning_times(data, outcome) for outcome in outcomes]
    times = pl.concat(relearning)
    savings = [log_savings(times, threshold) for threshold in THRESHOLDS]
    further = {"erasure": shares(data)} if is_family_study(data) else {}
    return {
        "trials": data.trials,
        "points": data.points,
        "curves": curves,
        "half_lives": half_lives(curves),
        "areas": pl.concat([areas(retention_curves(data, outcome)) for outcome in outcomes]),
        "floors": found,
        "floors_over_seeds": floor_summary(found),
        "survival": pl.concat([_of(outcome, survival_table(data, "size", outcome)) for outcome in outcomes]),
        "time_ratios": pl.concat([_of(outcome, _time_ratios(data, outcome)) for outcome in outcomes]),
        "relearning": times,
        "savings": pl.concat(savings),
        "savings_over_seeds": pl.concat(
            [_of(outcome, savings_summary(own)) for outcome, own in zip(outcomes, relearning, strict=True)]
        ),
        **further,
    }


def _of(outcome: Outcome, frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select(pl.lit(outcome.name).alias("outcome"), pl.all())


def _time_ratios(data: StudyData, outcome: Outcome) -> pl.DataFrame:
    """Empty if too few half-lives were observed, or nothing varies."""
    try:
        return study_time_ratios(data, outcome).effects
    except UserError as error:
        log.warning("time_ratios has no rows for %s: %s", outcome.name, error)
        return pl.DataFrame(schema=EFFECTS)


def write_tables(data: StudyData, out: Path, format: Format = "csv") -> list[Path]:
    """Write `tables`, their data dictionary and the declaration into `out`; returns the files.

    Raises UserError when `out` cannot be written.
    """
    if data.sweep.status not in ("FINISHED", ""):
        log.warning("the sweep is %s: the tables contain what it has measured so far", data.sweep.status.lower())
    found = tables(data)
    try:
        out.mkdir(parents=True, exist_ok=True)
        files = [_write(frame, out / f"{name}.{format}") for name, frame in found.items()]
        files.append(_write(dictionary(data, found), out / "dictionary.csv"))
        sweep = {**asdict(data.sweep), "totals": data.totals}
        texts = (
            ("study.json", data.declaration.to_json()),
            ("sweep.json", json.dumps(sweep, indent=2, sort_keys=True)),
        )
        for name, text in texts:
            (out / name).write_text(masked(text) + "\n", encoding="utf-8")
            files.append(out / name)
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename or out}: {error.strerror}; name another folder with --out"
        ) from None
    return files


def _write(frame: pl.DataFrame, path: Path) -> Path:
    if path.suffix == ".csv":
        frame.write_csv(path)
    else:
        frame.write_parquet(path)
    return path


def dictionary(data: StudyData, frames: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """One row per column of every frame: table, column, type, unit, missing (rows without a value), meaning."""
    axes = {axis.name: axis for axis in data.declaration.axes}
    rows = []
    for name, frame in frames.items():
        for column, kind in frame.schema.items():
            axis = axes.get(column)
            unit, text = meaning(name, column)
            if axis is not None and not text:
                unit, text = axis.unit, f"setting: {axis.label}"
            rows.append([name, column, str(kind), unit, frame[column].null_count(), text or "parameter of the trial"])
    names = ["table", "column", "type", "unit", "missing", "meaning"]
    return pl.DataFrame(rows, schema=names, orient="row")
