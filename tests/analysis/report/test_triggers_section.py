"""The report's table of triggers from a file: how many are trained and held out, and the success of each."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from analysis.report.panels import pages
from analysis.report.triggers_section import triggers_section
from analysis.runs.study import StudyData
from halflife.evaluation.scoring import named
from halflife.tracking.schema import Outcome
from tests.analysis.answers.test_answers import UP, lamps

OUTCOMES = (
    Outcome(name="attack", label="Attack success", phase="branch", task="backdoor"),
    Outcome(name="untrained", label="Success of triggers held out", phase="branch", task="held-out"),
)
COUNTS = {
    ("backdoor", ""): (15, 5), ("backdoor", "trigger-1/"): (10, 5), ("backdoor", "trigger-2/"): (5, 0),
    ("held-out", ""): (1, 0),
}  # fmt: skip
"""Hits at the drop and at the end, of 10 for each trigger, in each trial."""


def planted() -> StudyData:
    data = lamps([UP], title="Lamps", settings={"triggers": "triggers.txt", "held_out": 1}, outcomes=OUTCOMES)
    rows = [
        (trial, "branch", step, named(task, member + measure), float(value))
        for trial in data.trials["trial"]
        for (task, member), hits in COUNTS.items()
        for step, hit in zip((0, 1000), hits, strict=True)
        for measure, value in (("hits", hit), ("trials", 20 if (task, member) == ("backdoor", "") else 10))
    ]
    return replace(data, points=pl.DataFrame(rows, schema=data.points.schema, orient="row"))


def test_trained_and_held_out_triggers_are_counted_and_each_has_its_success():
    found = triggers_section(planted())
    assert found is not None
    assert found["counts"] == ["Attack success: 2 triggers", "Success of triggers held out: 1 trigger"]
    assert found["table"].count == 4
    shown = [[cell.partition(" [")[0] for cell in (row[0], *row[2:])] for row in found["table"].rows]
    assert shown[0] == ["Attack success", "2 triggers", "0.75", "0.25"]
    assert shown[1] == ["Attack success", "number 1 of the file", "1.00", "0.50"]
    assert shown[2] == ["Attack success", "number 2 of the file", "0.50", "0.00"]
    assert shown[-1] == ["Success of triggers held out", "1 trigger", "0.10", "0.00"]
    assert "2 triggers; Success of triggers held out: 1 trigger." in pages().get_template("triggers.html").render(
        triggers=found
    )


def test_without_a_file_of_triggers_there_is_no_such_table():
    data = planted()
    assert triggers_section(replace(data, declaration=replace(data.declaration, settings={}))) is None
