"""Loss against soft-prompt tokens: how much information it takes to elicit a behaviour."""

from __future__ import annotations

import textwrap
from math import isfinite

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures import style
from analysis.prompts import elicitation
from analysis.runs.study import StudyData

SEED_BY_SEED = "each seed has its own, the line is their mean, and a seed without a gain has none."
CAPTION = (
    "One panel per behaviour: loss on the fixed held-out set against the number of prompt tokens k (0 is no prompt, "
    "set apart from the log axis). Faint points are all restarts, lines join the best restart of each seed averaged "
    "over seeds, bars are 95% t intervals over seeds (for a single seed, of its loss, if known), cut off at the "
    "panel. Solid: the model that has the behaviour; dashed: one that never had it, given the same examples and "
    f"steps. Dashed horizontal: the threshold T, below which a prompt {elicitation.HALF_CLOSED}; {SEED_BY_SEED} "
    "Triangle: the conditional distance C, the smallest k that reaches T, median over seeds, or not reached (an upper "
    "bound: the optimizer may have failed). Square: the saturation S, beyond which more tokens no longer help. What "
    "the behaviour needs beyond teaching is C without it minus C with it."
)
COLUMNS = 3
TITLE = 25
"""Characters of a panel title on one line."""
LOOK = {"present": "-", "absent": (0, (4, 2))}


def soft_prompts_table(data: StudyData) -> pl.DataFrame:
    """`elicitation.curves` for a study whose trials have the parameters `k` and, if they vary, `behaviour` and
    `restart`; the outcome's last loss counts. Role `absent` is the model that never had the behaviour."""
    return elicitation.curves(elicitation.runs(data))


def draw_soft_prompts(table: pl.DataFrame) -> Figure:
    """`table`: as returned by `elicitation.curves`."""
    panels = table.sort("place").partition_by("place", maintain_order=True)
    series = sorted(table["series"].unique(), key=elicitation.series_key)
    colours = dict(zip(series, style.colours(len(series)), strict=True))
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    with style.styled():
        figure = style.new_figure(0.6 + 2.15 * rows, width=style.WIDTH if columns > 1 else 4.2)
        grid = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, part in zip(grid, panels, strict=False):
            zero = style.token_axis(axes, int(part["k"].to_numpy().max()))
            _panel(axes, part.with_columns(at=pl.when(pl.col("k") == 0).then(zero).otherwise("k")), colours)
            axes.set_title(textwrap.fill(part["behaviour"][0], TITLE if columns > 1 else 2 * TITLE))
        style.small_multiples(grid, len(panels), columns)
        figure.supxlabel("soft-prompt tokens k", fontsize=8)
        figure.supylabel("held-out loss (nats per token)", fontsize=8)
        style.despine(figure)
        handles = [Line2D([], [], color=colours[name], lw=1.6, label=name) for name in series if name]
        for model, label in (("present", "has the behaviour"), ("absent", "never had it")):
            if (table["model"] == model).any():
                handles.append(Line2D([], [], color=style.INK, ls=LOOK[model], lw=1.4, label=label))
        for marker, label in (("v", "C"), ("s", "S")):
            handles.append(Line2D([], [], color=style.INK, ls="", marker=marker, mfc="none", ms=5, label=label))
        style.legend_above(figure, handles)
    return figure


def _marks(axes: Axes, head: dict, means: pl.DataFrame, colour: str) -> None:
    """C on the threshold and S on the curve, if they were reached."""
    reached, stop = head["distance_at"], head["saturation_at"]
    if reached is not None and isfinite(reached):
        at = _place(means, reached)
        axes.plot(at, head["threshold"], "v", ms=5, color=colour, mec="white", mew=0.5, zorder=6)
    if stop is not None and isfinite(stop):
        at = _place(means, stop)
        axes.plot(at, np.interp(at, means["at"], means["loss"]), "s", ms=5.5, mfc="none", mec=colour, mew=1.1, zorder=6)


def _place(means: pl.DataFrame, k: float) -> float:
    """Where k is drawn: 0 is set apart."""
    return means["at"][0] if k < 1 else k


def _panel(axes: Axes, part: pl.DataFrame, colours: dict) -> None:
    texts = []
    for (model, name), own in part.sort("model", "series", "k", descending=[True, False, False]).group_by(
        ["model", "series"], maintain_order=True
    ):
        colour, dash = colours[name], LOOK[str(model)]
        restarts, means = (own.filter(pl.col("part") == kind) for kind in ("restart", "mean"))
        axes.plot(restarts["at"], restarts["loss"], "o", ms=1.8, color=colour, alpha=0.3, mec="none", zorder=2)
        axes.plot(means["at"], means["loss"], color=colour, ls=dash, lw=1.4, marker="o", ms=3, zorder=4)
        axes.vlines(means["at"], means["low"], means["high"], color=colour, lw=1.0, zorder=3)
        head = means.row(0, named=True)
        if part["series"].n_unique() == 1:  # with several sizes only the table lists them
            found = [text.split(" by k")[0] for text in (head["distance"], head["saturation"]) if text]
            texts += found if part["model"].n_unique() == 1 else [f"{model}: {', '.join(found)}"]
        _marks(axes, head, means, colour)
    losses = pl.concat([part["loss"], part["threshold"].drop_nulls()]).to_numpy()
    room = 0.08 * max(losses.max() - losses.min(), 0.1)
    axes.set_ylim(losses.min() - room, losses.max() + room)
    aims = part.drop_nulls("threshold").unique("series", maintain_order=True)
    for name, threshold in aims.select("series", "threshold").iter_rows():
        colour = colours[name] if aims["threshold"].n_unique() > 1 else style.INK
        axes.axhline(threshold, color=colour, lw=0.7, ls=(0, (4, 3)), zorder=1)
    if texts:
        text = axes.annotate(
            "\n".join(texts), (0.98, 0.97), xycoords="axes fraction", ha="right", va="top", fontsize=7, linespacing=1.3
        )
        text.set_in_layout(False)  # a long line must not push the panels apart
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + (0.06 + 0.11 * len(texts)) * (high - low))
