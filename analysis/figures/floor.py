"""What is kept for good: the floor of retention against size."""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.decay.floors import floors
from analysis.decay.retention import retention_curves
from analysis.figures import style
from analysis.figures.common import facets
from analysis.runs.study import StudyData
from analysis.stats.format import interval
from analysis.stats.intervals import t_interval
from analysis.stats.scaling import area_slope

CAPTION = (
    "The level at which retention of the log-probability settles, without assuming a law: its mean over the last two "
    "octaves of tokens, once the change across them is shown to be small; 0 is the never-exposed control, 1 the drop. "
    "One colour and marker per setting; small points are seeds, lines join the means over seeds, bands are 95% t "
    "intervals. A downward arrow marks a run not shown to have settled, drawn where it ended: its floor, if any, lies "
    "below. φ is the slope of the floor's logit against ln N, one per seed, then Student-t over seeds; it requires "
    "every run to have settled. A band that includes 0 shows no floor; a band that rises with size shows that larger "
    "models keep part of it for good."
)


def floor_table(data: StudyData) -> pl.DataFrame:
    """One row per treatment of the shown facets: its floor (`floors.floors`), or its last value as an upper bound."""
    curves = retention_curves(data)
    last = curves.drop_nulls("retention_logprob").group_by("trial", maintain_order=True)
    ends = last.agg(end=pl.col("retention_logprob").last())
    table = (
        floors(curves)
        .filter(pl.col("measure") == "logprob")
        .join(facets(data), on="trial")
        .join(ends, on="trial")
        .select(
            "facet", "place", "size", "parameters", "seed", pl.coalesce("floor", "end").alias("floor"), "low", "high",
            "change", "change_low", "change_high", settled=pl.col("kind") == "settled",
        )
        .sort("place", "parameters", "seed")
    )  # fmt: skip
    texts = {place: _phi(part) for (place,), part in table.group_by(["place"])}
    return table.with_columns(phi=pl.col("place").replace_strict(texts, default="", return_dtype=pl.String))


def _phi(table: pl.DataFrame) -> str:
    """Slope of the floor's logit against ln N, one per seed; only if every run settled above 0."""
    usable = table.filter(pl.col("settled") & (pl.col("floor") > 0) & (pl.col("floor") < 1))
    if usable.height < table.height or usable["parameters"].n_unique() < 2:
        return ""
    odds = pl.col("floor") / (1 - pl.col("floor"))
    found = area_slope(usable.select("parameters", "seed", area=odds.log())).interval
    return "" if found is None else f"φ = {interval(found)}"


def draw_floor(table: pl.DataFrame) -> Figure:
    """`table`: facet, place (its order), size, parameters, seed, floor (share of retention, or its bound), settled
    (boolean: no longer falling at the end), phi (text for the legend, or empty)."""
    sizes = style.by_size(table)
    groups = table.sort("place", "parameters", "seed").partition_by("place", maintain_order=True)
    with style.styled():
        figure = style.new_figure(3.0, width=4.8)
        axes = figure.subplots()
        style.size_axis(axes, sizes)
        axes.axhline(0, color=style.INK, lw=0.8)
        handles = []
        for i, (part, colour) in enumerate(zip(groups, style.colours(len(groups), "cividis"), strict=True)):
            marker, shift = style.MARKERS[i % len(style.MARKERS)], 1.06 ** (i - (len(groups) - 1) / 2)
            _line(axes, part.with_columns(at=pl.col("parameters") * shift), colour, marker)
            text = "   ".join(filter(None, [part["facet"][0], part["phi"][0]]))
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
    axes.plot(settled["at"], settled["floor"], ls="", marker=marker, ms=2.4, color=colour, alpha=0.6)
    axes.plot(falling["at"], falling["floor"], ls="", marker=style.BELOW, ms=11, mfc="none", mew=1, color=colour)
    whole = part.filter(~pl.col("at").is_in(falling["at"].implode()))
    means = [(n[0], t_interval(own["floor"])) for n, own in whole.group_by(["at"], maintain_order=True)]
    means = [(n, found) for n, found in means if found is not None]
    axes.plot(
        [n for n, _ in means], [found.estimate for _, found in means], color=colour, lw=1.6, marker=marker, ms=4.5,
        mec="white", mew=0.5,
    )  # fmt: skip
    band = [(n, found.low, found.high) for n, found in means if found.low is not None]
    if len(band) > 1:
        at, low, high = zip(*band, strict=True)
        axes.fill_between(at, low, high, color=colour, alpha=0.16, lw=0)
