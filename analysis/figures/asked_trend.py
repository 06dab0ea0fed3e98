"""A trend: each seed's points and slope behind, means with intervals and the fitted line in front."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.answers.questions import Answer
from analysis.figures import points, style
from analysis.figures.asked_titles import title
from analysis.figures.scale import amount_axis, axis_label, axis_of, placed, scale_of, value_axis
from analysis.runs.study import StudyData
from analysis.stats.arrays import Array
from halflife.tracking.questions import Trend
from halflife.tracking.schema import Declaration

CAPTION = (
    "{quantity} by {axis}. Behind: single seeds, each with its own slope. In front: means over seeds with 95% t "
    "intervals, and the line with the mean slope, which the title gives with its interval; dashed, if it is only a "
    "bound. An arrow marks a value that is only bounded: the true one lies in its direction. Shaded: slopes within the "
    "margin."
)
MEAN = {"lw": 1.6, "zorder": 4, "color": style.INK}
BOUND = {**MEAN, "ls": "--"}
SINGLE = {"lw": 0.6, "zorder": 2, "color": style.MUTED, "alpha": 0.5}
BENT = 25
"""Points of a line that the axis bends."""


def table(answer: Answer, data: StudyData) -> pl.DataFrame:
    """points.POINTS of `answer.used`, with the fitted lines."""
    question, scale = answer.question, scale_of(answer.quantities[0])
    assert isinstance(question, Trend)
    found = points.over(answer.used, question.axis)
    if found.is_empty():
        return found
    amounts = found["x"].unique().sort().to_numpy()
    lines = _lines(answer, found, amounts, question.scale == "log", 2 if scale.straight else BENT)
    return points.shown(pl.concat([found, points.framed(lines)]), scale)


def _lines(answer: Answer, found: pl.DataFrame, amounts: Array, log: bool, count: int) -> pl.DataFrame:
    """Through the middle of what each seed, and the mean over seeds, has at all amounts."""
    u = np.log(amounts) if log else amounts
    ends = np.linspace(u[0], u[-1], count)
    rows = []

    def line(seed: str | None, slope: float, middle: float) -> None:
        x = np.exp(ends) if log else ends
        rows.extend({"part": "line", "seed": seed, "x": a, "value": b}
                    for a, b in zip(x, middle + slope * (ends - u.mean()), strict=True))  # fmt: skip

    estimates, verdict = answer.estimates, answer.verdict
    for seed, slope in zip(estimates.seeds, estimates.values, strict=True) if estimates else ():
        own = found.filter((pl.col("part") == "seed") & (pl.col("seed") == str(seed)))
        if np.isfinite(slope) and own.height == amounts.size:
            line(str(seed), float(slope), float(own["low"].to_numpy().mean()))
    means = found.filter(pl.col("part") == "mean").drop_nulls("value")
    if verdict is not None and verdict.interval is not None and means.height == amounts.size:
        line(None, verdict.interval.estimate, float(means["value"].to_numpy().mean()))
    return pl.DataFrame(rows, schema={n: points.POINTS[n] for n in ("part", "seed", "x", "value")})


def draw(table: pl.DataFrame, answer: Answer, declaration: Declaration) -> Figure:
    question = answer.question
    assert isinstance(question, Trend)
    with style.styled():
        figure = style.new_figure(3.0, width=4.6)
        axes = figure.subplots()
        scale, axis = scale_of(answer.quantities[0]), axis_of(question.axis, declaration)
        log = question.scale == "log"
        amounts = table["x"].unique().sort().to_list() if table["x"].len() else []
        at = table.filter(pl.col("part") == "seed")["x"].unique().sort().to_list()
        amount_axis(axes, at, log)
        value_axis(axes, scale, points.ends(table, scale.log))
        lines = table.filter(pl.col("part") == "line")
        _margin(axes, lines.filter(pl.col("seed").is_null()), answer, log)
        for own in lines.partition_by("seed", maintain_order=True):
            look = (BOUND if _bounded(answer) else MEAN) if own["seed"][0] is None else SINGLE
            axes.plot(own["x"], own["value"], **look)
        points.draw_points(axes, table, placed(table["x"], amounts, log), joined=False)
        axes.set_xlabel(axis_label(axis))
        axes.set_title(title(answer))
        style.despine(figure)
    return figure


def _bounded(answer: Answer) -> bool:
    """Whether the slope is only a bound, as most values are censored."""
    found = answer.verdict.interval if answer.verdict else None
    return found is not None and any(end is not None and math.isinf(end) for end in (found.low, found.high))


def _margin(axes: Axes, line: pl.DataFrame, answer: Answer, log: bool) -> None:
    """The wedge of slopes that are within the margin, through the middle of the mean line."""
    verdict, scale = answer.verdict, scale_of(answer.quantities[0])
    if verdict is None or verdict.margin is None or line.is_empty() or not scale.straight:
        return
    x, y = line["x"].to_numpy(), line["value"].to_numpy()
    u = np.log(x) if log else x
    v = np.log(y) if scale.log else y
    reach = verdict.margin * (u[-1] - u[0]) / 2
    middle = v.mean()
    wedge = np.linspace(u[0], u[-1], 3)
    low, high = (middle + side * np.array([reach, 0, reach]) for side in (-1, 1))
    back = np.exp if log else np.asarray
    axes.fill_between(back(wedge), scale.back(low), scale.back(high), color=style.FAINT, alpha=0.55, lw=0, zorder=1)
