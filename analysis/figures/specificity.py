"""How well features stand for known concepts, by the width of dictionaries that blocks share or not."""

from __future__ import annotations

import textwrap

import numpy as np
import polars as pl
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures import style
from analysis.figures.common import control_labels, facets
from analysis.interpret.dictionaries import OWN, SHARED, specificity
from analysis.runs.study import StudyData
from analysis.stats.intervals import t_interval

CAPTION = (
    "Specificity of fresh dictionaries against their number of features: the mean over the text's known concepts of F1 "
    "of the best feature, above that of always saying yes (1: a feature fires exactly where the concept holds); signs "
    "are chosen on other text than they are scored on. Solid: one dictionary shared by all blocks; dashed: one for "
    "each block, with so many features each. Faint: seeds (sizes averaged within a seed); thick: means with 95% t "
    "intervals. The horizontal distance between the two is how many more features a shared dictionary needs."
)
TITLE = 25
"""Characters of a panel title on one line"""
LOOK = {SHARED: "-", OWN: (0, (4, 2))}
LABELS = {SHARED: "shared by all blocks", OWN: "one per block"}


def specificity_table(data: StudyData) -> pl.DataFrame:
    """condition (its label), place (its order), dictionary, latents, seed, specificity, mean over sizes: of treatments
    at the reference in all but one axis, and of the controls."""
    found = specificity(data)
    if found.is_empty():
        return pl.DataFrame()
    shown = (
        facets(data)
        .rename({"facet": "condition"})
        .with_columns(
            condition=pl.when(pl.col("condition") == "").then(pl.lit("beside a dictionary")).otherwise("condition")
        )
    )
    last = int(shown["place"].to_numpy().max()) + 1 if shown.height else 0
    roles = list(control_labels(data).items())
    labels = pl.DataFrame(
        [(role, label, last + place) for place, (role, label) in enumerate(roles)],
        schema={"role": pl.String, "condition": pl.String, "place": pl.Int64}, orient="row",
    )  # fmt: skip
    controls = data.trials.select("trial", "role").join(labels, on="role").select("trial", "condition", "place")
    table = found.join(pl.concat([shown.with_columns(pl.col("place").cast(pl.Int64)), controls]), on="trial")
    table = table.join(data.trials.select("trial", "seed"), on="trial")
    by = ["condition", "place", "dictionary", "latents", "seed"]
    return table.group_by(by).agg(pl.col("specificity").mean()).sort("place", "dictionary", "latents", "seed")


def draw_specificity(table: pl.DataFrame) -> Figure:
    panels = table.partition_by("place", maintain_order=True)
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    with style.styled():
        figure = style.new_figure(0.6 + 2.1 * rows, width=style.WIDTH if columns > 1 else 4.0)
        grid = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
        for axes, part in zip(grid, panels, strict=False):
            _panel(axes, part)
            axes.set_title(textwrap.fill(part["condition"][0], TITLE if columns > 1 else 2 * TITLE))
        grid[0].set_ylim(0, None)
        style.small_multiples(grid, len(panels), columns)
        figure.supxlabel("features of the dictionary", fontsize=8)
        figure.supylabel("specificity", fontsize=8)
        style.despine(figure)
        style.legend_above(
            figure, [Line2D([], [], color=style.INK, ls=LOOK[name], lw=1.4, label=LABELS[name]) for name in LOOK]
        )
    return figure


def _panel(axes: Axes, part: pl.DataFrame) -> None:
    for (name,), own in part.group_by(["dictionary"], maintain_order=True):
        for (_,), seed in own.group_by(["seed"], maintain_order=True):
            axes.plot(seed["latents"], seed["specificity"], color=style.MUTED, ls=LOOK[str(name)], lw=0.6, alpha=0.5)
        counts = own["latents"].unique().sort().to_list()
        values = [own.filter(pl.col("latents") == count)["specificity"] for count in counts]
        axes.plot(
            counts, [float(np.mean(each.to_numpy())) for each in values], color=style.INK, ls=LOOK[str(name)], lw=1.5,
            marker="o", ms=3, zorder=4,
        )  # fmt: skip
        for count, each in zip(counts, values, strict=True):
            found = t_interval(each)
            if found is not None and found.low is not None and found.high is not None and len(each) > 2:
                axes.plot([count, count], [found.low, found.high], color=style.INK, lw=1.0, zorder=3)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(ticker.FixedLocator(part["latents"].unique().sort().to_list()))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:.0f}"))
