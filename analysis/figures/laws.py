"""Laws of decay fitted to the same run, with their residuals."""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.decay import fits
from analysis.figures import style
from analysis.fitting.intervals import by_group
from analysis.runs.study import StudyData
from analysis.stats.format import short

CAPTION = (
    "One column per run: the middle seed at the smallest, a middle and the largest size. Top: retention of the "
    "log-probability and the laws fitted to it. Bottom: residuals of each law (one that misses by far leaves the "
    "panel). Legend: ΔAICc relative to the best law, summed over all runs of the reference setting; below 2 no law is "
    "preferred. A law whose residuals bend away from 0 systematically is wrong, whatever its score. Laws that fit "
    "equally well may still imply different half-lives and floors beyond the data; the table of fits lists them all."
)
LAWS = {
    "panel": pl.String, "place": pl.Int64, "part": pl.String, "law": pl.String, "rank": pl.Int64, "delta": pl.Float64,
    "tokens": pl.Float64, "value": pl.Float64, "residual": pl.Float64,
}  # fmt: skip
SHOWN, PANELS = 6, 3
"""Number of laws and of runs in one figure."""


def laws_table(data: StudyData) -> pl.DataFrame:
    """The best SHOWN laws of `fits.ranking`, the constant law included, on the middle seed of up to PANELS sizes."""
    ranking = fits.ranking(data)
    names = ranking["law"].to_list()
    kept = names[:SHOWN] if "constant" not in names[SHOWN:] else [*names[: SHOWN - 1], "constant"]
    deltas = dict(ranking.iter_rows())
    found = list(fits.comparisons(data).items())
    chosen = [found[round(i * (len(found) - 1) / 2)] for i in range(PANELS)] if len(found) > PANELS else found
    rows: list[tuple] = []
    for place, (size, comparison) in enumerate(chosen):
        points = comparison.ranked[0].fit.observations
        seeds, middle = fits.seeds(comparison.ranked[0]), fits.median_seed(comparison)
        own = points.take(np.asarray(points.group) == seeds[middle])
        positive = own.take(own.x[:, 0] > 0)
        level = float(own.response[own.x[:, 0].argmin()])
        grid = np.geomspace(positive.x.min(), positive.x.max(), 120)
        panel = f"{size}, seed {seeds[middle]}"
        at, seen = positive.x[:, 0], positive.response
        rows += [(panel, place, "data", None, None, None, t, y / level, None) for t, y in zip(at, seen, strict=True)]
        for each in comparison.ranked:
            name = each.fit.law.name
            if name not in kept:
                continue
            theta = by_group(each.fit).theta[middle]
            rank, delta = kept.index(name), deltas[name]
            curve, left = each.fit.law.value(theta, grid[:, None]), seen - each.fit.law.value(theta, positive.x)
            rows += [
                (panel, place, "law", name, rank, delta, t, y / level, None) for t, y in zip(grid, curve, strict=True)
            ]
            rows += [
                (panel, place, "left", name, rank, delta, t, None, r / level) for t, r in zip(at, left, strict=True)
            ]
    return pl.DataFrame(rows, schema=LAWS, orient="row")


def draw_laws(table: pl.DataFrame) -> Figure:
    """`table`: panel (name of the run), place (its order), part (data | law: the curve | left: residuals at the
    evaluations), law, rank (0 the best), delta (ΔAICc), tokens, value and residual (as shares of the level at the
    drop)."""
    panels = table.sort("place", "rank", "tokens").partition_by("place", maintain_order=True)
    laws = table.filter(pl.col("part") == "law").select("rank", "law", "delta").unique().sort("rank").rows()
    look = {
        law: (colour, dash)
        for (_, law, _), colour, dash in zip(laws, style.colours(len(laws)), style.DASHES, strict=False)
    }
    reach = _reach(table)
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
        grid[1, 0].set_ylabel("residual")
        figure.supxlabel("tokens since the drop", fontsize=8)
        style.despine(figure)
        handles = [
            Line2D(
                [], [], color=look[law][0], ls=look[law][1], lw=1.5, label=f"{law.replace('_', ' ')} ({_delta(delta)})"
            )
            for _, law, delta in laws
            if law in look
        ]
        style.legend_above(figure, handles, handlelength=3.0)
    return figure


def _reach(table: pl.DataFrame) -> float:
    """Axis limit for the residuals of laws that fit well; one that misses by far may leave the panel."""
    left = table.filter(pl.col("part") == "left").group_by("law").agg(
        spread=pl.col("residual").pow(2).mean().sqrt(), most=pl.col("residual").abs().max()
    )  # fmt: skip
    near = left.filter(pl.col("spread") <= 4 * pl.col("spread").min())
    return 1.15 * max(0.01, *near["most"])


def _delta(delta: float) -> str:
    return "best" if delta == 0 else f"+{short(delta, 2)}"


def _curves(axes: Axes, part: pl.DataFrame, look: dict) -> None:
    axes.axhline(0.5, color=style.INK, lw=0.6, ls=(0, (4, 3)), zorder=1)
    data = part.filter(pl.col("part") == "data")
    axes.plot(data["tokens"], data["value"], "o", ms=2.8, color=style.INK, zorder=2)
    for law, (colour, dash) in look.items():
        own = part.filter((pl.col("law") == law) & (pl.col("part") == "law"))
        axes.plot(own["tokens"], own["value"], color=colour, ls=dash, lw=1.5, zorder=3)


def _residuals(axes: Axes, part: pl.DataFrame, look: dict, reach: float) -> None:
    axes.axhline(0, color=style.INK, lw=0.8, zorder=1)
    axes.set_ylim(-reach, reach)
    for law, (colour, dash) in look.items():
        own = part.filter((pl.col("law") == law) & (pl.col("part") == "left"))
        axes.plot(own["tokens"], own["residual"], color=colour, ls=dash, lw=1.0, marker=".", ms=2.5, zorder=2)
