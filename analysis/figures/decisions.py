"""Decision accuracy: in how many pairs of settings the order at a size is that at the largest one, against compute."""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.answers.decisions import decision_accuracy
from analysis.figures import style
from analysis.runs.study import StudyData
from analysis.stats.format import plural, short

CAPTION = (
    "Decision accuracy (Magnusson et al. 2025, DataDecide): in how many pairs of settings one seed at a small size has "
    "the order of the largest size, against the compute of one run. The order at the largest size is that of the means "
    "over the other seeds; the last, hollow point says how often one seed of the largest size itself agrees with it: "
    "what noise allows. Small: single seeds; large: means over seeds with 95% t intervals, a seed being a cluster. "
    "Dashed: a coin."
)


def decisions_table(data: StudyData) -> pl.DataFrame:
    """decisions.ACCURACY."""
    return decision_accuracy(data)


def draw_decisions(table: pl.DataFrame) -> Figure:
    names = table["quantity"].unique(maintain_order=True).to_list()
    sizes = table.select("parameters", "compute").unique().sort("parameters")
    with style.styled():
        figure = style.new_figure(3.2, width=4.8)
        axes = figure.subplots()
        axes.axhline(0.5, color=style.INK, lw=0.8, ls="--", zorder=1)
        handles = []
        for i, (name, colour) in enumerate(zip(names, style.colours(len(names), "cividis"), strict=True)):
            own = table.filter(pl.col("quantity") == name)
            step = 1 + 0.05 * (i - (len(names) - 1) / 2)  # so that intervals of two quantities do not hide one another
            _line(axes, own.with_columns(pl.col("compute") * step), colour, style.MARKERS[i], sizes["parameters"][-1])
            pairs = max(own["pairs"])
            handles.append(Line2D([], [], color=colour, lw=1.6, marker=style.MARKERS[i], ms=5, mec="white", mew=0.6,
                                  label=f"{own['label'][0]} ({plural(pairs, 'pair')})"))  # fmt: skip
        _axes(axes, sizes)
        style.legend_above(figure, handles)
        style.despine(figure)
    return figure


def _line(axes: Axes, own: pl.DataFrame, colour: object, marker: str, largest: int) -> None:
    for seed in own.drop_nulls("seed").partition_by("seed", maintain_order=True):
        axes.plot(
            seed["compute"], seed["accuracy"], lw=0.5, alpha=0.4, color=colour, marker=marker, ms=2.2, mew=0, zorder=2
        )
    means = own.filter(pl.col("seed").is_null()).sort("parameters")
    spread = means.drop_nulls(["low", "high"])
    axes.vlines(spread["compute"], spread["low"], spread["high"], color=colour, lw=1.3, zorder=3)
    axes.plot(means["compute"], means["accuracy"], lw=1.6, color=colour, zorder=4)
    for last, fill in ((False, colour), (True, "white")):
        part = means.filter((pl.col("parameters") == largest) == last)
        axes.plot(part["compute"], part["accuracy"], ls="", marker=marker, ms=5.5, color=colour, mfc=fill,
                  mec=colour if last else "white", mew=1.0 if last else 0.6, zorder=5)  # fmt: skip


def _axes(axes: Axes, sizes: pl.DataFrame) -> None:
    compute = sizes["compute"].to_list()
    axes.set_xscale("log")
    pad = (compute[-1] / compute[0]) ** 0.07
    axes.set_xlim(compute[0] / pad, compute[-1] * pad)
    labels = [f"{short(at, 2)}\n{style.trimmed(n)}" for n, at in sizes.select("parameters", "compute").iter_rows()]
    axes.set_xticks(compute, labels)
    axes.set_xticks([], minor=True)
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel("FLOPs of one run, and its parameters")
    axes.set_ylabel("pairs with the largest size's order")
