"""Studies in memory, with planted values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import polars as pl

from analysis.runs.records import Run
from analysis.runs.study import POINTS, StudyData
from halflife.tracking import schema
from halflife.tracking.questions import Quantity, Question

SWEEP = Run(
    id="1", name="made", experiment="1", status="FINISHED", started=1_750_000_000_000, ended=None, artifacts="",
    tags={schema.TAG_COMMAND: "python made.py laptop"}, params={},
)  # fmt: skip
Curve = dict[str, list[tuple[int, float]]]
"""By `<phase>/<task>/<measure>`: (tokens, value)."""


def study(
    trials: Sequence[dict[str, Any]], curves: Callable[[dict[str, Any]], Curve], quantities: Sequence[Quantity] = (),
    questions: Sequence[Question] = (), **changes: Any,
) -> StudyData:  # fmt: skip
    """`trials`: parameters, and `role` if not treatment. `curves`: what a trial logged, from its row."""
    rows = [{"trial": f"t{i}", "name": f"trial {i}", "role": "treatment"} | row for i, row in enumerate(trials)]
    points = [
        (row["trial"], name.partition("/")[0], step, name.partition("/")[2], value)
        for row in rows
        for name, series in curves(row).items()
        for step, value in series
    ]
    frame = pl.DataFrame(rows, infer_schema_length=None)
    names = tuple(n for n in frame.columns if n not in ("trial", "name", "role") and not n.startswith("outcome_"))
    axes = tuple(
        schema.Axis(name=n, label=n, values=tuple(frame[n].unique().drop_nulls().sort()),
                    scale="log" if n == "parameters" else "category") for n in names)  # fmt: skip
    fields: dict[str, Any] = {
        "study": "made", "title": "", "question": "", "reading": "", "preset": "laptop", "controls": (), "figures": (),
        "axes": axes, "outcomes": (), "quantities": tuple(quantities), "questions": tuple(questions),
    }  # fmt: skip
    return StudyData(
        declaration=schema.Declaration(**fields | changes), sweep=SWEEP, totals={}, trials=frame,
        points=pl.DataFrame(points, schema=POINTS, orient="row"), parameters=names,
    )  # fmt: skip
