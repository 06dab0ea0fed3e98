"""A folder of tables as a study: written by `export`, or any CSV and Parquet files.

It holds `points`, and optionally `trials`, `study.json` (the declaration) and `sweep.json` (the sweep's run).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl

from analysis.errors import UserError, nearest
from analysis.fitting.table import read_table
from analysis.runs.records import Run
from analysis.runs.study import POINTS, StudyData, declared
from halflife.tracking import schema
from halflife.tracking.schema import Axis, Declaration, Outcome


def is_tables(place: str) -> bool:
    """Whether `place` is a folder of tables and not a tracking store."""
    return "://" not in place and _find(Path(place), "points") is not None


def read_tables(folder: Path, study: str) -> StudyData:
    """The study in a folder of tables.

    `points` needs the columns trial, phase, step, name (`task/measure`) and value. `trials` needs trial; without it
    every trial with points is a treatment. Without study.json every task with hits and trials is an outcome, and every
    column of `trials` an axis. Raises UserError if something is missing or belongs to another study.
    """
    points = _points(folder)
    place = _find(folder, "trials")
    trials = read_table(place) if place else points.select(pl.col("trial").unique(maintain_order=True))
    if "trial" not in trials.columns:
        raise UserError(f"{place} has no column 'trial': it has {', '.join(trials.columns)}")
    trials = _typed(trials, str(place))
    if unknown := set(points["trial"]) - set(trials["trial"]):
        raise UserError(f"trial {min(unknown)!r} has points but no row in {place}: expected one row per trial")
    if trials["trial"].is_duplicated().any():
        raise UserError(f"{place} has several rows of one trial: expected one")
    standard = {"name": pl.col("trial"), "role": pl.lit("treatment")}
    trials = trials.with_columns(**{name: value for name, value in standard.items() if name not in trials.columns})
    declaration = _declaration(folder, study, trials, points)
    if declaration.study != study:
        meant = nearest(study, [declaration.study])
        raise UserError(f"no study {study!r} in {folder}{meant}: it has {declaration.study}")
    known = {"trial", "name", "role"}
    parameters = [n for n in trials.columns if n not in known and not n.startswith(("outcome_", "summary_", "stage_"))]
    run, totals = _sweep(folder, study)
    return StudyData(
        declaration=declaration, sweep=run, totals=totals, trials=trials, points=points, parameters=tuple(parameters)
    )


def table_sweeps(folder: Path) -> list[Run]:
    """The sweep that the tables of a folder belong to. Raises UserError if there is no sweep.json."""
    if not (folder / "sweep.json").is_file():
        raise UserError(f"{folder} is a folder of tables without sweep.json: expected the output of export, or a store")
    return [_sweep(folder, "?")[0]]


def _find(folder: Path, name: str) -> Path | None:
    return next((path for end in ("parquet", "csv") if (path := folder / f"{name}.{end}").is_file()), None)


def _points(folder: Path) -> pl.DataFrame:
    place = _find(folder, "points")
    if place is None:
        raise UserError(f"no points.csv or points.parquet in {folder}: expected the tables of a study")
    points = read_table(place)
    if lacking := [name for name in POINTS if name not in points.columns]:
        raise UserError(f"{place} has no column {lacking[0]!r}: expected {', '.join(POINTS)}")
    try:
        points = points.select(pl.col(name).cast(kind) for name, kind in POINTS.items())
    except pl.exceptions.InvalidOperationError as error:
        raise UserError(f"{place}: step and value must be numbers ({str(error).splitlines()[0]})") from None
    return points.filter(pl.col("value").is_not_nan()).drop_nulls().sort("trial", "phase", "name", "step")


def _typed(trials: pl.DataFrame, place: str) -> pl.DataFrame:
    """The columns that every study has, with their types."""
    kinds = {"trial": pl.String, "size": pl.String, "parameters": pl.Int64, "seed": pl.Int64}
    try:
        return trials.with_columns(pl.col(name).cast(kind) for name, kind in kinds.items() if name in trials.columns)
    except pl.exceptions.InvalidOperationError as error:
        raise UserError(f"{place}: parameters and seed must be whole numbers ({str(error).splitlines()[0]})") from None


def _declaration(folder: Path, study: str, trials: pl.DataFrame, points: pl.DataFrame) -> Declaration:
    path = folder / schema.DECLARATION
    if path.is_file():
        return declared(_text(path), str(path))[0]
    tasks = points.filter(pl.col("name").str.ends_with(f"/{schema.HITS}")).select("phase", "name").unique()
    outcomes = tuple(
        Outcome(name=f"{phase}/{task}", label=task, phase=phase, task=task)
        for phase, name in tasks.sort("phase", "name").rows()
        if (task := name.rpartition("/")[0])
    )
    if not outcomes:
        raise UserError(f"no name in {folder} ends in /{schema.HITS}: expected counts of at least one task")
    axes = tuple(
        Axis(name=name, label=name.replace("_", " "), values=tuple(trials[name].unique().drop_nulls().sort()))
        for name in trials.columns
        if name not in ("trial", "name", "role")
    )
    return Declaration(
        study=study, title=study, question="", reading="", preset="", axes=axes, outcomes=outcomes, controls=(),
        figures=("retention", "half_life", "survival"), notes=(f"Read from the tables in {folder.name}.",),
    )  # fmt: skip


def _sweep(folder: Path, study: str) -> tuple[Run, dict[str, float]]:
    path = folder / "sweep.json"
    empty = {
        "id": "", "name": study, "experiment": "", "status": "", "started": 0, "ended": None, "artifacts": "",
        "tags": {}, "params": {},
    }  # fmt: skip
    if not path.is_file():
        return Run(**empty), {}
    try:
        fields: dict[str, Any] = json.loads(_text(path))
        totals = {str(name): float(value) for name, value in fields.pop("totals", {}).items()}
        return Run(**{**empty, **fields}), totals
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
