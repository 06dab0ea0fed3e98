"""Success and the answer's log-probability against tokens since the drop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.decay.conditions import skill_measure
from analysis.decay.retention import half_lives, retention_curves
from analysis.figures import style
from analysis.figures.common import KINDS, control_labels, facets, with_controls
from analysis.runs.study import StudyData
from halflife.tracking.schema import Outcome

CAPTION = (
    "Top: {success}, the share of held-out prompts that give the {answer} exactly. Bottom: log-probability of the "
    "{answer} in nats per token, which moves long before the success rate does. [sizes: One colour per size, dark "
    "is small and light is large.] Thick lines are means over seeds, thin lines single seeds (dotted, and not in "
    "the mean, if the trunk never learned the {skill}). 0 is the drop, set apart from the log axis. Triangles below "
    "the lower curves mark the half-life of each size. Dashed: the positive control, in which the {skill} is still "
    "trained; dotted: the model that never had it (shaded: range over sizes and seeds). The {skill} fades where its "
    "curve leaves the dashed line and is gone where it meets the dotted one. [extinction: Dash-dotted, in the "
    "sizes' colours: extinction, in which the trigger stays in the text without the {answer}; if it falls below the "
    "solid line, exposure to the trigger unlearns what time alone preserves.]"
)
ROWS = (("success", "success"), ("logprob", "the answer's log-probability\n(nats per token)"))


def retention_table(
    data: StudyData, outcome: Outcome | None = None, where: Mapping[str, Any] | None = None
) -> pl.DataFrame:
    """One row per evaluation of the trials at the reference setting, by facet, and of their controls.

    `outcome`: by default the first declared. `where`: parameters that treatments have to have, else at the reference.
    label: the study's name for the control, empty for treatments.
    """
    curves, labels = retention_curves(data, outcome), control_labels(data)
    measure = skill_measure(data, curves)
    for name, value in (where or {}).items():
        chosen = (pl.col("role") != "treatment") | (pl.col(name).cast(pl.String) == str(value))
        data = replace(data, trials=data.trials.filter(chosen))
    shown = with_controls(data, facets(data), tuple(labels))
    times = half_lives(curves).filter((pl.col("criterion") == measure) & (pl.col("clock") == "tokens"))
    return (
        curves.join(shown, on="trial")
        .with_columns(label=pl.col("role").replace_strict(labels, default="", return_dtype=pl.String))
        .join(times.select("trial", pl.col("estimate").alias("half_life")), on="trial", how="left")
        .select(
            "facet", "place", "role", "label", "size", "parameters", "seed", "tokens", "hits", "trials", "success",
            "success_low", "success_high", "logprob", "control", "implanted", "retention_success",
            "retention_logprob", "half_life", "chance",
        )
        .sort("place", pl.col("role") != "treatment", "role", "parameters", "seed", "tokens")
    )  # fmt: skip


def draw_retention(table: pl.DataFrame) -> Figure:
    columns = table.select("place", "facet").unique().sort("place")["facet"].to_list()
    sizes = style.by_size(table.filter(pl.col("role") == "treatment"))
    positive = table.filter(pl.col("tokens") > 0)["tokens"]
    rows = [(measure, label) for measure, label in ROWS if table[measure].null_count() < table.height] or ROWS
    with style.styled():
        figure = style.new_figure(0.7 + 1.9 * len(rows), width=style.WIDTH if len(columns) > 1 else 4.6)
        grid = figure.subplots(len(rows), len(columns), sharex=True, sharey="row", squeeze=False)
        for column, facet in enumerate(columns):
            part = table.filter(pl.col("facet") == facet)
            for row, (measure, label) in enumerate(rows):
                axes = grid[row, column]
                zero = style.log_axis_with_zero(
                    axes, float(positive.to_numpy().min()), float(positive.to_numpy().max())
                )
                _controls(axes, part, measure, zero)
                for size, _, colour in sizes:
                    own = part.filter(pl.col("size") == size)
                    _curves(axes, own.filter(pl.col("role") == "treatment"), measure, colour, zero)
                    _extinction(
                        axes, own.filter((pl.col("role") == "extinction") & pl.col("implanted")), measure, colour
                    )
                if column == 0:
                    axes.set_ylabel(label)
                if row == 0:
                    axes.set_title(facet)
                if measure == "success":
                    axes.set_ylim(-0.04, 1.04)
                    for chance in part["chance"].unique():
                        axes.axhline(chance, color=style.MUTED, lw=0.6, zorder=1)
        for column, facet in enumerate(columns):
            part = table.filter((pl.col("facet") == facet) & (pl.col("role") == "treatment"))
            _half_life_marks(grid[-1, column], part, sizes)
        figure.supxlabel("tokens since the drop", fontsize=8)
        style.despine(figure)
        style.legend_above(figure, _legend(sizes, table))
    return figure


def _curves(axes: Axes, part: pl.DataFrame, measure: str, colour: object, zero: float) -> None:
    for seed in part.partition_by("seed", maintain_order=True):
        later = seed.filter(pl.col("tokens") > 0).drop_nulls(measure)
        line = "-" if seed["implanted"][0] else (0, (1, 2))
        axes.plot(later["tokens"], later[measure], color=colour, lw=0.6, alpha=0.45, ls=line, zorder=3)
    mean = seed_mean(part.filter("implanted"), measure)
    later = mean.filter(pl.col("tokens") > 0)
    axes.plot(later["tokens"], later[measure], color=colour, lw=1.7, zorder=4)
    at_drop = mean.filter(pl.col("tokens") == 0)
    axes.plot([zero] * at_drop.height, at_drop[measure], marker="o", ms=3.6, color=colour, ls="", zorder=4)


def _extinction(axes: Axes, part: pl.DataFrame, measure: str, colour: object) -> None:
    """One line per size, as it starts where the treatment does and is compared with it."""
    later = seed_mean(part.filter("implanted"), measure).filter(pl.col("tokens") > 0)
    axes.plot(later["tokens"], later[measure], color=colour, ls=KINDS["extinction"], lw=1.1, zorder=3)


def seed_mean(part: pl.DataFrame, measure: str) -> pl.DataFrame:
    """Mean over seeds at the evaluations that all seeds share, so that no curve jumps where a seed ends."""
    seeds = part.drop_nulls(measure)["seed"].n_unique()
    means = part.drop_nulls(measure).group_by("tokens").agg(pl.col(measure).mean(), count=pl.col("seed").n_unique())
    return means.filter(pl.col("count") == seeds).sort("tokens")


def _controls(axes: Axes, part: pl.DataFrame, measure: str, zero: float) -> None:
    """Means over sizes and seeds of all controls but extinction; positive controls count if they had it at the drop."""
    for role in part["role"].unique().sort():
        if role in ("treatment", "extinction"):
            continue
        spread = (
            part.filter((pl.col("role") == role) & (pl.col("implanted") | (role != "positive")))
            .drop_nulls(measure)
            .group_by("tokens")
            .agg(mean=pl.col(measure).mean(), low=pl.col(measure).min(), high=pl.col(measure).max())
            .sort("tokens")
        )
        later = spread.filter(pl.col("tokens") > 0)
        axes.plot(later["tokens"], later["mean"], color=style.INK, ls=KINDS.get(role, "-"), lw=1.1, zorder=2)
        axes.fill_between(later["tokens"], later["low"], later["high"], color=style.FAINT, alpha=0.6, lw=0, zorder=1)
        at_drop = spread.filter(pl.col("tokens") == 0)
        axes.plot([zero] * at_drop.height, at_drop["mean"], marker="_", ms=7, color=style.INK, ls="", zorder=2)


def _half_life_marks(axes: Axes, part: pl.DataFrame, sizes: list) -> None:
    """Geometric means of the half-lives along the lower edge; a size with a censored seed has none."""
    for size, _, colour in sizes:
        times = (
            part.filter((pl.col("size") == size) & pl.col("implanted"))
            .select("seed", "half_life")
            .unique()["half_life"]
        )
        if times.len() and not times.null_count():
            mean = float(np.exp(np.log(times.to_numpy()).mean()))
            axes.plot(
                [mean], [0.0], marker="^", ms=5.5, color=colour, mec="white", mew=0.5, clip_on=False, zorder=6,
                transform=axes.get_xaxis_transform(),
            )  # fmt: skip


def _legend(sizes: list, table: pl.DataFrame) -> list[Line2D]:
    handles = [Line2D([], [], color=colour, lw=1.7, label=size) for size, _, colour in sizes]
    named = dict(table.filter(pl.col("role") != "treatment").select("role", "label").unique().iter_rows())
    for role in sorted(named, key=[*KINDS, *named].index):
        handles.append(Line2D([], [], color=style.INK, ls=KINDS.get(role, "-"), lw=1.1, label=named[role]))
    return handles
