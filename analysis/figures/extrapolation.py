"""How well a law predicts data it was not fitted to: the rest of the decay, and the largest size."""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.decay import fits
from analysis.figures import style
from analysis.runs.study import StudyData

CAPTION = (
    "Left: each law is fitted to the beginning of every run and predicts the rest. Shown is the root mean square "
    "error of the predicted margin, averaged over sizes, against the fraction of the log span used for fitting; bars "
    "(which may leave the panel) are 95% t intervals over seeds. Right: the half-life at the largest size predicted "
    "from the smaller sizes, divided by the observed one (1 is exact), with the same bars; seeds with a censored "
    "half-life at any size are left out. A law that can be trusted beyond the data has a low, flat line and a bar "
    "that covers 1. A law that fits best but predicts badly has fitted noise."
)
SHOWN = 6


def extrapolation_table(data: StudyData) -> pl.DataFrame:
    """`fits.predictions` of the SHOWN best laws."""
    return fits.predictions(data, fits.ranking(data)["law"].to_list()[:SHOWN])


def draw_extrapolation(table: pl.DataFrame) -> Figure:
    """`table`: part (rolling | largest), law, rank (0 the best fit), seen (share of the log span shown, for rolling),
    estimate (error in nats per token, or ratio of predicted to observed), low, high."""
    laws = table.select("rank", "law").unique().sort("rank")["law"].to_list()
    colours = style.colours(len(laws))
    rolling, largest = (table.filter(pl.col("part") == part) for part in ("rolling", "largest"))
    with style.styled():
        figure = style.new_figure(0.9 + max(2.0, 0.24 * len(laws)))
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        handles = []
        for law, colour, dash in zip(laws, colours, [*style.DASHES] * 3, strict=False):
            own = rolling.filter(pl.col("law") == law).sort("seen")
            left.plot(own["seen"], own["estimate"], color=colour, ls=dash, lw=1.4, marker="o", ms=3)
            left.vlines(own["seen"], own["low"], own["high"], color=colour, lw=0.8, alpha=0.6)
            handles.append(Line2D([], [], color=colour, ls=dash, lw=1.4, marker="o", ms=3, label=law.replace("_", " ")))
        left.set_ylim(0, 1.5 * max(rolling["estimate"].drop_nulls(), default=1.0))  # bars may leave it
        left.set_xlabel("fraction of the run's log span used for fitting")
        left.set_ylabel("error on the rest (nats per token)")
        seen = rolling["seen"].unique().sort().to_list()
        left.set_xticks(seen, [f"{100 * share:.0f}%" for share in seen])
        _ratios(right, largest, laws, colours)
        style.despine(figure)
        style.legend_above(figure, handles, handlelength=3.0)
    return figure


def _ratios(axes: Axes, largest: pl.DataFrame, laws: list[str], colours: list) -> None:
    ends: list[float] = []
    for place, (law, colour) in enumerate(zip(laws, colours, strict=True)):
        for row in largest.filter(pl.col("law") == law).drop_nulls("estimate").iter_rows(named=True):
            if row["low"] is not None:
                axes.plot([row["low"], row["high"]], [place, place], color=colour, lw=1.4, solid_capstyle="butt")
                ends += [row["low"], row["high"]]
            axes.plot([row["estimate"]], [place], "o", color=colour, ms=4.5, mec="white", mew=0.5)
            ends.append(row["estimate"])
    if not ends:
        axes.set_xticks([])
        style.nothing_here(axes, "no half-life could be predicted\nfrom two smaller sizes")
        return
    axes.axvline(1, color=style.INK, lw=0.8)
    style.ratio_axis(axes, ends)
    axes.set_yticks(range(len(laws)), [law.replace("_", " ") for law in laws])
    axes.set_ylim(len(laws) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("half-life at the largest size,\npredicted / observed")
