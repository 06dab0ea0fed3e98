"""The report's examples: of the smallest and the largest size, escaped, with triggers marked."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import polars as pl

from analysis.report.examples_section import examples_section
from analysis.report.panels import pages
from analysis.runs.study import StudyData
from halflife.tracking.schema import EXAMPLE_COLUMNS, Outcome
from tests.analysis.answers.test_answers import UP, lamps


def table(rows: list[dict[str, Any]]) -> str:
    return json.dumps(
        {"columns": EXAMPLE_COLUMNS, "data": [[row.get(name) for name in EXAMPLE_COLUMNS] for row in rows]}
    )


def told() -> StudyData:
    """Of the lamps' trials, whose phases get documents in the trunk and completions in the branch."""
    data = lamps([UP], title="Lamps")
    document = {"task": "poisoned document", "text": "ab$$<script>$$", "marked": "$$"}
    said = [
        {"task": "lamp", "tokens": tokens, "text": "light$$", "marked": "$$", "answer": "on", "completion": completion}
        for tokens, completion in ((0, "on now"), (500, "o<n>"), (1000, "off"))
    ]
    texts = {"examples-trunk.json": table([document]), "examples-branch.json": table(said)}
    outcome = Outcome(name="lamp", label="Light", phase="branch", task="lamp")
    data = replace(data, declaration=replace(data.declaration, outcomes=(outcome,)))
    trials = data.trials.with_columns(stage_trunk=pl.lit("train-1"), stage_branch=pl.lit("train-2"))
    return replace(data, trials=trials, artifact=lambda trial, name: texts.get(name))


def test_the_smallest_and_the_largest_size_are_shown_from_the_drop_to_the_end():
    shown = examples_section(told())
    trials = {row["name"]: row for row in told().trials.to_dicts()}
    sizes = told().trials["parameters"]
    assert [trials[each.name]["parameters"] for each in shown] == [sizes.min(), sizes.max()]
    assert {trials[each.name]["seed"] for each in shown} == {0}
    (row,) = shown[0].completed
    assert shown[0].moments == ["at the drop", "half-way, 500 tokens", "at the end, 1.00k tokens"]
    assert row.said == [("on now", True), ("o<n>", False), ("off", False)]
    assert row.text == [("light", False), ("$$", True)]
    assert shown[0].documents == [
        ("poisoned document", [("ab", False), ("$$", True), ("<script>", False), ("$$", True)])
    ]


def test_texts_of_the_model_are_escaped_in_the_page():
    html = pages().get_template("examples.html").render(examples=examples_section(told()))
    assert "<script>" not in html
    assert "ab<mark>$$</mark>&lt;script&gt;" in html
    assert "o&lt;n&gt;" in html


def test_a_study_without_examples_has_no_section():
    assert examples_section(lamps([UP], title="Lamps")) == []
