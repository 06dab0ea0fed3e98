"""From MLflow to frames: one row per trial, one row per measured point. Missing values stay missing.

By default the newest sweep of a study is read. A phase that was trained once for several trials has its own run; its
points are joined here through the trials' tags, so that no later module has to know that stages are shared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from analysis.errors import UserError, nearest
from analysis.runs import upgrades
from analysis.runs.cache import Cache
from analysis.runs.open import open_store
from analysis.runs.records import Run, Store
from analysis.runs.sqlite import SqliteStore
from analysis.runs.study import POINTS, StudyData, declared
from analysis.runs.tables import is_tables, read_tables
from halflife.secrets import masked
from halflife.tracking import schema
from halflife.tracking.schema import Declaration

_INTEGER = re.compile(r"[+-]?\d{1,18}")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_BOOLEAN = {"True": True, "False": False}
_MISSING = ("", "None")


def find_sweeps(store: Store, study: str | None = None) -> list[Run]:
    """The sweeps of a study (of all studies if None), newest last."""
    sweeps = store.runs(schema.TAG_KIND, ["sweep"])
    if study is not None:
        sweeps = [run for run in sweeps if run.tags.get(schema.TAG_STUDY) == study]
    return sorted(sweeps, key=lambda run: (run.touched, run.started, run.id))


def load_study(tracking_uri: str, study: str, sweep: str | None = None, cache: Path | None = None) -> StudyData:
    """Read the newest sweep of `study`, or the one whose digest begins with `sweep`.

    `tracking_uri`: an MLflow store, or a folder of tables (see `analysis.runs.tables`).
    `cache`: folder for the points read; by default `cache` next to a SQLite store, and none for other stores.
    Raises UserError if there is no such store, study or sweep, or if its schema is newer than this code.
    """

    if is_tables(tracking_uri):
        return read_tables(Path(tracking_uri), study)
    store = open_store(tracking_uri)
    sweeps = published = find_sweeps(store, study)
    if not sweeps:
        known = sorted({run.tags.get(schema.TAG_STUDY, "") for run in find_sweeps(store)} - {""})
        has = f"it has {', '.join(known)}" if known else "it has no studies yet"
        raise UserError(
            f"no study {study!r} in {masked(tracking_uri)}{nearest(study, known)}: {has}; run the study "
            "first or pass another store"
        )
    if sweep is not None:
        chosen = [run for run in sweeps if run.tags.get(schema.TAG_SWEEP, "").startswith(sweep)]
        if not chosen:
            digests = ", ".join(run.tags.get(schema.TAG_SWEEP, "?") for run in sweeps)
            raise UserError(f"no sweep {sweep!r} of {study!r}: expected one of {digests}")
        sweeps = chosen
    parent = sweeps[-1]
    declaration, upgrade = _declaration(store, parent)
    if times := [run.params[name] for run in published if (name := declaration.declared_parameter) in run.params]:
        declaration = replace(declaration, declared=min(times))  # more seeds are another sweep of one declaration
    runs = [run for run in store.runs(schema.PARENT_RUN, [parent.id]) if run.tags.get(schema.TAG_KIND) == "trial"]
    newest = {run.tags.get(schema.TAG_TRIAL, run.id): run for run in runs}  # one was deleted, replaced and restored
    runs = [replace(run, tags=upgrade.tags(run.tags)) for run in newest.values()]
    trials, parameters = trial_frame(runs)
    if cache is None and isinstance(store, SqliteStore):
        cache = store.path.parent / "cache"
    points, totals = _points(store, Cache(cache, parent.id, tracking_uri), parent, runs, upgrade.metric)
    return StudyData(
        declaration=declaration, sweep=parent, totals=totals, trials=trials, points=points, parameters=parameters,
        newest=parent is published[-1], artifact=lambda trial, name: store.artifact(newest[trial], name),
    )  # fmt: skip


def _declaration(store: Store, parent: Run) -> tuple[Declaration, upgrades.Upgrade]:
    text = store.artifact(parent, schema.DECLARATION)
    if text is None:
        raise UserError(
            f"sweep {parent.name!r} has no {schema.DECLARATION}: expected it as an artifact of run {parent.id}; "
            "run the study's command again, which publishes what is missing"
        )
    return declared(text, f"{schema.DECLARATION} of sweep {parent.name!r}")


def trial_frame(runs: Sequence[Run]) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """One row per trial, and the names of its parameter columns."""
    prefixes = {
        schema.TAG_OUTCOME_PREFIX: "outcome_",
        schema.TAG_SUMMARY_PREFIX: "summary_",
        schema.TAG_STAGE_PREFIX: "stage_",
    }
    rows: list[dict[str, str | None]] = []
    names: dict[str, None] = {}
    for run in runs:
        row: dict[str, str | None] = {
            "trial": run.tags.get(schema.TAG_TRIAL, run.id), "name": run.name, "role": run.tags.get(schema.TAG_ROLE),
        }  # fmt: skip
        for key, value in run.params.items():
            name = key.rpartition("/")[2]  # parameters can be grouped in the UI: "model/size" is size
            names[name] = None
            row[name] = None if value in _MISSING else value
        for key, value in run.tags.items():
            for prefix, column in prefixes.items():
                if key.startswith(prefix):
                    row[column + key.removeprefix(prefix)] = value
        rows.append(row)
    columns = dict.fromkeys(["trial", "name", "role", *names, *(key for row in rows for key in row)])
    frame = pl.DataFrame({name: _typed([row.get(name) for row in rows], name in names) for name in columns})
    return frame, tuple(names)


def _typed(values: Sequence[str | None], parse: bool) -> pl.Series:
    """A column of integers, floats or booleans if every value present is one, otherwise of text."""
    present = [value for value in values if value is not None]
    if parse and present:
        if all(_INTEGER.fullmatch(value) for value in present):
            return pl.Series([None if value is None else int(value) for value in values], dtype=pl.Int64)
        if all(value in _BOOLEAN for value in present):
            return pl.Series([None if value is None else _BOOLEAN[value] for value in values], dtype=pl.Boolean)
        if all(_NUMBER.fullmatch(value) for value in present):
            return pl.Series([None if value is None else float(value) for value in values], dtype=pl.Float64)
    return pl.Series(list(values), dtype=pl.String)


SPENT = ("sweep/stages_run", "sweep/wall_seconds", "sweep/compute_seconds")
CACHED = "sweep/stages_cached"


def _totals(points: pl.DataFrame) -> dict[str, float]:
    """The sweep's own metrics, which each run of its command logs: what the runs spent is summed, what already existed
    is the first run's, everything else the last run's."""
    totals: dict[str, float] = {}
    for key, value in points.sort("step", maintain_order=True).select(pl.col("key").cast(pl.String), "value").rows():
        if key in SPENT:
            totals[key] = totals.get(key, 0.0) + value
        elif key not in totals or key != CACHED:
            totals[key] = value
    computing, wall, slots = (totals.get(f"sweep/{name}") for name in ("compute_seconds", "wall_seconds", "slots"))
    if "sweep/efficiency" in totals and computing is not None and wall and slots:
        totals["sweep/efficiency"] = computing / (slots * wall)
    return totals


def _points(
    store: Store, cache: Cache, parent: Run, runs: Sequence[Run], metric: Callable[[str], str]
) -> tuple[pl.DataFrame, dict[str, float]]:
    """The points of every trial and phase, including those of shared stages, and the parent run's own metrics.

    The join is over series (metrics of a run), not points: a million points make about ten thousand series.
    """
    links = pl.DataFrame(
        [
            (run.id, run.tags.get(schema.TAG_TRIAL, run.id), key.removeprefix(schema.TAG_STAGE_PREFIX), folder)
            for run in runs
            for key, folder in run.tags.items()
            if key.startswith(schema.TAG_STAGE_PREFIX)
        ],
        schema={"run": pl.String, "trial": pl.String, "phase": pl.String, "folder": pl.String},
        orient="row",
    )
    folders = links["folder"].unique().to_list()
    stages = store.runs(schema.TAG_STAGE, folders, parent.experiment) if folders else []
    stages = [run for run in stages if run.tags.get(schema.TAG_KIND) == "stage"]
    shared = {run.tags[schema.TAG_STAGE]: run for run in stages}  # of a folder's runs the newest comes last
    points = cache.points(store, [parent, *runs, *shared.values()])
    series = (
        points.with_row_index("first")
        .group_by("run", "key", maintain_order=True)
        .agg(pl.col("first").first(), pl.len().alias("count"))
        .with_columns(pl.col("run", "key").cast(pl.String))
    )
    totals = _totals(points.filter(pl.col("run") == parent.id))  # compares categories, not a million strings

    names = series.select(pl.col("key").unique())
    names = names.with_columns(path=pl.col("key").map_elements(metric, return_dtype=pl.String))
    split = pl.col("path").str.splitn("/", 2)
    names = names.with_columns(phase=split.struct[0], name=split.struct[1]).drop("path").drop_nulls("name")
    names = names.filter(pl.col("phase") != schema.RESULT_PHASE)
    series = series.join(names, on="key")
    trial_of = pl.DataFrame(
        [(run.id, run.tags.get(schema.TAG_TRIAL, run.id)) for run in runs],
        schema={"run": pl.String, "trial": pl.String},
        orient="row",
    )
    columns = ["trial", "phase", "name", "first", "count"]
    own = series.join(trial_of, on="run").select(columns)
    folder_of = pl.DataFrame(
        [(run.id, folder) for folder, run in shared.items()],
        schema={"run": pl.String, "folder": pl.String},
        orient="row",
    )
    elsewhere = links.join(own.select("trial", "phase").unique(), on=["trial", "phase"], how="anti")
    joined = (
        series.filter(pl.col("phase") == schema.STAGE_PHASE)
        .drop("phase")
        .join(folder_of, on="run")
        .join(elsewhere.drop("run"), on="folder")
        .select(columns)
    )
    series = pl.concat([own, joined]).sort("trial", "phase", "name")
    rows = series.with_columns(row=pl.int_ranges("first", pl.col("first") + pl.col("count"))).explode("row")
    values = points.select("step", "value")[rows["row"]]
    return pl.concat([rows.select("trial", "phase", "name"), values], how="horizontal").select(list(POINTS)), totals
