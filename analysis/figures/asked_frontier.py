"""A frontier: settings by both quantities, those joined of which none other is better in both."""

from __future__ import annotations

import polars as pl
from matplotlib.figure import Figure

from analysis.answers.questions import SEED, Answer, cells
from analysis.figures import style
from analysis.figures.front import draw_front, front_table, legend_beside
from analysis.figures.scale import axis_of, scale_of
from analysis.runs.study import StudyData
from halflife.tracking.questions import Frontier
from halflife.tracking.schema import Declaration

CAPTION = (
    "Settings of {axis} by {quantity} and {other}: means over seeds, bars are 95% t intervals of each. Joined, with a "
    "dark edge: the settings of which none other is better in both. The choice among them is not tested."
)


def table(answer: Answer, data: StudyData) -> pl.DataFrame:
    """front.FRONT, on the quantities' own scales. The front is the answer's."""
    question = answer.question
    assert isinstance(question, Frontier)
    cell = [SEED, question.axis]
    one, other = (
        cells(answer.used.filter(pl.col("quantity") == quantity.name), cell).select(*cell, value=pl.col("value"))
        for quantity in answer.quantities
    )
    both = one.join(other, on=cell, suffix="_other").select(
        setting=pl.col(question.axis).cast(pl.String), seed=SEED, x="value", y="value_other"
    )
    found = front_table(both, question.better)
    found = found.with_columns(front=pl.col("setting").is_in(answer.further["frontier"]))
    for quantity, name in zip(answer.quantities, ("x", "y"), strict=True):
        found = scale_of(quantity).shown(found, name, f"{name}_low", f"{name}_high")
    return found


def draw(table: pl.DataFrame, answer: Answer, declaration: Declaration) -> Figure:
    question = answer.question
    assert isinstance(question, Frontier)
    with style.styled():
        figure = style.new_figure(3.2)
        axes = figure.subplots()
        x, y = (scale_of(quantity) for quantity in answer.quantities)
        handles = draw_front(axes, table, (x.log, y.log))
        for axis, scale, side in ((axes.xaxis, x, question.better[0]), (axes.yaxis, y, question.better[1])):
            axis.set_label_text(f"{scale.label}\n{side} is better")
        axes.set_title(axis_of(question.axis, declaration).label)
        legend_beside(figure, handles)
        style.despine(figure)
    return figure
