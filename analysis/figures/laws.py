"""Laws of decay on the same run, and what each leaves over."""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures import style
from analysis.words import short

CAPTION = (
    "One column a run, of the middle seed at the smallest, a middle and the largest size. Top: retention of the "
    "log-probability and the laws fitted to it. Bottom: what each law leaves over; a law that bends away from 0 "
    "systematically is wrong, whatever its score. Legend: ΔAICc, summed over all runs of the reference setting, "
    "against the best law: below 2 nothing is preferred. Laws that fit alike may still tell different half-lives and "
    "floors beyond the data; the table gives every law's."
)


def draw_laws(table: pl.DataFrame) -> Figure:
    """`table`: panel (name of the run), place (its order), part (data | law), law, rank (0 the best), delta (ΔAICc),
    tokens, value (retention), residual (data less law at the run's evaluations; null between them)."""
    panels = table.sort("place", "rank", "tokens").partition_by("place", maintain_order=True)
    laws = table.filter(pl.col("part") == "law").select("rank", "law", "delta").unique().sort("rank").rows()
    look = {
        law: (colour, dash)
        for (_, law, _), colour, dash in zip(laws, style.colours(len(laws)), style.DASHES, strict=False)
    }
    reach = 1.15 * max(0.02, *table["residual"].drop_nulls().abs())
    with style.styled():
        figure = style.new_figure(4.0, width=style.WIDTH if len(panels) > 1 else 4.6)
        grid = figure.subplots(2, len(panels), sharex=True, sharey="row", squeeze=False, height_ratios=(1.9, 1))
        tokens = table["tokens"].to_numpy()
        for (top, bottom), part in zip(grid.T, panels, strict=True):
            top.set_xscale("log")
            top.set_xlim(tokens.min() / 1.15, tokens.max() * 1.15)
            style.log_ticks(top.xaxis, tokens.min(), tokens.max())
            _curves(top, part, look)
            _residuals(bottom, part, look, reach)
            top.set_title(part["panel"][0])
        grid[0, 0].set_ylabel("retention of the\nlog-probability")
        grid[1, 0].set_ylabel("left over")
        figure.supxlabel("tokens since the drop", fontsize=8)
        style.despine(figure)
        handles = [
            Line2D([], [], color=look[law][0], ls=look[law][1], lw=1.5, label=f"{law} ({_delta(delta)})")
            for _, law, delta in laws
            if law in look
        ]
        style.legend_above(figure, handles, handlelength=3.0)
    return figure


def _delta(delta: float) -> str:
    return "best" if delta == 0 else f"+{short(delta, 2)}"


def _curves(axes: Axes, part: pl.DataFrame, look: dict) -> None:
    axes.axhline(0.5, color=style.INK, lw=0.6, ls=(0, (4, 3)), zorder=1)
    data = part.filter(pl.col("part") == "data")
    axes.plot(data["tokens"], data["value"], "o", ms=2.8, color=style.INK, zorder=2)
    for law, (colour, dash) in look.items():
        own = part.filter(pl.col("law") == law)
        axes.plot(own["tokens"], own["value"], color=colour, ls=dash, lw=1.5, zorder=3)


def _residuals(axes: Axes, part: pl.DataFrame, look: dict, reach: float) -> None:
    axes.axhline(0, color=style.INK, lw=0.8, zorder=1)
    axes.set_ylim(-reach, reach)
    for law, (colour, dash) in look.items():
        own = part.filter(pl.col("law") == law).drop_nulls("residual")
        axes.plot(own["tokens"], own["residual"], color=colour, ls=dash, lw=1.0, marker=".", ms=2.5, zorder=2)
