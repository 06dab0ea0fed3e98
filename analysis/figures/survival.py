"""Share of runs that still have the skill over time: Kaplan-Meier with the number at risk."""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.decay import survival
from analysis.figures import style
from analysis.runs.study import StudyData

CAPTION = (
    "Share of runs whose retention has not yet fallen below one half for good (Kaplan-Meier), with 95% pointwise "
    "intervals; a tick marks runs that ended before that (censored: they count for as long as they were observed). "
    "Below: the number of runs still observed and above half. A curve that ends high shows that the runs were too "
    "short, not that the skill lasts. Runs of one seed share data order, so the bands are too narrow as statements "
    "about new seeds."
)


def survival_table(data: StudyData) -> pl.DataFrame:
    """Kaplan-Meier curves of the reference setting by size; place: the order of the groups."""
    table = survival.survival_table(data)
    order = {name: place for place, name in enumerate(table["group"].unique(maintain_order=True))}
    return table.with_columns(place=pl.col("group").replace_strict(order, return_dtype=pl.Int64))


def draw_survival(table: pl.DataFrame) -> Figure:
    """`table`: group, place (its order), time (tokens), survival, low, high, at_risk (before this time), events,
    censored; the first row of a group is at time 0 with survival 1."""
    groups = table.sort("place", "time").partition_by("place", maintain_order=True)
    later = table.filter(pl.col("time") > 0)["time"].to_numpy()
    with style.styled():
        figure = style.new_figure(2.6 + 0.17 * len(groups), width=5.6)
        ratios = (2.2, 0.05 + 0.17 * len(groups))
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=ratios)
        axes.set_xscale("log")
        low, high = float(later.min()) / 1.3, float(later.max()) * 1.15
        axes.set_xlim(low, high)
        style.log_ticks(axes.xaxis, low, high)
        handles = []
        colours = style.colours(len(groups))
        for part, colour in zip(groups, colours, strict=True):
            _steps(axes, part, colour, low, high)
            handles.append(Line2D([], [], color=colour, lw=1.6, label=part["group"][0]))
        axes.set_ylim(-0.03, 1.04)
        axes.set_ylabel("runs above half")
        axes.tick_params(axis="x", labelbottom=True)
        axes.set_xlabel("tokens since the drop")
        _at_risk(below, groups, low, high)
        style.despine(figure)
        for side in ("left", "bottom"):
            below.spines[side].set_visible(False)
        style.legend_above(figure, handles)
    return figure


def _steps(axes: Axes, part: pl.DataFrame, colour: object, low: float, high: float) -> None:
    times = np.maximum(part["time"].to_numpy(), low)
    level = part["survival"].to_numpy()
    axes.step([*times, min(high, times[-1])], [*level, level[-1]], where="post", color=colour, lw=1.6, zorder=3)
    band = part.drop_nulls(["low", "high"])
    at = np.maximum(band["time"].to_numpy(), low)
    axes.fill_between(at, band["low"], band["high"], step="post", color=colour, alpha=0.14, lw=0)
    ended = part.filter(pl.col("censored") > 0)
    axes.plot(ended["time"], ended["survival"], ls="", marker="|", ms=6, mew=1.2, color=colour, zorder=4)


def _at_risk(axes: Axes, groups: list[pl.DataFrame], low: float, high: float) -> None:
    axes.grid(visible=False)
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.set_yticks(range(len(groups)), [part["group"][0] for part in groups])
    axes.tick_params(axis="both", which="both", length=0, labelbottom=False)
    axes.set_title("at risk", fontsize=7.5, fontweight="normal", pad=2)
    for row, part in enumerate(groups):
        for at in np.geomspace(low * 1.15, high / 1.15, 6):
            passed = part.filter(pl.col("time") >= at)
            count = int(passed["at_risk"][0]) if passed.height else 0
            axes.text(at, row, str(count), ha="center", va="center", fontsize=7)
