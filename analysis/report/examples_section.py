"""What the model reads and says: documents, and completions at the beginning, half-way and at the end of a phase."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import polars as pl

from analysis.decay.design import described
from analysis.runs.study import StudyData
from analysis.stats.format import short
from halflife.tracking import schema

Part = tuple[str, bool]
"""A piece of a text, and whether it is set apart"""
_PROMPT = ("task", "text", "marked", "answer")


@dataclass(frozen=True, kw_only=True)
class Completed:
    """A prompt with the model's completions."""

    what: str
    text: list[Part]
    answer: str
    said: list[tuple[str, bool]]
    """A completion for each of the moments, and whether it begins with the right answer"""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The examples of one trial."""

    name: str
    documents: list[tuple[str, list[Part]]]
    phase: str
    moments: list[str]
    completed: list[Completed]


def examples_section(data: StudyData) -> list[Shown]:
    """Of the first seed of the smallest and of the largest size, at the reference setting where it was run: what it
    recorded."""
    trials = described(data).filter(pl.col("role") == "treatment")
    trials = trials.sort("parameters", "seed", ~pl.col("is_reference"), maintain_order=True)
    sizes = [part.to_dicts() for _, part in trials.group_by("parameters", maintain_order=True)]
    found = []
    for rows in sizes if len(sizes) < 2 else (sizes[0], sizes[-1]):
        found += [shown for row in rows[:1] if (shown := _of(data, row))]
    return found


def _of(data: StudyData, trial: dict[str, Any]) -> Shown | None:
    read = {}
    for column in trial:
        phase = column.removeprefix("stage_")
        if phase != column and trial[column] and (rows := _rows(data, trial["trial"], phase)):
            read[phase] = rows
    if not read:
        return None
    documents = next((found for rows in read.values() if (found := [row for row in rows if row["tokens"] is None])), [])
    declared = data.declaration.outcomes[0].phase if data.declaration.outcomes else ""
    phase = declared if declared in read else next(iter(read))
    said = [row for row in read[phase] if row["tokens"] is not None]
    moments = sorted({row["tokens"] for row in said})
    return Shown(
        name=trial["name"],
        documents=[(row["task"], _parts(row["text"], row["marked"])) for row in documents],
        phase=phase,
        moments=[_moment(tokens, phase, last=index == len(moments) - 1) for index, tokens in enumerate(moments)],
        completed=_completed(data, said, moments),
    )


def _rows(data: StudyData, trial: str, phase: str) -> list[dict[str, Any]]:
    text = data.artifact(trial, schema.examples_of(phase))
    if text is None:
        return []
    table = json.loads(text)
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


def _completed(data: StudyData, said: list[dict[str, Any]], moments: list[int]) -> list[Completed]:
    labels = {control.task: control.label for control in data.declaration.controls}
    labels |= {outcome.task: outcome.label for outcome in data.declaration.outcomes}
    prompts: dict[tuple[str, ...], dict[int, str]] = {}
    for row in said:
        prompts.setdefault(tuple(row[name] for name in _PROMPT), {})[row["tokens"]] = row["completion"]
    return [
        Completed(
            what=labels.get(task, task), text=_parts(text, marked), answer=answer,
            said=[(each := texts.get(moment, ""), each.startswith(answer)) for moment in moments],
        )
        for (task, text, marked, answer), texts in prompts.items()
    ]  # fmt: skip


def _moment(tokens: int, phase: str, *, last: bool) -> str:
    if tokens == 0:
        return "at the drop" if phase == "branch" else f"as the {phase} begins"
    return f"{'at the end' if last else 'half-way'}, {short(tokens)} tokens"


def _parts(text: str, marked: str) -> list[Part]:
    """The text in pieces, with every occurrence of what is marked set apart."""
    if not marked:
        return [(text, False)]
    pieces = [part for piece in text.split(marked) for part in ((piece, False), (marked, True))][:-1]
    return [part for part in pieces if part[0]]
