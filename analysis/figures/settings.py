"""Retention at every other setting, as small multiples."""

from __future__ import annotations

import textwrap

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.decay.design import described
from analysis.decay.retention import retention_curves
from analysis.figures import style
from analysis.figures.common import facets
from analysis.figures.retention import seed_mean
from analysis.runs.study import StudyData

CAPTION = (
    "One panel per setting, named by how it differs from the reference (first panel). Retention of the {answer}'s "
    "log-probability: 1 as at the drop, 0 where it meets the control. [sizes: One colour per size, dark is small "
    "and light is large.] Thick: means over seeds; thin: single seeds; grey: means of the reference, repeated in "
    "every panel. A setting preserves the {skill} longer if its curves lie to the right of the grey ones."
)
PANELS, COLUMNS, LETTERS = 12, 3, 36


def settings_table(data: StudyData) -> pl.DataFrame:
    """One row per evaluation of the treatments, by setting; settings that `retention` shows are left out, except the
    reference."""
    shown = facets(data).select("trial")
    trials = described(data).filter(pl.col("role") == "treatment")
    chosen = trials.join(shown, on="trial", how="anti") if trials["setting"].n_unique() > 1 else trials.clear()
    chosen = pl.concat([trials.filter("is_reference"), chosen]).select("trial").unique(maintain_order=True)
    curves = retention_curves(data).join(chosen, on="trial").drop_nulls("retention_logprob")
    if curves["setting"].n_unique() < 2:
        return pl.DataFrame()
    order = {"reference": 0, **{name: 1 + i for i, name in enumerate(trials["setting"].unique(maintain_order=True))}}
    places = pl.col("setting").replace_strict(order, return_dtype=pl.Int64)
    return (
        curves.with_columns(place=pl.when("is_reference").then(0).otherwise(places + 1).rank("dense") - 1)
        .filter(pl.col("place") < PANELS)
        .select(
            "setting", "place", "size", "parameters", "seed", "tokens", "success", "logprob", "control",
            retention="retention_logprob",
        )
        .sort("place", "parameters", "seed", "tokens")
    )  # fmt: skip


def draw_settings(table: pl.DataFrame) -> Figure:
    sizes = style.by_size(table)
    panels = table.partition_by("place", maintain_order=True)
    later = table.filter(pl.col("tokens") > 0)
    rows = -(-len(panels) // COLUMNS)
    with style.styled():
        figure = style.new_figure(0.6 + 1.75 * rows)
        grid = list(figure.subplots(rows, min(COLUMNS, len(panels)), sharex=True, sharey=True, squeeze=False).flat)
        for axes, part in zip(grid, panels, strict=False):
            low, high = (float(found) for found in (later["tokens"].to_numpy().min(), later["tokens"].to_numpy().max()))
            axes.set_xscale("log")
            axes.set_xlim(low / 1.15, high * 1.15)
            style.log_ticks(axes.xaxis, low, high, minor=False)
            _panel(axes, part.filter(pl.col("tokens") > 0), panels[0].filter(pl.col("tokens") > 0), sizes)
            axes.set_title("\n".join(textwrap.wrap(part["setting"][0], LETTERS, break_on_hyphens=False)), fontsize=7.5)
        style.small_multiples(grid, len(panels), min(COLUMNS, len(panels)))
        figure.supxlabel("tokens since the drop", fontsize=8)
        figure.supylabel("retention of the log-probability", fontsize=8)
        style.despine(figure)
        handles = [Line2D([], [], color=colour, lw=1.7, label=size) for size, _, colour in sizes]
        style.legend_above(figure, [*handles, Line2D([], [], color=style.MUTED, lw=0.9, label="reference")])
    return figure


def _panel(axes: Axes, part: pl.DataFrame, reference: pl.DataFrame, sizes: list) -> None:
    axes.axhline(0.5, color=style.INK, lw=0.6, ls=(0, (4, 3)), zorder=1)
    axes.set_ylim(-0.15, 1.1)
    axes.set_yticks([0, 0.5, 1])
    for size, _, colour in sizes:
        base = seed_mean(reference.filter(pl.col("size") == size), "retention")
        axes.plot(base["tokens"], base["retention"], color=style.MUTED, lw=0.9, alpha=0.7, zorder=2)
        own = part.filter(pl.col("size") == size)
        for seed in own.partition_by("seed", maintain_order=True):
            axes.plot(seed["tokens"], seed["retention"], color=colour, lw=0.5, alpha=0.4, zorder=3)
        mean = seed_mean(own, "retention")
        axes.plot(mean["tokens"], mean["retention"], color=colour, lw=1.5, zorder=4)
