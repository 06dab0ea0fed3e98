"""Half-life against parameters, on four clocks."""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.decay.retention import CLOCKS, half_lives, retention_curves
from analysis.figures import style
from analysis.figures.common import facets
from analysis.runs.study import StudyData
from analysis.stats import scaling
from analysis.stats.format import interval

CAPTION = (
    "Tokens (or another clock, one per panel) until half of the {answer}'s log-probability above the never-exposed "
    "control is lost for good, by size. Thick lines and bands: geometric mean over seeds with its 95% t interval "
    "from three seeds on; thin lines: single seeds. An arrow marks a run that did not reach half, drawn at its last "
    "evaluation, so the true value lies above; a size with more than a third of such runs has no mean. [sizes: γ is "
    "the slope, one fit per seed, then Student-t over seeds. A few censored half-lives are imputed beyond their "
    "bounds; with many, γ is a bound, followed by the slope of the uncensored seeds only.] Within one branch "
    "learning rate and batch size, tokens, steps and summed learning rate are proportional, so those panels "
    "separate the settings, not the sizes. If a clock drives forgetting, the settings coincide in its panel[sizes: "
    "; if size slows forgetting, the lines rise]."
)
LEGEND = 46
"""Characters of a legend line that fit above half a page."""


def half_life_table(data: StudyData) -> pl.DataFrame:
    """One row per trial of the shown facets and clock: kind, low, high, estimate (log-probability, sustained)."""
    times = half_lives(retention_curves(data)).filter(pl.col("criterion") == "logprob")
    return (
        times.join(facets(data), on="trial")
        .select("facet", "place", "clock", "size", "parameters", "seed", "kind", "low", "high", "estimate")
        .sort("place", "clock", "parameters", "seed")
    )


def draw_half_life(table: pl.DataFrame) -> Figure:
    sizes = style.by_size(table)
    lines = table.select("place", "facet").unique().sort("place")["facet"].to_list()
    clocks = [clock for clock in CLOCKS if (table["clock"] == clock).any()]
    rows = -(-len(clocks) // 2)
    with style.styled():
        figure = style.new_figure(2.95 * rows)
        grid = list(figure.subplots(rows, 2, squeeze=False).flat)
        for axes in grid:
            axes.set_visible(False)
        for axes, clock in zip(grid, clocks, strict=False):
            axes.set_visible(True)
            part = table.filter(pl.col("clock") == clock)
            size_axis_lines(axes, [(facet, part.filter(pl.col("facet") == facet)) for facet in lines], sizes)
            axes.set_ylabel(f"half-life: {CLOCKS[clock]}")
            axes.set_xlabel("non-embedding parameters")
        style.despine(figure)
    return figure


def _slope_text(found: scaling.Slope) -> str:
    """The slope in words, short enough for a legend above half a page."""
    bound = f"γ {'≥' if found.bound[0] == 'at least' else '≤'} {found.bound[1]:.2f}" if found.bound else "γ unknown"
    if found.interval is None:
        return bound
    if not found.selected:
        return f"γ = {interval(found.interval)}" + (
            f", {found.interval.count} seeds" if found.interval.count > 1 else ""
        )
    low, high = found.interval.low, found.interval.high
    ends = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
    return f"{bound}\nuncensored seeds ({found.whole} of {found.seeds.height}): {found.interval.estimate:.2f}{ends}"


def size_axis_lines(axes: Axes, groups: list[tuple[str, pl.DataFrame]], sizes: list) -> None:
    """Half-lives against size, one colour and marker per group, with the slopes in the legend above the panel."""
    style.size_axis(axes, sizes)
    handles, values = [], []
    shared = pl.concat([part["parameters"] for _, part in groups])  # a slope over fewer sizes is not comparable
    for (label, part), colour, marker in zip(
        groups, style.colours(len(groups), "cividis"), style.MARKERS, strict=False
    ):
        times = part.filter(pl.col("kind") != "at-start")
        for seed in times.partition_by("seed", maintain_order=True):
            seen = seed.filter(pl.col("kind") == "observed")
            axes.plot(
                seen["parameters"], seen["estimate"], color=colour, lw=0.6, alpha=0.55, marker=marker, ms=2.2, zorder=3
            )
        censored = times.filter(pl.col("kind") == "censored")
        axes.plot(
            censored["parameters"],
            censored["low"],
            ls="",
            marker=style.BEYOND,
            ms=12,
            mew=1.1,
            mfc="none",
            color=colour,
            zorder=4,
        )
        means = scaling.by_size(times).drop_nulls("estimate")
        axes.plot(
            means["parameters"],
            means["estimate"],
            color=colour,
            lw=1.7,
            marker=marker,
            ms=4.5,
            mec="white",
            mew=0.5,
            zorder=5,
        )
        # with two seeds it would fill the panel and be uninformative
        band = means.drop_nulls(["low", "high"]).filter(pl.col("seeds") > 2)
        band = band.with_columns(  # an end may be infinite; it runs out of the panel
            low=pl.max_horizontal("low", pl.col("estimate") / style.WIDEST),
            high=pl.min_horizontal("high", pl.col("estimate") * style.WIDEST),
        )
        if band.height > 1:
            axes.fill_between(band["parameters"], band["low"], band["high"], color=colour, alpha=0.16, lw=0, zorder=2)
        elif band.height:
            axes.vlines(band["parameters"], band["low"], band["high"], color=colour, alpha=0.4, lw=3, zorder=2)
        values += [*times["estimate"].drop_nulls(), *censored["low"]]
        text = _slope_text(scaling.slope(part, shared))
        if label:
            text = f"{label}   {text}" if len(label + text.partition("\n")[0]) < LEGEND else f"{label}\n{text}"
        handles.append(Line2D([], [], color=colour, lw=1.7, marker=marker, ms=4.5, label=text))
    axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        borderaxespad=0.2,
        handlelength=2.2,
        labelspacing=0.3,
    )
    if values:
        headroom = 1.6 if any((part["kind"] == "censored").any() for _, part in groups) else 1.3  # for the arrows
        low, high = min(values) / 1.3, max(values) * headroom
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        style.log_ticks(axes.yaxis, low, high)
    else:
        style.nothing_here(axes, "no run has a half-life")
