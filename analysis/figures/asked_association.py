"""An association: both quantities over items, one marker per seed, and each seed's rank correlation."""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.answers.questions import SEED, Answer, cells
from analysis.figures import style
from analysis.figures.asked_titles import title
from analysis.figures.scale import scale_of, value_axis
from analysis.runs.study import StudyData
from halflife.tracking.questions import Association
from halflife.tracking.schema import Declaration

CAPTION = (
    "Left: {other} against {quantity}, one point per item and seed; each seed has its own colour and marker. Right: "
    "the rank correlation over items of each seed, in its colour and marker, and their mean with its interval. Shaded: "
    "within the margin of no association."
)
MARKED = 8
"""Seeds that have a marker of their own; further ones share."""


def table(answer: Answer, data: StudyData) -> pl.DataFrame:
    """part item: seed, item, x (the quantity), y (the other); correlation: seed, value; mean: value, low, high."""
    question = answer.question
    assert isinstance(question, Association)
    cell, names = [SEED, question.items], ("x", "y")
    sides = [
        scale_of(quantity).shown(
            cells(answer.used.filter(pl.col("quantity") == quantity.name), cell).select(
                *cell, pl.col("value").alias(name)
            ),
            name,
        )
        for quantity, name in zip(answer.quantities, names, strict=True)
    ]
    both = sides[0].join(sides[1], on=cell).drop_nulls().sort(cell)
    if both.is_empty() or answer.estimates is None:
        return pl.DataFrame()
    names = {"seed": pl.col(SEED), "item": pl.col(question.items)}
    items = both.select("x", "y", part=pl.lit("item"), **{new: old.cast(pl.String) for new, old in names.items()})
    rows = [
        {"part": "correlation", "seed": str(seed), "value": float(value)}
        for seed, value in zip(answer.estimates.seeds, answer.estimates.values, strict=True) if np.isfinite(value)
    ]  # fmt: skip
    found = answer.verdict.interval if answer.verdict else None
    if found is not None:
        rows.append({"part": "mean", "seed": None, "value": found.estimate, "low": found.low, "high": found.high})
    schema = {"part": pl.String, "seed": pl.String, "value": pl.Float64, "low": pl.Float64, "high": pl.Float64}
    return pl.concat([items, pl.DataFrame(rows, schema=schema)], how="diagonal")


def draw(table: pl.DataFrame, answer: Answer, declaration: Declaration) -> Figure:
    items, own = table.filter(pl.col("part") == "item"), table.filter(pl.col("part") == "correlation")
    seeds = items["seed"].unique(maintain_order=True).to_list()
    looks = {seed: (colour, style.MARKERS[i % MARKED])
             for i, (seed, colour) in enumerate(zip(seeds, style.colours(len(seeds)), strict=True))}  # fmt: skip
    with style.styled():
        figure = style.new_figure(3.0)
        left, right = figure.subplots(1, 2, width_ratios=(1.9, 1))
        for seed, (colour, marker) in looks.items():
            part = items.filter(pl.col("seed") == seed)
            left.plot(part["x"], part["y"], ls="", marker=marker, ms=4.2, color=colour, mec="white", mew=0.4, alpha=0.9)
        x, y = (scale_of(quantity) for quantity in answer.quantities)
        value_axis(left, y, items["y"].to_list())
        if x.log:
            low, high = min(items["x"]), max(items["x"])
            pad = max(high / low, 1.2) ** 0.08
            left.set_xscale("log")
            left.set_xlim(low / pad, high * pad)
            style.log_ticks(left.xaxis, low / pad, high * pad)
        left.set_xlabel(x.label)
        _correlations(right, own, table.filter(pl.col("part") == "mean"), looks, answer.question.margin)
        figure.suptitle(title(answer), x=0.01, ha="left", fontsize=8.5, fontweight="bold")
        style.despine(figure)
        handles = [Line2D([], [], ls="", marker=marker, color=colour, ms=4.2, label=f"seed {seed}")
                   for seed, (colour, marker) in list(looks.items())[:MARKED]]  # fmt: skip
        figure.legend(
            handles=handles, loc="outside lower center", ncols=len(handles), columnspacing=0.9, handletextpad=0.2
        )
    return figure


def _correlations(axes: Axes, own: pl.DataFrame, mean: pl.DataFrame, looks: dict, margin: float | None) -> None:
    if margin is not None:
        axes.axhspan(-margin, margin, color=style.FAINT, alpha=0.55, lw=0, zorder=0)
    axes.axhline(0, color=style.INK, lw=0.8, zorder=1)
    spread = np.linspace(-0.25, 0.25, own.height) if own.height > 1 else np.zeros(1)
    for at, row in zip(spread, own.iter_rows(named=True), strict=False):
        colour, marker = looks.get(row["seed"], (style.MUTED, "o"))
        axes.plot([at], [row["value"]], ls="", marker=marker, ms=4.2, color=colour, mec="white", mew=0.4, zorder=3)
    for row in mean.iter_rows(named=True):
        if row["low"] is not None:
            axes.plot([0.75, 0.75], [row["low"], row["high"]], color=style.INK, lw=2.2, zorder=3)
        axes.plot([0.75], [row["value"]], "D", ms=6, color=style.INK, mec="white", mew=0.6, zorder=4)
    axes.set_xlim(-0.5, 1.15)
    axes.set_xticks([0, 0.75], ["seeds", "mean"])
    axes.set_ylim(-1.05, 1.05)
    axes.tick_params(axis="x", length=0)
    axes.grid(visible=False, axis="x")
    axes.set_ylabel("rank correlation over items")
