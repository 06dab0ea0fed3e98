"""1.2 million metric points of 1,000 runs from MLflow's SQLite into a study's frames: by SQL, from the cache, and by
MLflow's client one run after the other."""

from __future__ import annotations

import random
import shutil
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path

from halflife.tracking import schema
from tests.benchmarks.figure import Figure
from tests.benchmarks.interleaved import ratio, rounds

RUNS, STEPS = 1000, 40
TASKS = ("backdoor", "near", "untriggered", "clean", "clock", "train")
MEASURES = ("hits", "trials", "logprob", "loss", "tokens")
POINTS = RUNS * STEPS * len(TASKS) * len(MEASURES)
PART = 4
"""Runs that the client reads; its time is scaled to all."""
STUDY = "bench"


def figures(count: int) -> list[Figure]:
    """Medians over `count` rounds, one thread (POLARS_MAX_THREADS=1 before polars is imported)."""
    from analysis.runs.load import load_study

    uri = store()
    cache = Path(uri.removeprefix("sqlite:///")).with_name("cache")

    def by_sql() -> float:
        shutil.rmtree(cache, ignore_errors=True)
        return timed()

    def from_cache() -> float:
        return timed()

    def timed() -> float:
        started = time.perf_counter()
        points = load_study(uri, STUDY).points
        took = time.perf_counter() - started
        assert points.height == POINTS
        return took

    rope_cache = list(rounds({"sql": by_sql, "cache": from_cache, "client": lambda: client(uri)}, count))
    times = {name: [turn[name] for turn in rope_cache] for name in rope_cache[0]}
    found = ratio(times["client"], times["sql"])
    sql, cached, slow = (statistics.median(times[name]) for name in ("sql", "cache", "client"))
    return [
        Figure(name="1.2 million points by SQL", value=sql, unit="s", target="< 4 s", reached=sql < 4),
        Figure(name="the same from the cache", value=cached, unit="s", target="< 0.5 s", reached=cached < 0.5),
        Figure(
            name=f"MLflow's client, run by run ({slow:,.0f} s), over SQL", value=found.median, low=found.low,
            high=found.high, unit="times", target=">= 20 times", reached=found.median >= 20,
        ),
    ]  # fmt: skip


def client(uri: str) -> float:
    """Seconds that MLflow's client would take for all runs, from those that it takes for a part of them."""
    import polars as pl
    from mlflow import MlflowClient

    reader = MlflowClient(tracking_uri=uri)
    started = time.perf_counter()
    rows = []
    for number in range(PART):
        run = reader.get_run(f"{number:032x}")
        for key in run.data.metrics:
            history = reader.get_metric_history(run.info.run_id, key)
            rows += [(run.info.run_id, key, point.step, point.value) for point in history]
    frame = pl.DataFrame(rows, schema=["run", "key", "step", "value"], orient="row")
    assert frame.height == PART * POINTS // RUNS
    return (time.perf_counter() - started) * RUNS / PART


def store() -> str:
    """URI of the store, made once and kept in the folder for temporary files: MLflow's own tables, filled by SQL."""
    folder = Path(tempfile.gettempdir()) / f"halflife-bench-{POINTS}"
    path = folder / "mlflow.db"
    if not path.exists():
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        folder.mkdir(exist_ok=True)
        part = folder / "part.db"
        part.unlink(missing_ok=True)
        SqlAlchemyStore(f"sqlite:///{part}", str(folder / "artifacts"))
        _fill(part, folder)
        part.rename(path)
    return f"sqlite:///{path}"


def _fill(path: Path, folder: Path) -> None:
    from tests.analysis import planted

    connection = sqlite3.connect(path)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("INSERT INTO experiments VALUES (7, ?, '', 'active', 0, 0, 'default')", (STUDY,))
    parent = "f" * 32
    place = folder / "artifacts" / parent
    place.mkdir(parents=True, exist_ok=True)
    (place / schema.DECLARATION).write_text(planted.declaration(planted.Plan(study=STUDY)).to_json(), encoding="utf-8")
    tags = {schema.TAG_KIND: "sweep", schema.TAG_STUDY: STUDY, schema.TAG_SWEEP: "b"}
    runs = [(parent, tags)]
    for number in range(RUNS):
        tags = {schema.TAG_KIND: "trial", schema.TAG_TRIAL: f"trial {number}", schema.PARENT_RUN: parent}
        runs.append((f"{number:032x}", {**tags, schema.TAG_ROLE: "treatment"}))
    draw = random.Random(0)
    for run, tags in runs:
        connection.execute(
            "INSERT INTO runs (run_uuid, name, status, start_time, end_time, lifecycle_stage, artifact_uri, "
            "experiment_id, user_id, source_type) VALUES (?, ?, 'FINISHED', 1, 2, 'active', ?, 7, 'bench', 'LOCAL')",
            (run, run, place.as_uri()),
        )
        connection.executemany("INSERT INTO tags VALUES (?, ?, ?)", [(key, value, run) for key, value in tags.items()])
        if run != parent:
            points = [
                (f"branch/{task}/{measure}", draw.gauss(0, 1), 1_790_000_000_000 + step, run, 4096 * step)
                for step in range(STEPS)
                for task in TASKS
                for measure in MEASURES
            ]
            connection.executemany("INSERT INTO metrics VALUES (?, ?, ?, ?, ?, 0)", points)
            last = [
                (key, value, time, step, run) for key, value, time, run, step in points[-len(TASKS) * len(MEASURES) :]
            ]
            connection.executemany("INSERT INTO latest_metrics VALUES (?, ?, ?, ?, 0, ?)", last)
    connection.commit()
    connection.close()
