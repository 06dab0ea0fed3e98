"""Gone or gated: what each reading still finds of the dropped language, relative to a model that never saw it."""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.decay.conditions import is_family_study
from analysis.decay.erasure import (
    LAYER,
    MAIN,
    QUANTILES,
    RELEARN,
    SAID,
    SAVING,
    by_condition,
    depth_rows,
    examples_of,
    shares,
)
from analysis.figures import style
from analysis.runs.study import StudyData

CAPTION = (
    "One row per condition, one column per reading, from what the model outputs to what lies deepest, all at the end "
    "of the branch. The scale is the same in all columns: 0 is a model that never learned the {skill}, 1 is the "
    "advantage over it at the drop. Output: correct answers by greedy decoding. Few shots: the same with examples in "
    "context. Forced choice: the correct answer is the likeliest of all its answers. Linear probe: the "
    "answer read from the layer with the largest advantage at the drop. Relearning: tokens saved, at equal examples "
    "and budget, in recovering a quarter, half and nine tenths of it. Last column: the share of the lost "
    "output that the other readings still find (their mean); right is gated, left is scrambled; it is given if at "
    "least half of the output is lost. Points are means over sizes within a seed, then over seeds, with 95% t "
    "intervals (pale for two seeds). Hollow marks include bounds from relearning that did not finish within the "
    "budget; arrows lie beyond the panel; the word none: no advantage at the drop. Grey: control whose answers were "
    "shuffled, a table without a rule."
)
COLUMNS = {
    SAID: "output", "shots": "few shots", "choice": "forced\nchoice", LAYER: "linear\nprobe", SAVING: "relearning",
    "gated": "scrambled\n↔ gated",
}  # fmt: skip
LOW, HIGH = -0.3, 1.25
MARKS = dict(zip(QUANTILES, ("^", "o", "s"), strict=True))
ROW = 0.27
"""Inches per condition."""


def erasure_table(data: StudyData) -> pl.DataFrame:
    """One row per condition and reading (relearning with the most examples: per quantile): `erasure.by_condition`."""
    if not is_family_study(data):
        return pl.DataFrame()
    frame, phases = shares(data), examples_of(data)
    most = phases[-1].removeprefix(RELEARN) if phases else ""
    frame = frame.filter((pl.col("reading") != SAVING) | pl.col("detail").str.starts_with(f"{most} "))
    if frame.is_empty():
        return frame
    return pl.concat([by_condition(frame), depth_rows(data)]).sort("place", "reading", "detail")


def draw_erasure(table: pl.DataFrame) -> Figure:
    rows = table.select("condition", "place", "role").unique().sort("place")
    shown = [name for name in COLUMNS if (table["reading"] == name).any()]
    with style.styled():
        figure = style.new_figure(1.15 + ROW * rows.height)
        widths = [1.55 if name == "gated" else 1.2 if name == SAVING else 1.0 for name in shown]
        grid = figure.subplots(1, len(shown), sharey=True, squeeze=False, width_ratios=widths)[0]
        for axes, reading in zip(grid, shown, strict=True):
            _column(axes, table.filter(pl.col("reading") == reading), rows, reading)
        first = grid[0]
        first.set_yticks(range(rows.height), [_wrapped(name) for name in rows["condition"]])
        first.set_ylim(rows.height - 0.5, -0.5)
        for label, name in zip(first.get_yticklabels(), rows["condition"], strict=True):
            label.set_fontweight("bold" if "," not in name else "normal")
        for axes in grid:
            axes.tick_params(axis="y", length=0)
            for place in _breaks(rows):
                axes.axhline(place, color=style.FAINT, lw=0.8)
        style.despine(figure)
        figure.supxlabel("0: like a model that never learned it      1: as at the drop", fontsize=8)
        if SAVING in shown:
            handles = [
                Line2D([], [], color=style.INK, ls="", marker=mark, ms=4, label=f"{quantile:.0%} of skill recovered")
                for quantile, mark in MARKS.items()
            ]
            style.legend_above(figure, handles, handlelength=1.0)
    return figure


def _column(axes: Axes, part: pl.DataFrame, rows: pl.DataFrame, reading: str) -> None:
    places = {place: at for at, place in enumerate(rows["place"])}
    axes.set_xlim(LOW, HIGH)
    axes.set_xticks([0, 0.5, 1], ["0", "½", "1"])
    axes.set_title(COLUMNS[reading], loc="center")
    axes.grid(visible=False, axis="y")
    axes.axvline(0, color=style.INK, lw=0.8)
    axes.axvline(1, color=style.INK, lw=0.8, ls=(0, (4, 2)))
    if reading == "gated":
        axes.axvspan(LOW, HIGH, color="#f6f8fa", lw=0, zorder=0)
    for row in part.iter_rows(named=True):
        at = places[row["place"]]
        colour = style.MUTED if row["role"] == "null" else style.INK
        mark = "o"
        if reading == SAVING:
            quantile = float(row["detail"].rpartition(" ")[2])
            mark, at = MARKS[quantile], at + 0.26 * (list(MARKS).index(quantile) - 1)
            colour = style.MUTED if quantile != MAIN else colour
        if row["share"] is None:
            why = "still output" if reading == "gated" and row["runs"] == row["none"] else "none"
            axes.annotate(why, (0.5, at), ha="center", va="center", fontsize=7, color=style.MUTED)
            continue
        if reading == "gated":  # a bar from 0: the column to read first
            axes.plot([0, min(max(row["share"], LOW), HIGH)], [at, at], color=style.FAINT, lw=4, zorder=2)
        _mark(axes, row, at, mark, colour, 5.2 if reading == "gated" else 3.6)


def _mark(axes: Axes, row: dict, at: float, mark: str, colour: str, size: float) -> None:
    if row["low"] is not None:
        low, high = max(row["low"], LOW), min(row["high"], HIGH)
        if low < high:
            drawn = colour if row["seeds"] > 2 else style.FAINT  # two seeds: uninformative
            axes.plot([low, high], [at, at], color=drawn, lw=1.2, solid_capstyle="butt", zorder=3)
    inside = min(max(row["share"], LOW + 0.06), HIGH - 0.06)
    if inside != row["share"]:
        mark = "<" if row["share"] < inside else ">"
    axes.plot(
        [inside], [at], ls="", marker=mark, ms=size, color=colour, mfc="white" if row["bounded"] else colour, mew=0.8,
        zorder=4,
    )  # fmt: skip


def _breaks(rows: pl.DataFrame) -> list[float]:
    """Positions between the rows of two families."""
    of = [name.partition(",")[0] for name in rows["condition"]]
    return [at - 0.5 for at in range(1, len(of)) if of[at] != of[at - 1]]


def _wrapped(name: str, longest: int = 34) -> str:
    """The label without what its family's first row already says, cut at `longest` characters."""
    family, comma, rest = name.partition(", ")
    label = (rest if comma else family).replace("regularizer of the ", "")
    return label if len(label) <= longest else label[: longest - 1] + "…"
