"""What an adaptive search found: its Pareto front, and which parameters mattered."""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.decay import search
from analysis.figures import style
from analysis.runs.study import StudyData
from analysis.stats.format import short

CAPTION = (
    "Left: every setting the search evaluated, by its objectives, dark is early and light is late. Circled and "
    "joined: the Pareto front, on which neither objective can improve without loss in the other; crosses: settings "
    "that violate a constraint on any seed. Large diamonds: the best settings rerun on fresh seeds, with 95% "
    "intervals; these are the result, because the search's own values are subject to selection bias (winner's curse). "
    "Crossed and grey: a constraint was violated on some fresh seed. With one objective: its value over the search. "
    "Right: share of the first objective's variance over settings that each parameter explains alone (adjusted for "
    "its degrees of freedom; bars are 95% jackknife intervals over settings). A search concentrates where results "
    "are good, so a small share is weak evidence against a parameter."
)


def pareto_table(data: StudyData) -> pl.DataFrame:
    """`search.tried` (part: setting) and `search.importances` (part: importance), concatenated."""
    tried = search.evaluated_settings(data)
    if tried.is_empty():
        return pl.DataFrame()
    importances = search.importances(data, tried).with_columns(part=pl.lit("importance"))
    return pl.concat([tried.with_columns(part=pl.lit("setting")), importances], how="diagonal")


def draw_pareto(table: pl.DataFrame) -> Figure:
    """`table`: part; of settings: suggestion (order), role (treatment | held-out), x, y, x_low, x_high, y_low, y_high,
    x_label, y_label, feasible, front; of importances: dial, share, low, high. y is null with one objective."""
    tried = table.filter(pl.col("part") == "setting")
    dials = table.filter(pl.col("part") == "importance").sort("share", descending=True)
    with style.styled():
        figure = style.new_figure(max(2.9, 1.0 + 0.26 * dials.height))
        left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
        if tried["y"].null_count() == tried.height:
            _history(left, tried)
        else:
            _front(left, tried)
        _importances(right, dials)
        style.despine(figure)
        handles = [
            Line2D([], [], color=style.INK, marker="o", ls="", ms=3, label="evaluated"),
            Line2D([], [], color=style.INK, marker="o", mfc="none", ls="-", lw=1, ms=6, label="Pareto front"),
            Line2D([], [], color=style.MUTED, marker="x", ls="", ms=4, label="violates a constraint"),
            Line2D([], [], color=style.INK, marker="D", mfc="white", ls="", ms=5, label="rerun on fresh seeds"),
        ]
        style.legend_above(figure, handles)
    return figure


def _front(axes: Axes, tried: pl.DataFrame) -> None:
    searched, again = tried.filter(pl.col("role") != "held-out"), tried.filter(pl.col("role") == "held-out")
    good, broken = searched.filter("feasible"), searched.filter(~pl.col("feasible"))
    axes.plot(broken["x"], broken["y"], "x", ms=3.5, mew=0.8, color=style.MUTED, zorder=2)
    good = good.sort("suggestion")
    axes.scatter(good["x"], good["y"], s=11, c=style.colours(good.height), lw=0, zorder=3)
    front = good.filter("front").sort("x")
    axes.plot(front["x"], front["y"], "-o", color=style.INK, lw=1, ms=6, mfc="none", mew=0.9, zorder=4)
    for row in again.iter_rows(named=True):
        colour = style.INK if row["feasible"] else style.MUTED
        if row["x_low"] is not None:
            axes.plot([row["x_low"], row["x_high"]], [row["y"]] * 2, color=colour, lw=1.1, zorder=5)
        if row["y_low"] is not None:
            axes.plot([row["x"]] * 2, [row["y_low"], row["y_high"]], color=colour, lw=1.1, zorder=5)
        axes.plot(row["x"], row["y"], "D", ms=5, color=colour, mfc="white", zorder=6)
        if not row["feasible"]:
            axes.plot(row["x"], row["y"], "x", ms=3.5, mew=0.8, color=colour, zorder=7)
    axes.set_xlabel(tried["x_label"][0])
    axes.set_ylabel(tried["y_label"][0])
    _plain(axes.xaxis)
    _plain(axes.yaxis)


def _history(axes: Axes, tried: pl.DataFrame) -> None:
    searched = tried.filter(pl.col("role") != "held-out").sort("suggestion")
    good, broken = searched.filter("feasible"), searched.filter(~pl.col("feasible"))
    axes.plot(broken["suggestion"], broken["x"], "x", ms=3.5, mew=0.8, color=style.MUTED)
    axes.plot(good["suggestion"], good["x"], "o", ms=3, color=style.INK)
    best = good.filter("front")
    axes.plot(best["suggestion"], best["x"], "o", ms=7, mfc="none", color=style.INK)
    axes.set_xlabel("setting, in search order")
    axes.set_ylabel(tried["x_label"][0])
    _plain(axes.yaxis)


def _plain(axis) -> None:
    axis.set_major_formatter(lambda value, _: short(value, 2))


def _importances(axes: Axes, dials: pl.DataFrame) -> None:
    if dials.is_empty():
        style.nothing_here(axes, "too few settings to estimate importances")
        axes.set_xticks([])
        return
    places = range(dials.height)
    axes.barh(places, dials["share"], height=0.55, color=style.FAINT, edgecolor=style.INK, lw=0.6)
    for place, row in zip(places, dials.iter_rows(named=True), strict=True):
        if row["low"] is not None:
            axes.plot([row["low"], row["high"]], [place, place], color=style.INK, lw=1.2)
    axes.set_yticks(places, dials["dial"].to_list())
    axes.set_ylim(dials.height - 0.4, -0.6)
    axes.set_xlim(0, 1.08 * max(0.1, *dials["share"], *dials["high"].drop_nulls()))
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("share of variance explained alone")
