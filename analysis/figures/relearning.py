"""Relearning in the 2 x 2 of old and new trigger and payload, compared with the never-poisoned control."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.decay.savings import PAIRS, THRESHOLDS, interactions, log_savings, over_seeds, relearning_times
from analysis.figures import style
from analysis.runs.study import StudyData
from analysis.stats.intervals import Interval

CAPTION = (
    "Left: relearning tokens until half of the triggered prompts give the payload, for a model that once had the "
    "backdoor and lost it (filled) and one that never had it (open), after the same branch; one mark per run, bars at "
    "geometric means, arrows where the budget ended first. Right: how many times fewer tokens the once-poisoned model "
    "needs, with 95% t intervals over seeds. Faster relearning of the old payload under a new trigger is memory of "
    "the payload alone. What is specific to the backdoor is the interaction, in the last row: above 1, the faded "
    "backdoor is still in the weights."
)
NAMES = {
    "old-old": "old trigger,\nold payload", "new-old": "new trigger,\nold payload",
    "old-new": "old trigger,\nnew payload", "new-new": "new trigger,\nnew payload",
    "own": "specific to the\nbackdoor (interaction)",
}  # fmt: skip


def relearning_table(data: StudyData) -> pl.DataFrame:
    """One row per trial and pair: tokens to the first threshold, and the log saving relative to its control."""
    times = relearning_times(data).filter(pl.col("threshold") == THRESHOLDS[0])
    return (
        pl.concat([log_savings(times), times.filter(pl.col("role") == "absent")], how="diagonal")
        .select(
            "trial", "role", "setting", "size", "parameters", "seed", "pair", "kind", "low", "high", "estimate",
            "control", "saving",
        )
        .sort(pl.col("role") != "treatment", "parameters", "seed", "trial", "pair")
    )  # fmt: skip


def draw_relearning(table: pl.DataFrame) -> Figure:
    sizes = style.by_size(table)
    with style.styled():
        figure = style.new_figure(3.1)
        left, right = figure.subplots(1, 2, width_ratios=(1.45, 1))
        _times(left, table, sizes)
        _savings(right, table, sizes)
        style.despine(figure)
        handles = [Line2D([], [], color=colour, marker="o", ls="", ms=4, label=size) for size, _, colour in sizes]
        handles += [
            Line2D([], [], color=style.INK, marker="o", ls="", ms=4, label="once poisoned"),
            Line2D([], [], color=style.INK, marker="o", mfc="white", ls="", ms=4, label="never poisoned"),
        ]
        figure.legend(
            handles=handles, loc="outside upper center", ncols=len(handles), columnspacing=1.1, handletextpad=0.2
        )
    return figure


def _times(axes: Axes, table: pl.DataFrame, sizes: list) -> None:
    for place, pair in enumerate(PAIRS):
        for role, side in (("treatment", -0.2), ("absent", 0.2)):
            part = table.filter((pl.col("pair") == pair) & (pl.col("role") == role))
            for rank, (size, _, colour) in enumerate(sizes):
                x = place + side + 0.28 * (rank - (len(sizes) - 1) / 2) / max(len(sizes) - 1, 1)
                own = part.filter(pl.col("size") == size)
                fill = colour if role == "treatment" else "white"
                seen, censored = own.filter(pl.col("kind") == "observed"), own.filter(pl.col("kind") == "censored")
                axes.plot([x] * seen.height, seen["estimate"], "o", ms=3.2, color=colour, mfc=fill, mew=0.8, zorder=3)
                axes.plot(
                    [x] * censored.height,
                    censored["low"],
                    ls="",
                    marker=style.BEYOND,
                    ms=10,
                    mew=0.9,
                    mfc="none",
                    color=colour,
                    zorder=3,
                )
            seen = part.filter(pl.col("kind") == "observed")["estimate"].to_numpy()
            if seen.size and seen.size == part.filter(pl.col("kind") != "at-start").height:
                mean = math.exp(float(np.log(seen).mean()))
                axes.plot([place + side - 0.17, place + side + 0.17], [mean] * 2, color=style.INK, lw=1.2, zorder=2)
    shown = [*table["estimate"].drop_nulls(), *table.filter(pl.col("kind") == "censored")["low"]]
    if shown:
        low, high = min(shown) / 1.3, max(shown) * 1.3
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        style.log_ticks(axes.yaxis, low, high)
    else:
        style.nothing_here(axes, "no relearning time was measured")
    axes.set_xticks(range(len(PAIRS)), [NAMES[pair] for pair in PAIRS])
    axes.grid(visible=False, axis="x")
    axes.set_ylabel("relearning tokens to success ½")


def _savings(axes: Axes, table: pl.DataFrame, sizes: list) -> None:
    """Ratios of tokens, pooled over sizes within a seed; small marks show the sizes."""
    treated = table.filter(pl.col("role") == "treatment").drop_nulls("saving")
    own = interactions(treated).rename({"own": "saving"})
    rows = [(pair, treated.filter(pl.col("pair") == pair)) for pair in PAIRS] + [("own", own)]
    axes.axvline(1, color=style.INK, lw=0.8)
    ends = [1.0]
    for place, (_, part) in zip(range(len(rows))[::-1], rows, strict=True):
        for rank, (size, _, colour) in enumerate(sizes):
            mean = part.filter(pl.col("size") == size)["saving"].to_list()
            if mean:
                height = place - 0.2 - 0.16 * rank / max(len(sizes) - 1, 1)
                axes.plot([math.exp(sum(mean) / len(mean))], [height], "o", ms=2.6, color=colour)
        found = over_seeds(part, "saving")
        if found is not None:
            ends += _bar(axes, found.exp(), place)
    style.ratio_axis(axes, ends)
    if len(ends) == 1:
        axes.annotate(
            "no pair was relearned by both", (0.5, 0.5), xycoords="axes fraction", ha="center", color=style.MUTED,
            backgroundcolor="white",
        )  # fmt: skip
    axes.set_yticks(range(len(rows))[::-1], [NAMES[name] for name, _ in rows])
    axes.axhline(0.5, color=style.FAINT, lw=0.8)
    axes.set_ylim(-0.6, len(rows) - 0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("token ratio, never / once poisoned")


def _bar(axes: Axes, found: Interval, place: int) -> list[float]:
    ends = [found.estimate]
    if found.low is not None and found.high is not None:
        axes.plot([found.low, found.high], [place] * 2, color=style.INK, lw=1.4, solid_capstyle="butt")
        ends += [found.low, found.high]
    axes.plot([found.estimate], [place], "o", color=style.INK, ms=4.5, mec="white", mew=0.5)
    return ends
