"""How often a restart succeeds, and so how much a single fitted prompt proves."""

from __future__ import annotations

import textwrap

import polars as pl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures import style
from analysis.figures.soft_prompts import COLUMNS, LOOK, TITLE
from analysis.prompts import elicitation, information
from analysis.runs.study import StudyData
from analysis.stats.intervals import binomial_interval

CAPTION = (
    "One panel per behaviour: the share of all restarts, over all seeds, whose prompt of k tokens "
    f"{elicitation.HALF_CLOSED}, with Wilson's 95% intervals. Solid: the model that has the behaviour; dashed: one "
    "that never had it. If prompts had several kinds of initialization, a colour is an initialization and the "
    "restarts of all sizes are counted together (the table lists each size); otherwise a colour is a size. Lines are "
    "offset at each k. Where the share is small, one failed prompt proves little."
)
SPREAD = 1.25
"""Factor between the positions of the first and the last line at one k."""


def restarts_table(data: StudyData) -> pl.DataFrame:
    """`information.restart_table` for the study's prompts, by held-out loss."""
    prompts = elicitation.runs(data)
    scored = information.reached(prompts, "loss") if prompts.height else prompts
    if scored.is_empty() or scored.filter(pl.col("k") > 0)["restart"].n_unique() < 2:
        return pl.DataFrame()
    return information.restart_table(scored)


def draw_restarts(table: pl.DataFrame) -> Figure:
    """`table`: as returned by `information.restart_table`."""
    table = _lines(table)
    lines = sorted(table["line"].unique(), key=elicitation.series_key)
    colours = dict(zip(lines, style.colours(len(lines)), strict=True))
    panels = table.partition_by("behaviour", maintain_order=True)
    columns = min(COLUMNS, len(panels))
    with style.styled():
        figure = style.new_figure(0.6 + 1.8 * -(-len(panels) // columns), width=style.WIDTH if columns > 1 else 4.2)
        grid = list(figure.subplots(-(-len(panels) // columns), columns, squeeze=False, sharey=True).flat)
        for axes, part in zip(grid, panels, strict=False):
            style.token_axis(axes, int(part["k"].to_numpy().max()))
            axes.set_xlim(left=0.8)
            places = sorted(part.select("model", "line").unique().rows(), key=lambda row: (lines.index(row[1]), row[0]))
            count = len(places)
            for place, (model, line) in enumerate(places):
                own = part.filter((pl.col("model") == model) & (pl.col("line") == line)).sort("k")
                colour, at = colours[line], own["k"] * SPREAD ** ((place + 0.5) / count - 0.5)
                axes.plot(at, own["rate"], color=colour, ls=LOOK[str(model)], marker="o", ms=3, lw=1.4)
                axes.vlines(at, own["low"], own["high"], color=colour, lw=0.8)
            axes.set_ylim(-0.04, 1.04)
            axes.set_title(textwrap.fill(part["behaviour"][0], TITLE))
        style.small_multiples(grid, len(panels), columns)
        figure.supxlabel("soft-prompt tokens k", fontsize=8)
        figure.supylabel("share of restarts", fontsize=8)
        style.despine(figure)
        handles = [Line2D([], [], color=colours[name], lw=1.6, label=name) for name in lines if name]
        for model, label in (("present", "has the behaviour"), ("absent", "never had it")):
            if (table["model"] == model).any():
                handles.append(Line2D([], [], color=style.INK, ls=LOOK[model], lw=1.4, label=label))
        style.legend_above(figure, handles)
    return figure


def _lines(table: pl.DataFrame) -> pl.DataFrame:
    """`table` with `line`, which sets the colour: the initialization, all series pooled, or the series if there is only
    one initialization."""
    by = "initial" if table["initial"].n_unique() > 1 else "series"
    counts = (
        table.with_columns(line=pl.col(by).fill_null(""))
        .group_by("behaviour", "model", "line", "k", maintain_order=True)
        .agg(pl.col("hits").sum(), pl.col("restarts").sum())
    )
    low, high = binomial_interval(counts["hits"].to_numpy(), counts["restarts"].to_numpy())
    return counts.with_columns(rate=pl.col("hits") / pl.col("restarts"), low=pl.Series(low), high=pl.Series(high))
