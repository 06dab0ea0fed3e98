"""How much each behaviour takes in tokens, numbers and bits, compared across sizes."""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures import style
from analysis.prompts import amounts
from analysis.prompts.elicitation import series_key
from analysis.runs.study import StudyData

CAPTION = (
    "One row per behaviour, one colour per size, one panel per unit. Tokens: C, the smallest k tried that reaches the "
    "target loss, which is the study's matched loss if it declares one and otherwise closes half of each seed's gap. "
    "Numbers: C times the model's width. Bits: the fewest, over k and bits per number, to which a fitted prompt can "
    "be rounded and still reach the target. Numbers in random directions: the fewest trained numbers that reach the "
    "target when a prompt of the largest k moves from its initial value only within that many random directions. "
    "Points are medians over seeds, bars are order-statistic intervals (the range, below six seeds), arrows mark "
    "targets not reached by the largest amount tried. If the sizes coincide in a unit, the models need the same "
    "amount in that unit. All values are upper bounds on a coarse grid."
)


def amounts_table(data: StudyData) -> pl.DataFrame:
    """`amounts.compared` for the study's prompts."""
    return amounts.compared(data)


def draw_amounts(table: pl.DataFrame) -> Figure:
    """`table`: as returned by `amounts.compared`."""
    names = table["behaviour"].unique(maintain_order=True).to_list()
    sizes = sorted(table["series"].unique(), key=series_key)
    colours = dict(zip(sizes, style.colours(len(sizes)), strict=True))
    shown = [name for name in amounts.AMOUNTS if (table["amount"] == name).any()]
    step = 0.7 / max(1, len(sizes))
    with style.styled():
        figure = style.new_figure(1.1 + max(0.27, 0.13 * len(sizes)) * len(names))
        grid = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for axes, amount in zip(grid, shown, strict=True):
            part = table.filter(pl.col("amount") == amount)
            last = float(part["last"].to_numpy().max())
            for row in part.iter_rows(named=True):
                place = len(names) - 1 - names.index(row["behaviour"])
                shift = step * ((len(sizes) - 1) / 2 - sizes.index(row["series"]))
                _mark(axes, row, place + shift, colours[row["series"]], last)
            _scale(axes, part, last)
            axes.set_title(amounts.AMOUNTS[amount].replace(" (", "\n(").replace(" in ", "\nin "), fontsize=8)
            axes.tick_params(axis="y", length=0)
            axes.grid(visible=False, axis="y")
        grid[0].set_yticks(range(len(names))[::-1], names)
        grid[0].set_ylim(-0.6, len(names) - 0.4)
        style.despine(figure)
        handles = [Line2D([], [], color=colours[size], marker="o", ms=4, lw=1.2, label=size) for size in sizes if size]
        handles.append(Line2D([], [], color=style.INK, ls="", marker=">", ms=4.5, label="not reached"))
        style.legend_above(figure, handles)
    return figure


def _scale(axes: Axes, part: pl.DataFrame, last: float) -> None:
    axes.set_xscale("log")
    low = part.filter(pl.col("low").is_finite() & (pl.col("low") > 0))["low"]
    first = float(low.to_numpy().min()) if low.len() else last / 10
    end = 2.2 * last if part["high"].is_infinite().any() else 1.6 * float(part["high"].to_numpy().max())
    axes.set_xlim(first / 1.6, end)
    style.log_ticks(axes.xaxis, first / 1.6, end, minor=False)


def _mark(axes: Axes, row: dict, y: float, colour: str, last: float) -> None:
    beyond = 1.5 * last

    def at(value: float) -> float:
        return min(max(value, 1e-9), beyond)

    axes.plot([at(row["low"]), at(row["high"])], [y, y], color=colour, lw=1.1, solid_capstyle="butt", zorder=3)
    if np.isfinite(row["estimate"]):
        axes.plot(at(row["estimate"]), y, "o", ms=4, color=colour, mec="white", mew=0.4, zorder=5)
    if not np.isfinite(row["high"]):
        axes.plot(beyond, y, ">", ms=4.5, color=colour, zorder=5)
