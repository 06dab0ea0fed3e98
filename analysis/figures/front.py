"""Settings by two quantities, those joined of which none other is better in both."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.decay.search import on_front
from analysis.figures import style
from analysis.stats.intervals import t_interval

FRONT = {
    "setting": pl.String, "seeds": pl.Int64, "x": pl.Float64, "x_low": pl.Float64, "x_high": pl.Float64,
    "y": pl.Float64, "y_low": pl.Float64, "y_high": pl.Float64, "front": pl.Boolean,
}  # fmt: skip
LEGEND = 34
"""Characters of a line of the legend."""
NAMED = 8
"""Settings that have a marker of their own in the legend; of more, only those of the front."""


def front_table(values: pl.DataFrame, better: tuple[str, str]) -> pl.DataFrame:
    """FRONT: means over seeds with 95% t intervals. `values`: setting, seed, x, y. `better`: high | low, of x and y."""
    rows = []
    for (setting,), part in values.drop_nulls(["x", "y"]).group_by(["setting"], maintain_order=True):
        means = {name: t_interval(part[name]) for name in ("x", "y")}
        ends: dict[str, float | None] = {}
        for name, mean in means.items():
            if mean is not None:
                ends |= {name: mean.estimate, f"{name}_low": mean.low, f"{name}_high": mean.high}
        rows.append({"setting": str(setting), "seeds": part.height, **ends})
    table = pl.DataFrame(rows, schema={name: of for name, of in FRONT.items() if name != "front"})
    signs = np.array([1.0 if side == "high" else -1.0 for side in better])
    front = on_front(table.select("x", "y").to_numpy() * signs, np.ones(table.height, dtype=bool))
    return table.with_columns(front=pl.Series(front, dtype=pl.Boolean))


def draw_front(axes: Axes, table: pl.DataFrame, log: tuple[bool, bool] = (False, False)) -> list[Line2D]:
    """Draws FRONT; returns the legend."""
    front = table.filter("front").sort("x")
    named = table["setting"].to_list() if table.height <= NAMED else front["setting"].to_list()[:NAMED]
    colours = dict(zip(named, style.colours(len(named)), strict=True))
    axes.plot(front["x"], front["y"], "-", color=style.INK, lw=1.0, zorder=2)
    handles = []
    for row in table.iter_rows(named=True):
        known = row["setting"] in colours
        colour = colours.get(row["setting"], style.MUTED)
        marker = style.MARKERS[named.index(row["setting"])] if known else "o"
        for ends, x in ((("x_low", "x_high"), True), (("y_low", "y_high"), False)):
            low, high = (row[end] for end in ends)
            if low is not None and known:
                other = [row["y" if x else "x"]] * 2
                axes.plot(
                    *(([low, high], other) if x else (other, [low, high])), color=colour, lw=1.0, alpha=0.7, zorder=3
                )
        edge = style.INK if row["front"] else "white"
        axes.plot([row["x"]], [row["y"]], ls="", marker=marker, ms=6 if known else 3.5, color=colour, mec=edge,
                  mew=0.9 if row["front"] else 0.5, zorder=4)  # fmt: skip
        if known:
            handles.append(
                Line2D([], [], ls="", marker=marker, color=colour, ms=5, mec=edge, mew=0.9, label=row["setting"])
            )
    for name, axis, wanted in (("x", axes.xaxis, log[0]), ("y", axes.yaxis, log[1])):
        _limits(axes, axis, table, name, wanted)
    if table.height > len(named):
        handles.append(Line2D([], [], ls="", marker="o", ms=3.5, color=style.MUTED, label="other settings"))
    if front.height > 1:
        handles.append(Line2D([], [], color=style.INK, lw=1.0, label="none is better in both"))
    return handles


def legend_beside(figure: Figure, handles: list[Line2D]) -> None:
    """To the right of the panel, as names of settings are long."""
    for handle in handles:
        handle.set_label(textwrap.fill(str(handle.get_label()), LEGEND))
    figure.legend(handles=handles, loc="outside right upper", labelspacing=0.7)


def _limits(axes: Axes, axis: Any, table: pl.DataFrame, name: str, log: bool) -> None:
    """All means, and as much of the intervals as leaves these apart."""
    at, back = (np.log, np.exp) if log else (np.asarray, np.asarray)
    middle = at(table[name].to_numpy())
    low, high = float(middle.min()), float(middle.max())
    reach = 0.6 * (high - low) or 0.5 * (abs(high) or 1.0)
    ends = [at(np.array(_positive(table[f"{name}_{end}"].drop_nulls().to_list(), log))) for end in ("low", "high")]
    known = np.clip(np.concatenate(ends), low - reach, high + reach) if any(end.size for end in ends) else middle
    low, high = min(low, float(known.min())), max(high, float(known.max()))
    pad = 0.08 * (high - low) or reach
    limits = back(np.array([low - pad, high + pad]))
    set_scale, set_limits = (axes.set_xscale, axes.set_xlim) if name == "x" else (axes.set_yscale, axes.set_ylim)
    if log:
        set_scale("log")
        style.log_ticks(axis, *limits)
    set_limits(*limits)


def _positive(values: Sequence[float], log: bool) -> list[float]:
    return [value for value in values if value > 0 or not log]
