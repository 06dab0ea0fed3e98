"""A curve: the quantity over an amount, with the amounts at which it reaches the threshold and saturates."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.answers.questions import Answer
from analysis.figures import points, style
from analysis.figures.asked_titles import title
from analysis.figures.scale import amount_axis, axis_label, axis_of, placed, plain, scale_of, value_axis
from analysis.runs.study import StudyData
from analysis.stats.intervals import Median
from halflife.tracking.questions import Curve
from halflife.tracking.schema import Declaration

CAPTION = (
    "{quantity} by {axis}. Thin lines: single seeds; thick: means over seeds with 95% t intervals. The title gives the "
    "change from the smallest to the largest amount. Vertical lines and bands: the amounts at which the threshold "
    "(horizontal) is reached and from which on little changes, medians over seeds with their intervals. An arrow marks "
    "a value that is only bounded."
)
MARKS = {"threshold": ("--", "threshold reached"), "saturation": (":", "little changes from here")}


def table(answer: Answer, data: StudyData) -> pl.DataFrame:
    """points.POINTS of `answer.used`, and parts threshold and saturation: an amount `x` within `low` and `high`."""
    question = answer.question
    assert isinstance(question, Curve)
    found = points.over(answer.used, question.axis)
    if found.is_empty():
        return found
    marks = [
        {"part": name, "x": own.estimate, "low": own.low, "high": own.high, "seeds": own.count}
        for name in MARKS if isinstance(own := answer.further.get(name), Median)
    ]  # fmt: skip
    rows = pl.DataFrame(marks, schema={n: points.POINTS[n] for n in ("part", "x", "low", "high", "seeds")})
    return pl.concat([points.shown(found, scale_of(answer.quantities[0])), points.framed(rows)])


def draw(table: pl.DataFrame, answer: Answer, declaration: Declaration) -> Figure:
    question = answer.question
    assert isinstance(question, Curve)
    with style.styled():
        figure = style.new_figure(3.0, width=4.6)
        axes = figure.subplots()
        scale, axis = scale_of(answer.quantities[0]), axis_of(question.axis, declaration)
        curve, marks = (
            table.filter(pl.col("part").is_in(["seed", "mean"])),
            table.filter(pl.col("part").is_in(list(MARKS))),
        )
        amounts = curve["x"].unique().sort().to_list()
        log = axis.scale == "log"
        amount_axis(axes, amounts, log)
        level = None if question.threshold is None else float(scale.back(np.array([question.threshold]))[0])
        value_axis(axes, scale, [*points.ends(curve, scale.log), *([] if level is None else [level])])
        if level is not None:
            axes.axhline(level, color=style.INK, lw=0.8, ls="--", zorder=1)
        points.draw_points(axes, curve, placed(curve["x"], amounts, log))
        handles = [handle for row in marks.iter_rows(named=True) if (handle := _mark(axes, row, amounts, log))]
        if handles:
            style.legend_above(figure, handles)
        axes.set_xlabel(axis_label(axis))
        axes.set_title(title(answer))
        style.despine(figure)
    return figure


def _mark(axes: Axes, row: dict, amounts: list[float], log: bool):
    """A vertical line with its interval, which runs out of the panel where it has no end."""
    line, label = MARKS[row["part"]]
    ends = [row["x"], row["low"], row["high"]]
    left, right = axes.get_xlim()
    at, low, high = (min(max(float(placed(pl.Series([end]), amounts, log)[0]), left), right) for end in ends)
    if low < high:
        axes.axvspan(low, high, color=style.FAINT, alpha=0.4 if line == "--" else 0.25, lw=0, zorder=0)
    if not math.isfinite(row["x"]):
        return None
    number = f"{label}: {plain(row['x'])} [{', '.join(_end(end) for end in ends[1:])}]"
    return axes.axvline(at, color=style.INK, lw=1.0, ls=line, zorder=2, label=number)


def _end(value: float) -> str:
    return plain(value) if math.isfinite(value) else "not reached"
