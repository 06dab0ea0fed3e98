"""How many tokens each behaviour takes, on the model that has it and on one that never had it."""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures import style
from analysis.prompts import elicitation, information
from analysis.runs.study import StudyData

OWN_THRESHOLD = " (each seed has its own threshold)"
NO_C = " A seed without a gain has no C by loss and is left out."
CAPTION = (
    "One row per behaviour (and size). Left, by loss: the conditional distance C, the smallest number of prompt "
    f"tokens that {elicitation.HALF_CLOSED}{OWN_THRESHOLD}. Right, by success: the smallest number "
    "at which half of the answers are exactly right, above chance. Points are medians over seeds, bars are "
    "order-statistic intervals (the range, below six seeds). Filled: the model that has the behaviour; open: a model "
    "that never had it, given the same examples and steps. If the filled mark lies left of the open one, the prompt "
    "elicits the behaviour rather than teaching it. Arrows: not reached at the largest k tried. Squares: the "
    f"saturation S of the loss. C is an upper bound, because the optimizer may have missed a shorter prompt.{NO_C}"
)
PANELS = {"loss": "half of the gap in loss", "success": "half of the answers right"}
WITH, WITHOUT, STOPS = "has the behaviour", "never had it", "saturation S"


def distances_table(data: StudyData) -> pl.DataFrame:
    """`information.distance_table` for the study's prompts, by held-out loss and by success."""
    return by_both(elicitation.runs(data))


def by_both(prompts: pl.DataFrame, threshold: float | None = None) -> pl.DataFrame:
    """C by loss, and C by success for behaviours that any prompt reached: long texts are never reproduced exactly.
    `threshold`: a fixed T of the loss, which the column `goal` then names."""
    if prompts.is_empty():
        return pl.DataFrame()
    by_loss = information.distance_table(prompts, threshold=threshold)
    if threshold is not None:
        by_loss = by_loss.with_columns(goal=pl.lit(f"loss of {threshold:g}"))
    if "hits" not in prompts.columns:
        return by_loss
    by_success = information.distance_table(prompts.drop_nulls(["hits", "trials"]), "success")
    if by_success.is_empty():
        return by_loss
    reached = prompts.group_by("behaviour").agg(pl.col("hits").sum()).filter(pl.col("hits") > 0)["behaviour"]
    return pl.concat([by_loss, by_success.filter(pl.col("behaviour").is_in(reached.to_list()))], how="diagonal_relaxed")


def draw_distances(table: pl.DataFrame) -> Figure:
    """`table`: as returned by `information.distance_table`, for one or two criteria."""
    table = table.with_columns(row=_label())
    names = table["row"].unique(maintain_order=True).to_list()
    shown = [name for name in PANELS if (table["criterion"] == name).any()]
    last = int(table["last_k"].to_numpy().max())
    with style.styled():
        figure = style.new_figure(1.1 + 0.27 * len(names))
        grid = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for axes, criterion in zip(grid, shown, strict=True):
            zero = style.token_axis(axes, 2 * last)
            part = table.filter(pl.col("criterion") == criterion)
            for place, name in zip(range(len(names))[::-1], names, strict=True):
                for row in part.filter(pl.col("row") == name).iter_rows(named=True):
                    _row(axes, row, place, zero)
            goal = part["goal"][0] if "goal" in part.columns else None
            axes.set_title(goal or PANELS[criterion])
            axes.tick_params(axis="y", length=0)
            axes.grid(visible=False, axis="y")
        grid[0].set_yticks(range(len(names))[::-1], names)
        grid[0].set_ylim(-0.6, len(names) - 0.4)
        figure.supxlabel("soft-prompt tokens k", fontsize=8)
        style.despine(figure)
        marks = [("o", style.INK, f"C, {WITH}")]
        if (table["model"] == "absent").any():
            marks.append(("o", "white", f"C, {WITHOUT}"))
        marks += [("s", "none", STOPS), (">", style.INK, "not reached")]
        handles = [
            Line2D([], [], color=style.INK, ls="", marker=marker, mfc=face, ms=5, label=label)
            for marker, face, label in marks
        ]
        style.legend_above(figure, handles)
    return figure


def _label() -> pl.Expr:
    series = pl.when(pl.col("series") == "").then(pl.lit("")).otherwise(pl.concat_str(pl.lit(" · "), "series"))
    return pl.concat_str("behaviour", series)


def _row(axes: Axes, row: dict, place: float, zero: float) -> None:
    present = row["model"] == "present"
    y = place + (0.14 if present else -0.14)
    beyond = 1.35 * row["last_k"]

    if row["c"] is None:
        if present:
            axes.annotate("no gain", (zero, place), va="center", fontsize=7, color=style.MUTED)
        return

    def at(value: float) -> float:
        return zero if value < 1 else min(value, beyond)

    axes.plot([at(row["c_low"]), at(row["c_high"])], [y, y], color=style.INK, lw=1.3, solid_capstyle="butt", zorder=3)
    if np.isfinite(row["c"]):
        face = style.INK if present else "white"
        axes.plot(at(row["c"]), y, "o", ms=5, mfc=face, mec=style.INK, mew=1.0, zorder=5)
    if not np.isfinite(row["c_high"]):
        axes.plot(beyond, y, ">", ms=5, mfc=style.INK if present else "white", mec=style.INK, mew=1.0, zorder=5)
    if present and row["criterion"] == "loss" and row["s"] is not None and np.isfinite(row["s"]):
        axes.plot(at(row["s"]), y, "s", ms=6.5, mfc="none", mec=style.MUTED, mew=1.0, zorder=4)
