"""A decay: the retention figure of the question's outcome."""

from __future__ import annotations

import polars as pl
from matplotlib.figure import Figure

from analysis.answers.questions import Answer
from analysis.figures import retention
from analysis.runs.study import StudyData
from halflife.tracking.questions import Decay
from halflife.tracking.schema import Declaration

CAPTION = retention.CAPTION


def table(answer: Answer, data: StudyData) -> pl.DataFrame:
    question = answer.question
    assert isinstance(question, Decay)
    outcome = next(each for each in data.declaration.outcomes if each.name == question.outcome)
    return retention.retention_table(data, outcome, question.where)


def draw(table: pl.DataFrame, answer: Answer, declaration: Declaration) -> Figure:
    return retention.draw_retention(table)
