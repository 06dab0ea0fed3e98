"""Clean loss of models with the skill and of models that never had it, in the trunk and after the drop."""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.decay.design import described
from analysis.decay.numbers import CLEAN_GAP
from analysis.figures import style
from analysis.figures.common import facets, with_controls
from analysis.figures.retention import seed_mean
from analysis.runs.study import StudyData
from halflife.tracking import schema

CAPTION = (
    "Loss on held-out clean text. Left: difference in clean loss at the drop between models with the {skill} and "
    "models that never had it, by size; points are seeds, dashes their means. Within the shaded band the preset is "
    "valid; outside it, all later comparisons are between unequal models. Right: clean loss in the branch after the "
    "drop; solid lines had the {skill}, dashed lines never did, thick lines are means over seeds. A jump at the start "
    "of the branch is caused by the fork, not by forgetting."
)
DASHED = (0, (3, 2))
PHASES = ("trunk", "branch")


def clean_loss_table(data: StudyData) -> pl.DataFrame:
    """phase, role, size, parameters, seed, tokens, loss (nats per token) at the reference setting; a shared trunk
    appears once."""
    shown = with_controls(data, facets(data, most=1), ("absent",))
    about = described(data).join(shown, on="trial").select("trial", "role", "size", "parameters", "seed")
    points = data.points.filter((pl.col("name") == f"clean/{schema.LOSS}") & pl.col("phase").is_in(PHASES))
    return (
        points.join(about, on="trial")
        .select(
            "phase", "role", "size", "parameters", "seed", pl.col("step").alias("tokens"), pl.col("value").alias("loss")
        )
        .unique(["phase", "role", "size", "seed", "tokens"], keep="first", maintain_order=True)
        .sort(pl.col("phase") != "trunk", pl.col("role") != "treatment", "parameters", "seed", "tokens")
    )


def draw_clean_loss(table: pl.DataFrame) -> Figure:
    sizes = style.by_size(table)
    with style.styled():
        figure = style.new_figure(2.9)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
        _gaps(left, table.filter(pl.col("phase") == "trunk"), sizes)
        _branches(right, table.filter(pl.col("phase") == "branch"), sizes)
        style.despine(figure)
        handles = [Line2D([], [], color=colour, lw=1.5, label=size) for size, _, colour in sizes]
        handles += [
            Line2D([], [], color=style.INK, lw=1.5, label="had it"),
            Line2D([], [], color=style.INK, lw=1.5, ls=DASHED, label="never had it"),
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), columnspacing=1.3)
    return figure


def trunk_gaps(trunk: pl.DataFrame) -> pl.DataFrame:
    """size, parameters, seed, gap: final clean loss of the trunk minus that of its never-exposed control."""
    last = (
        trunk.sort("tokens")
        .group_by("role", "size", "parameters", "seed", maintain_order=True)
        .agg(pl.col("loss").last())
    )
    absent = last.filter(pl.col("role") == "absent").select("size", "seed", pl.col("loss").alias("absent"))
    gaps = last.filter(pl.col("role") == "treatment").join(absent, on=["size", "seed"])
    return gaps.select("size", "parameters", "seed", gap=pl.col("loss") - pl.col("absent")).sort("parameters", "seed")


def _gaps(axes: Axes, trunk: pl.DataFrame, sizes: list) -> None:
    style.size_axis(axes, sizes)
    axes.axhspan(-CLEAN_GAP, CLEAN_GAP, color=style.FAINT, alpha=0.45, lw=0)
    axes.axhline(0, color=style.INK, lw=0.8)
    gaps = trunk_gaps(trunk)
    for size, n, colour in sizes:
        own = gaps.filter(pl.col("size") == size)["gap"].to_list()
        axes.plot([n] * len(own), own, "o", ms=3.4, color=colour, mec="white", mew=0.4)
        if own:
            axes.plot([n], [sum(own) / len(own)], marker="_", ms=14, mew=1.6, color=colour)
    reach = max([1.35 * CLEAN_GAP, *(1.15 * abs(gap) for gap in gaps["gap"])])
    axes.set_ylim(-reach, reach)
    axes.set_xlabel("non-embedding parameters")
    axes.set_ylabel("clean loss at the drop:\nhad it − never had it (nats)")


def _branches(axes: Axes, part: pl.DataFrame, sizes: list) -> None:
    positive = part.filter(pl.col("tokens") > 0)["tokens"].to_numpy()
    if not positive.size:
        axes.set_visible(False)
        return
    zero = style.log_axis_with_zero(axes, float(positive.min()), float(positive.max()))
    for size, _, colour in sizes:
        for role, line in (("treatment", "-"), ("absent", DASHED)):
            own = part.filter((pl.col("role") == role) & (pl.col("size") == size))
            for seed in own.partition_by("seed", maintain_order=True):
                later = seed.filter(pl.col("tokens") > 0)
                axes.plot(later["tokens"], later["loss"], color=colour, ls=line, lw=0.5, alpha=0.35)
            mean = seed_mean(own, "loss")
            later, at_start = mean.filter(pl.col("tokens") > 0), mean.filter(pl.col("tokens") == 0)
            axes.plot(later["tokens"], later["loss"], color=colour, ls=line, lw=1.5)
            fill = colour if role == "treatment" else "white"
            axes.plot([zero] * at_start.height, at_start["loss"], "o", ms=3.2, color=colour, mfc=fill)
    axes.set_xlabel("tokens since the drop")
    axes.set_ylabel("clean loss (nats per token)")
