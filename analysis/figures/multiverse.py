"""The slope of the leading trend under every defensible choice: a specification curve over its choices."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.answers.leading import leading_trend
from analysis.answers.multiverse import NOTHING, multiverse
from analysis.figures import style
from analysis.figures.scale import axis_of, plain
from analysis.runs.study import StudyData

CAPTION = (
    "Top: the slope of the leading trend under each combination of choices that a reader could defend, sorted, with "
    "95% t intervals over seeds (no correction: these are not independent tests); dark where the interval excludes 0. "
    "The large diamond is the declared one, over all seeds, which the vertical line follows down. Bottom: the choices "
    "of each. Choices that change no slope are left out. A specification curve (Simonsohn et al. 2020) shows how far "
    "the result rests on one choice; it does not say which is right."
)
GROUPS = {
    "clock": "clock", "threshold": "threshold", "crossing": "crossing", "scale": "mean over", "span": "span",
    "left_out": "left out",
}  # fmt: skip
CLOCKS = {"clock/steps": "steps", "clock/learning_rate_sum": "summed rate", "clock/displacement": "displacement"}


def multiverse_table(data: StudyData) -> pl.DataFrame:
    """multiverse.SPECIFICATIONS, and what the slope is: `quantity`, `per`."""
    table, found = multiverse(data), leading_trend(data)
    if found is None or table["estimate"].null_count() == table.height:
        return pl.DataFrame()
    quantity, question = found
    exponent = question.scale == "log" and quantity.on_log_scale
    axis = axis_of(question.axis, data.declaration).label.lower()
    per = f"exponent over {axis}" if exponent else f"slope over {'ln ' if question.scale == 'log' else ''}{axis}"
    return table.with_columns(quantity=pl.lit(quantity.label.removeprefix("the ")), per=pl.lit(per))


def draw_multiverse(table: pl.DataFrame) -> Figure:
    late, table = table["estimate"].null_count(), table.drop_nulls("estimate")
    rows = [row for name in GROUPS for row in _rows(table, name)]
    with style.styled():
        figure = style.new_figure(2.6 + 0.15 * len(rows))
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2.0, 0.15 * len(rows) + 0.1))
        at = np.arange(table.height)
        own = table["declared"].arg_true().to_list()
        _curve(top, table, at)
        _choices(bottom, rows, at, own)
        for axes in (top, bottom):
            for place in own:
                axes.axvline(place, color=style.INK, lw=0.7, zorder=1)
            axes.set_xlim(-0.012 * table.height - 0.5, 1.012 * table.height - 0.5)
            axes.set_xticks([])
        more = f"; {late} more have too many bounds for one" if late else ""
        bottom.set_xlabel(f"{table.height} specifications, by estimate{more}")
        top.set_title(_title(table))
        top.set_ylabel(f"{table['quantity'][0]}:\n{table['per'][0]}")
        style.despine(figure)
        figure.align_ylabels([top])
    return figure


def _curve(axes: Axes, table: pl.DataFrame, at: Any) -> None:
    low, high = (table[name].to_numpy() for name in ("low", "high"))
    apart = (low > 0) | (high < 0)
    axes.axhline(0, color=style.INK, lw=0.8, ls=":", zorder=1)
    estimate, thin = table["estimate"].to_numpy(), 0.3 if at.size > 120 else 0.6
    for chosen, colour in ((apart, style.INK), (~apart, style.MUTED)):
        axes.vlines(at[chosen], low[chosen], high[chosen], color=colour, lw=0.6, alpha=thin, zorder=2)
        axes.plot(at[chosen], estimate[chosen], ".", ms=3 if at.size > 120 else 5, mew=0, color=colour, zorder=3)
    for place in table["declared"].arg_true():
        axes.plot([place], [estimate[place]], "D", ms=6, color=style.INK, mec="white", mew=0.8, zorder=5)
        if np.isfinite(low[place]):
            axes.plot([place] * 2, [low[place], high[place]], color=style.INK, lw=1.6, zorder=4)
    spread = estimate.max() - estimate.min() or abs(estimate[0]) or 1.0
    # A wide interval runs out of the panel.
    ends = np.clip([np.nanmin(low, initial=0.0), np.nanmax(high, initial=0.0)], estimate.min() - 2 * spread,
                   estimate.max() + 2 * spread)  # fmt: skip
    axes.set_ylim(min(ends[0], 0) - 0.05 * spread, max(ends[1], 0) + 0.05 * spread)


def _rows(table: pl.DataFrame, name: str) -> list[tuple[str, str, list[bool]]]:
    """(group, choice, which specifications make it) of a group whose choices differ; seeds left out share a row."""
    if name == "left_out":
        left = pl.when(pl.col("left_out") == "size").then(pl.concat_str(pl.lit("size "), pl.col("left_out_value")))
        found = table.select(left.otherwise(pl.col("left_out").replace("seed", "one seed")).alias(name))[name]
        order = [NOTHING, *_sizes(table), "one seed"]
    else:
        found, order = table[name], table[name].unique().drop_nulls().sort().to_list()
    order = [value for value in order if (found == value).any()]
    if len(order) < 2:
        return []
    return [(GROUPS[name], _label(name, value), (found == value).fill_null(False).to_list()) for value in order]


def _sizes(table: pl.DataFrame) -> list[str]:
    values = table.filter(pl.col("left_out") == "size")["left_out_value"].unique().to_list()
    return [f"size {value}" for value in sorted(values, key=float)]


def _label(name: str, value: Any) -> str:
    if name == "clock":
        return CLOCKS.get(value) or str(value).removeprefix("clock/")
    if name == "threshold":
        return plain(value)
    return f"size {style.trimmed(float(value[5:]))}" if str(value).startswith("size ") else str(value)


def _choices(axes: Axes, rows: list[tuple[str, str, list[bool]]], at: Any, own: list[int]) -> None:
    """A dot where a specification makes a choice; groups are shaded in turn."""
    look = {"ms": 4.6, "mew": 0.8 if at.size > 120 else 1.4, "color": style.INK, "zorder": 3}
    for place, (_, _, made) in enumerate(rows):
        axes.plot(at[np.array(made)], np.full(sum(made), place), "|", **look)
        here = [i for i in own if made[i]]
        axes.plot(here, [place] * len(here), "D", ms=4, color=style.INK, mec="white", mew=0.5, zorder=4)
    groups = list(dict.fromkeys(group for group, _, _ in rows))
    for i, group in enumerate(groups):
        span = [place for place, row in enumerate(rows) if row[0] == group]
        if i % 2 == 0:
            axes.axhspan(span[0] - 0.5, span[-1] + 0.5, color=style.FAINT, alpha=0.35, lw=0, zorder=0)
        place = (1.01, sum(span) / len(span))
        axes.annotate(
            group, place, xycoords=("axes fraction", "data"), va="center", fontsize=7.5, annotation_clip=False
        )
    axes.set_yticks(range(len(rows)), [label for _, label, _ in rows])
    axes.tick_params(axis="y", length=0, labelsize=7)
    axes.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    axes.grid(visible=False)


def _title(table: pl.DataFrame) -> str:
    own = table.filter("declared")["estimate"]
    apart = table.filter((pl.col("low") > 0) | (pl.col("high") < 0)).height
    ends = [f"{value:.2f}".replace("-", "−") for value in (table["estimate"][0], table["estimate"][-1])]
    declared = f"{own[0]:.2f} as declared; ".replace("-", "−") if own.len() else ""
    return f"{declared}{ends[0]} to {ends[1]} over all; {apart} of {table.height} intervals exclude 0"
