"""Forest plot of what was varied: the effect of each value, relative to the reference, on retention and half-life."""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from analysis.decay import effects
from analysis.decay.retention import retention_curves
from analysis.figures import style
from analysis.runs.study import StudyData

CAPTION = (
    "Each row changes one thing and keeps the rest fixed, in pairs of runs (anything that also changes the dose, such "
    "as an arm, stays at the reference). Points are means over seeds, bars are 95% t intervals. Left: change in mean "
    "retention over log time (1 would be all of the {skill}, all of the time), over all pairs. Right: factor on the "
    "half-life, with the number of pairs in which both runs reached half retention; if too few did, no factor is "
    "drawn, because those are the fast runs (the survival model of all runs also counts the others). To the right of "
    "the line the {skill} lasts longer."
)


def effects_table(data: StudyData) -> pl.DataFrame:
    """`effects.effects` on the retention curves of the leading outcome."""
    return effects.effects(data, retention_curves(data))


def draw_effects(table: pl.DataFrame) -> Figure:
    rows = table.height
    with style.styled():
        figure = style.new_figure(0.9 + 0.34 * rows)
        left, right = figure.subplots(1, 2, sharey=True)
        places = list(range(rows))[::-1]
        for axes, name, line in ((left, "area", 0.0), (right, "ratio", 1.0)):
            axes.axvline(line, color=style.INK, lw=0.8)
            low, high = table[f"{name}_low"].to_list(), table[f"{name}_high"].to_list()
            for place, estimate, a, b in zip(places, table[name].to_list(), low, high, strict=True):
                if a is not None and b is not None:
                    ends = [a, b] if axes is left else np.clip([a, b], 0.1 / style.WIDEST, 10 * style.WIDEST)
                    axes.plot(ends, [place, place], color=style.INK, lw=1.4, solid_capstyle="butt")
                if estimate is not None:
                    axes.plot([estimate], [place], "o", color=style.INK, ms=4.5, mec="white", mew=0.5)
        left.set_yticks(
            places, [f"{value}\nvs. {other}" for value, other in table.select("value", "against").iter_rows()]
        )
        left.set_ylim(-0.6, rows - 0.4)
        left.margins(x=0.15)
        left.set_xlabel("change in mean retention")
        right.set_xlabel("factor on the half-life")
        style.ratio_axis(right, [v for name in ("ratio", "ratio_low", "ratio_high") for v in table[name].drop_nulls()])
        for place, row in zip(places, table.iter_rows(named=True), strict=True):
            right.annotate(
                f"{row['observed']}/{row['pairs']}", (1.02, place), xycoords=("axes fraction", "data"), va="center",
                fontsize=7, color=style.MUTED, annotation_clip=False,
            )  # fmt: skip
        for axes in (left, right):
            axes.tick_params(axis="y", length=0)
            axes.grid(visible=False, axis="y")
        style.despine(figure)
    return figure
