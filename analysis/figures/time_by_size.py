"""Declared times, such as the half-life, against size: the leading figure of a study of scaling."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.answers.leading import SIZE, at_setting, times, with_quantities
from analysis.answers.questions import estimated
from analysis.decay.design import reference, value_label, values_of
from analysis.figures import points, style
from analysis.figures.common import FACETS, facet_axis
from analysis.figures.scale import Scale, amount_axis, scale_of, value_axis
from analysis.runs.study import StudyData
from analysis.stats.format import interval, plural
from analysis.stats.intervals import Interval
from analysis.stats.verdicts import Question, judge

CAPTION = (
    "Times that the study declares, by size, one panel each; the half-life where it declares none. In front: geometric "
    "means over seeds with 95% t intervals; behind: single seeds. An arrow marks a run that did not get there: the "
    "true time lies above. A few such runs are imputed beyond their bounds; with many, the mean is a bound and "
    "has an arrow too. Exponents: one slope of ln time over ln parameters per seed, then Student-t over seeds."
)
PANELS = 4
LEGEND = 48
"""Characters of a legend line that fit above half a page."""


def time_by_size_table(data: StudyData) -> pl.DataFrame:
    """points.POINTS for each time (`quantity`, with its axis `label`) and setting (`series`), and a part slope: the
    exponent with its interval."""
    if SIZE not in data.trials.columns or data.trials[SIZE].n_unique() < 2:
        return pl.DataFrame()
    found, shown = times(data)[:PANELS], _settings(data)
    own = with_quantities(data, found)
    parts = []
    for panel, quantity in enumerate(found):
        for place, (label, where) in enumerate(shown):
            answer = estimated(own, replace(at_setting(quantity, where), role="treatment"))
            if answer.used.is_empty():
                continue
            rows = points.over(answer.used, SIZE, series=label, place=place)
            if rows.is_empty():
                continue
            scale = scale_of(quantity)
            slope = answer.estimates and judge([Question(estimates=answer.estimates)])[0].interval
            about = {"quantity": pl.lit(quantity.name), "label": pl.lit(scale.label), "log": pl.lit(scale.log),
                     "panel": pl.lit(panel)}  # fmt: skip
            parts.append(pl.concat([points.shown(rows, scale), _slope(slope, label, place)]).with_columns(**about))
    return pl.concat(parts) if parts else pl.DataFrame()


def _settings(data: StudyData) -> list[tuple[str, dict]]:
    """The reference setting, and with it the first values of the axis that others figures show as columns."""
    chosen, axis = reference(data), facet_axis(data)
    if axis is None:
        return [("", chosen)]
    return [(value_label(axis, value), chosen | {axis.name: value}) for value in values_of(data, axis)[:FACETS]]


def _slope(found: Interval | None, label: str, place: int) -> pl.DataFrame:
    row = {"part": "slope", "series": label, "place": place}
    if found is not None:
        row |= {"value": found.estimate, "low": found.low, "high": found.high, "seeds": found.count}
    return points.framed(pl.DataFrame([row]))


def draw_time_by_size(table: pl.DataFrame) -> Figure:
    panels = table.partition_by("panel", maintain_order=True)
    columns = min(2, len(panels))
    with style.styled():
        figure = style.new_figure(3.1 * -(-len(panels) // 2), width=style.WIDTH if columns > 1 else 4.6)
        grid = list(figure.subplots(-(-len(panels) // columns), columns, squeeze=False).flat)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        for axes, part in zip(grid, panels, strict=False):
            _panel(axes, part)
        style.despine(figure)
    return figure


def _panel(axes: Axes, table: pl.DataFrame) -> None:
    scale, points_only = Scale(label=table["label"][0], log=table["log"][0]), table.filter(pl.col("part") != "slope")
    amount_axis(axes, points_only["x"].unique().sort().to_list(), True)
    value_axis(axes, scale, points.ends(points_only, scale.log))
    series = table.partition_by("place", maintain_order=True)
    handles = []
    for part, colour, marker in zip(series, style.colours(len(series), "cividis"), style.MARKERS, strict=False):
        own = part.filter(pl.col("part") != "slope")
        points.draw_points(axes, own, own["x"].to_numpy(), colour=colour, faint=colour, marker=marker)
        label = _text(part.filter(pl.col("part") == "slope").row(0, named=True), own, scale)
        handles.append(Line2D([], [], color=colour, lw=1.6, marker=marker, ms=5, mec="white", mew=0.6, label=label))
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(-0.02, 1.0), borderaxespad=0.2, labelspacing=0.3)
    axes.set_xlabel("non-embedding parameters")


def _text(slope: dict, own: pl.DataFrame, scale: Scale) -> str:
    """ "branch rate: 1, exponent 0.41 [0.33, 0.49], 5 seeds"; on two lines if it is long."""
    if slope["value"] is None:
        late = own.filter((pl.col("part") == "seed") & (pl.col("kind") == "above")).height
        text = "no exponent" + (f" ({late} not reached)" if late else "")
    else:
        found = Interval(estimate=slope["value"], low=slope["low"], high=slope["high"], count=slope["seeds"])
        what = "exponent" if scale.log else "slope per unit of ln size"
        text = f"{what} {interval(found)}, {plural(found.count, 'seed')}".replace("-", "−")
    label = slope["series"]
    return f"{label}{', ' if len(label + text) < LEGEND else chr(10)}{text}" if label else text
