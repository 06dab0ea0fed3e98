"""How much of what fine-tuning did edits of features make, by their number, against matched features."""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.decay.design import described
from analysis.figures import style
from analysis.interpret.attribution import ATTRIBUTED, DIFFERENCE, MATCHED, edits
from analysis.runs.study import StudyData
from analysis.stats.intervals import t_interval

CAPTION = (
    "The share of the change that fine-tuning made in the logits, less its null, on held-out texts. Left: reproduced "
    "in the trunk by moving the top features together, in proportion to their activations. Right: undone in the tuned "
    "model by moving them back. Solid: the features with the highest scores; dotted: others as active, with effects "
    "as large; dashed: the mean difference of the two models' activations, added everywhere. Thin: seeds (runs, sizes "
    "and dictionaries averaged within one); thick: means with 95% t intervals."
)
LOOK = {ATTRIBUTED: ("-", style.INK), MATCHED: (":", style.MUTED), DIFFERENCE: ((0, (4, 2)), style.INK)}
LABELS = {ATTRIBUTED: "highest scores", MATCHED: "matched features", DIFFERENCE: "mean difference"}
MADE = ("reproduced", "undone")


def feature_edits_table(data: StudyData) -> pl.DataFrame:
    """made, compared, features, seed, value: at the reference setting, of edits in proportion to activations."""
    found = pl.DataFrame(list(edits(data)))
    if found.is_empty():
        return found
    trials = described(data).filter((pl.col("role") == "treatment") & pl.col("is_reference")).select("trial", "seed")
    shown = found.filter((pl.col("way") == "active") & pl.col("made").is_in(MADE)).join(trials, on="trial")
    by = ["made", "compared", "features", "seed"]
    return shown.group_by(by).agg(pl.col("value").mean()).sort("made", "compared", "features", "seed")


def draw_feature_edits(table: pl.DataFrame) -> Figure:
    with style.styled():
        figure = style.new_figure(2.9)
        grid = list(figure.subplots(1, len(MADE), sharex=True, sharey=True, squeeze=False).flat)
        for axes, made in zip(grid, MADE, strict=True):
            _panel(axes, table.filter(pl.col("made") == made))
            axes.set_title(f"{made} in the {'trunk' if made == 'reproduced' else 'tuned model'}")
        grid[0].set_ylabel("share of the change")
        figure.supxlabel("features that are moved together", fontsize=8)
        style.despine(figure)
        handles = [Line2D([], [], color=colour, ls=look, lw=1.4, label=LABELS[name])
                   for name, (look, colour) in LOOK.items() if name in table["compared"]]  # fmt: skip
        style.legend_above(figure, handles)
    return figure


def _panel(axes: Axes, part: pl.DataFrame) -> None:
    axes.axhline(0, color=style.MUTED, lw=0.6, zorder=1)
    counts = part["features"].unique().sort().to_list()
    for (name,), own in part.group_by(["compared"], maintain_order=True):
        look, colour = LOOK[str(name)]
        for (_,), seed in own.group_by(["seed"], maintain_order=True):
            axes.plot(seed["features"], seed["value"], color=colour, ls=look, lw=0.6, alpha=0.5)
        values = [own.filter(pl.col("features") == count)["value"] for count in counts]
        means = [float(np.mean(each.to_numpy())) for each in values]
        axes.plot(counts, means, color=colour, ls=look, lw=1.5, marker="o", ms=3, zorder=4)
        for count, each in zip(counts, values, strict=True):
            found = t_interval(each)
            if len(each) > 2 and found is not None and found.low is not None and found.high is not None:
                axes.plot([count, count], [found.low, found.high], color=colour, lw=1.0, zorder=3)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(ticker.FixedLocator(counts))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:.0f}"))
