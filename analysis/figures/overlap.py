"""Half-life and mean retention against a continuous overlap between what is kept and what was dropped."""

from __future__ import annotations

import math

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.decay.conditions import FAMILY, conditions, skill_measure
from analysis.decay.design import reference, setting_axes, value_text
from analysis.decay.retention import AREA, areas, common_span, half_lives, retention_curves
from analysis.figures import style
from analysis.runs.study import StudyData
from analysis.stats.intervals import Interval, t_interval

CAPTION = (
    "One row per overlap axis. Left: half-life (sustained crossing); right: mean retention over log time, which is "
    "defined for every run that had the skill; by success above chance for languages, otherwise by log-probability. "
    "[sizes: One colour per size, dark is small and light is large.] Small points are seeds, lines join the means "
    "over seeds, bars are 95% t intervals. An arrow marks a run that did not reach half, drawn at its last "
    "evaluation; that value of the overlap then has no mean. No shape is assumed: the curve may rise and fall."
)
OVERLAP = "overlap"


def overlap_table(data: StudyData) -> pl.DataFrame:
    """One row per treatment and overlap axis (an axis whose name contains `overlap`): dial, label, value, size,
    parameters, seed, kind, low, estimate (tokens), area; everything else at the reference, in every family in which the
    axis varies."""
    curves, chosen = retention_curves(data), reference(data)
    measure = skill_measure(data, curves)
    times = half_lives(curves, ("tokens",)).filter((pl.col("criterion") == measure) & (pl.col("clock") == "tokens"))
    retained = areas(curves, common_span(curves)).select("trial", area=AREA[measure])
    trials = conditions(data).filter(pl.col("role") == "treatment")
    parts = []
    for axis in setting_axes(data):
        if OVERLAP not in axis.name or not trials.schema[axis.name].is_numeric():
            continue
        same = [pl.col(n).eq_missing(pl.lit(v)) for n, v in chosen.items() if n not in (axis.name, FAMILY)]
        value = pl.col(axis.name).cast(pl.Float64).alias("value")
        part = trials.filter(*same).filter(pl.col(axis.name).n_unique().over(FAMILY) > 1)
        of = pl.when(pl.col(FAMILY) == "").then(pl.lit("")).otherwise(pl.format(", family {}", FAMILY))
        parts.append(
            part.select(
                "trial", "size", "parameters", "seed", value, dial=pl.format("{}{}", pl.lit(axis.name), of),
                label=pl.format("{}{}", pl.lit(axis.label), of),
            )
        )  # fmt: skip
    if not parts:
        return pl.DataFrame()
    return (
        pl.concat(parts)
        .join(times.select("trial", "kind", "low", "estimate"), on="trial")
        .join(retained, on="trial", how="left")
        .drop("trial")
        .sort("dial", "parameters", "value", "seed")
    )


def draw_overlap(table: pl.DataFrame) -> Figure:
    sizes = style.by_size(table)
    dials = table.partition_by("dial", maintain_order=True)
    with style.styled():
        figure = style.new_figure(0.4 + 2.4 * len(dials))
        for (left, right), part in zip(figure.subplots(len(dials), 2, squeeze=False), dials, strict=True):
            _half_lives(left, part, sizes)
            _areas(right, part, sizes)
            values = part["value"].unique().sort().to_list()
            for axes in (left, right):
                axes.set_xticks(values, [value_text(value) for value in values])
                axes.set_xlabel(part["label"][0])
                axes.margins(x=0.07)
        style.despine(figure)
        style.legend_above(
            figure, [Line2D([], [], color=c, lw=1.6, marker="o", ms=4, label=size) for size, _, c in sizes]
        )
    return figure


def _half_lives(axes: Axes, part: pl.DataFrame, sizes: list) -> None:
    seen = part.filter(pl.col("kind") == "observed").with_columns(log=pl.col("estimate").log())
    censored = part.filter(pl.col("kind") == "censored")
    for size, _, colour in sizes:
        own, beyond = seen.filter(pl.col("size") == size), censored.filter(pl.col("size") == size)
        axes.plot(own["value"], own["estimate"], "o", ms=2.2, color=colour, alpha=0.6)
        axes.plot(beyond["value"], beyond["low"], ls="", marker=style.BEYOND, ms=11, mfc="none", mew=1, color=colour)
        _means(axes, own.filter(~pl.col("value").is_in(beyond["value"].implode())), "log", colour, Interval.exp)
    values = [*seen["estimate"], *censored["low"]]
    if values:
        axes.set_yscale("log")
        low, high = min(values) / 1.3, max(values) * 1.5
        axes.set_ylim(low, high)
        style.log_ticks(axes.yaxis, low, high)
    else:
        style.nothing_here(axes, "no run has a half-life")
    axes.set_ylabel("half-life: tokens since the drop")


def _areas(axes: Axes, part: pl.DataFrame, sizes: list) -> None:
    for size, _, colour in sizes:
        own = part.filter(pl.col("size") == size).drop_nulls("area")
        axes.plot(own["value"], own["area"], "o", ms=2.2, color=colour, alpha=0.6)
        _means(axes, own, "area", colour, lambda found: found)
    axes.set_ylabel("mean retention over log time")


def _means(axes: Axes, part: pl.DataFrame, column: str, colour: object, shown) -> None:
    means = []
    for (value,), own in part.sort("value").group_by(["value"], maintain_order=True):
        found = t_interval(own[column])
        if found is None or not math.isfinite(found.estimate):
            continue
        found = shown(found)
        means.append((value, found.estimate))
        if found.low is not None and own.height > 2:  # two seeds: an uninformative bar
            axes.plot([value, value], [found.low, found.high], color=colour, lw=1.2, solid_capstyle="butt")
    if means:
        axes.plot(*zip(*means, strict=True), color=colour, lw=1.6, marker="o", ms=4.2, mec="white", mew=0.5)
