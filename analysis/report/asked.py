"""Each declared question on the page: its answer, its figure with the table, and what else varied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from analysis.answers.breakdown import breakdown
from analysis.answers.judging import answers, first_look
from analysis.answers.quantities import READING, values
from analysis.answers.questions import Answer
from analysis.answers.sentences import WORDS, not_valid, sentence
from analysis.answers.write import declared, late, shared
from analysis.decay.design import vocabulary
from analysis.figures.asked import Asked
from analysis.report.panels import draw_panel
from analysis.report.rows import slug
from analysis.report.tables import csv_text, page_table
from analysis.runs.study import StudyData
from halflife.tracking.questions import DERIVED, Quantity

PREFIX = "question-"
"""Of the files of a question: names of questions and of figures may be the same."""


def answered(data: StudyData) -> dict[str, Any]:
    """The opening: primaries first, each in a sentence; what they share; when it was declared."""
    found = answers(data)
    return {
        "primary": [_short(answer, data) for answer in found if answer.question.primary],
        "others": [_short(answer, data) for answer in found if not answer.question.primary],
        "not_valid": not_valid(data), "shared": shared(data), "declared": declared(data), "late": late(data),
        "digest": data.declaration.digest[:12],
        "pilots": data.declaration.pilot_seeds, "first_look": first_look(data),
    }  # fmt: skip


def _short(answer: Answer, data: StudyData) -> str:
    """Why runs are not valid is said once, at the top."""
    return sentence(answer, data) if answer.valid else f"{answer.question.label} {WORDS[answer.word]}."


def asked(data: StudyData, out: Path, *, live: bool) -> list[dict[str, Any]]:
    """In the order of the page, primaries first; writes the files below `out`. `live`: only what is drawn in time."""
    order = sorted(answers(data), key=lambda answer: not answer.question.primary)
    return [_one(answer, data, out, live=live) for answer in order]


def _one(answer: Answer, data: StudyData, out: Path, *, live: bool) -> dict[str, Any]:
    recipe = Asked(answer=answer, declaration=data.declaration)
    quick = live and not answer.question.primary
    table = pl.DataFrame() if quick else recipe.table(data)
    panel = draw_panel(recipe, table, out, vocabulary(data), prefix=PREFIX, png=answer.question.primary and not live)
    rest = pl.DataFrame() if live else breakdown(data, answer)
    name = slug(answer.question.name)
    if rest.height:
        (out / "tables" / f"{PREFIX}{name}-breakdown.csv").write_text(csv_text(rest), encoding="utf-8")
    return {
        "label": answer.question.label, "name": name, "primary": answer.question.primary,
        "sentence": _short(answer, data), "reason": answer.question.reason, "panel": None if quick else panel,
        "breakdown": page_table(rest, shown=None) if rest.height else None,
        "quantity": answer.quantities[0].label if answer.quantities else "",
        "factor": bool(answer.quantities and answer.quantities[0].on_log_scale),
    }  # fmt: skip


def quantity_values(data: StudyData) -> pl.DataFrame:
    """Every declared quantity of every trial: trial, role, parameters, quantity, items, and its reading."""
    frames = [
        values(data, quantity).with_columns(quantity=pl.lit(quantity.name)) for quantity in data.declaration.quantities
    ]
    if not frames:
        return pl.DataFrame()
    found = pl.concat(frames, how="diagonal_relaxed")
    last = ["quantity", *READING]
    return found.select(*(name for name in found.columns if name not in last), *last)


def by_trial(data: StudyData) -> pl.DataFrame:
    """One row per trial, one column per declared quantity that has one number per trial; bounds are left to the CSV."""
    names = [name for name in ("role", "size", "seed") if name in data.trials.columns]
    varied = [axis.name for axis in data.declaration.axes if axis.name in data.trials.columns]
    names += [name for name in varied if name not in (*names, "parameters") and data.trials[name].n_unique() > 1]
    table = data.trials.select("trial", *names)
    for quantity in data.declaration.quantities:
        if not (quantity.derived and DERIVED[quantity.derived].items):
            label = f"{quantity.label} ({quantity.name})" if quantity.label in table.columns else quantity.label
            own = values(data, quantity).select("trial", pl.col("value").alias(label))
            table = table.join(own, on="trial", how="left", maintain_order="left")
    return table.drop("trial")


def meanings(data: StudyData) -> pl.DataFrame:
    """How each declared quantity is read: the dictionary of its columns."""
    rows = [[q.name, q.label, q.unit, _read(q)] for q in data.declaration.quantities]
    return pl.DataFrame(rows, schema=["quantity", "label", "unit", "how it is read"], orient="row")


def _read(quantity: Quantity) -> str:
    moment, against = quantity.moment, quantity.against
    if quantity.derived:
        parts = [DERIVED[quantity.derived].text]
    else:
        given = {name: value for name, value in vars(moment).items() if name != "kind" and value not in (None, "")}
        options = ", ".join(f"{name} {value}" for name, value in given.items())
        parts = [f"{quantity.measure}, {moment.kind}{f' ({options})' if options else ''}"]
    if quantity.transform != "none":
        parts.append(quantity.transform if quantity.transform == "above chance" else f"its {quantity.transform}")
    if against:
        parts.append(f"{against.how} against the control of role {against.role}")
    return "; ".join(parts)
