"""What stays for good: the floor of retention against size."""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import fits
from analysis.figures import style
from analysis.load import StudyData
from analysis.uncertainty import t_interval

CAPTION = (
    "Where retention of the log-probability settles: 0 is the never-trained control, 1 the drop. One colour and "
    "marker a law; small points are seeds, lines join the means over seeds, bands are their 95 % t intervals. "
    "An arrow down marks a run that was still falling when it ended: its floor lies below. φ is the slope of the "
    "floor's logit over ln N, one per seed, then Student-t over seeds. A floor whose band holds 0 is no floor; one "
    "that rises with size says that larger models keep a part for good."
)


def floor_table(data: StudyData) -> pl.DataFrame:
    """`fits.floors`: by the best law that has a floor, one row a run."""
    return fits.floors(data)


def draw_floor(table: pl.DataFrame) -> Figure:
    """`table`: facet, place (its order), size, parameters, seed, floor (share of retention), settled (truth value: no
    longer falling at the end), phi (text for the legend, or empty)."""
    sizes = style.by_size(table)
    groups = table.sort("place", "parameters", "seed").partition_by("place", maintain_order=True)
    with style.styled():
        figure = style.new_figure(3.0, width=4.8)
        axes = figure.subplots()
        style.size_axis(axes, sizes)
        axes.axhline(0, color=style.INK, lw=0.8)
        handles = []
        for part, colour, marker in zip(groups, style.colours(len(groups), "cividis"), style.MARKERS, strict=False):
            _line(axes, part, colour, marker)
            text = "   ".join(filter(None, [part["facet"][0].replace("_", " "), part["phi"][0]]))
            handles.append(Line2D([], [], color=colour, lw=1.6, marker=marker, ms=4.5, label=text))
        values = table["floor"].to_numpy()
        axes.set_ylim(min(-0.08 * values.max(), 1.1 * values.min()), None)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("non-embedding parameters")
        axes.set_ylabel("floor of retention")
        axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(-0.02, 1.0), labelspacing=0.3)
        style.despine(figure)
    return figure


def _line(axes: Axes, part: pl.DataFrame, colour: object, marker: str) -> None:
    settled, falling = part.filter("settled"), part.filter(~pl.col("settled"))
    axes.plot(settled["parameters"], settled["floor"], ls="", marker=marker, ms=2.4, color=colour, alpha=0.6)
    axes.plot(
        falling["parameters"], falling["floor"], ls="", marker=style.BELOW, ms=11, mfc="none", mew=1, color=colour
    )
    whole = part.filter(~pl.col("parameters").is_in(falling["parameters"].implode()))
    means = [(n[0], t_interval(own["floor"])) for n, own in whole.group_by(["parameters"], maintain_order=True)]
    means = [(n, found) for n, found in means if found is not None]
    axes.plot(
        [n for n, _ in means], [found.estimate for _, found in means], color=colour, lw=1.6, marker=marker, ms=4.5,
        mec="white", mew=0.5,
    )  # fmt: skip
    band = [(n, found.low, found.high) for n, found in means if found.low is not None]
    if len(band) > 1:
        at, low, high = zip(*band, strict=True)
        axes.fill_between(at, low, high, color=colour, alpha=0.16, lw=0)
