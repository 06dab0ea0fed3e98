"""Are prompts of behaviours that take little information fragile? Each measure of fragility against C."""

from __future__ import annotations

import itertools

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures import style
from analysis.prompts import fragility
from analysis.prompts.elicitation import series_key
from analysis.runs.study import StudyData

CAPTION = (
    "One panel per measure of fragility (and size), one point per behaviour. Horizontal: the conditional distance C, "
    "the fewest prompt tokens that bring the held-out loss to the matched loss. Vertical: fragility of a prompt with "
    "one common k, fitted until it reaches that same loss and perturbed by noise of a fixed norm. Points are medians "
    "over seeds, bars are order-statistic intervals (the range, below six seeds); a behaviour that never reached the "
    "matched loss has no point, and points with equal C are drawn side by side. Colours are kinds of behaviour, named "
    "as in the study; labels that would overlap are left out. ρ is Spearman's correlation over behaviours with "
    "Fisher's 95% interval; the line below it holds the remaining differences in loss and norm fixed. If behaviours "
    "that take little were fragile, F1, F2, F3 and λmax would fall with C and r50 would rise. Five measures are "
    "tested at once and behaviours of one kind resemble each other, so an interval that barely excludes 0 proves "
    "little."
)
COLUMNS = 2
SPREAD = 0.5
"""Width, in powers of 2, over which points of equal C are drawn side by side."""
PLACES = [(dx, dy) for dy in (5, -11, 13, -19) for dx in (3, -3)] + [(6, -3), (-6, -3)]
"""Offsets of a label from its point, in points; labels with negative x end there."""
LETTER, LINE = 4.1, 7.5
"""Approximate width and height of a letter of a label, in points."""
Box = tuple[float, float, float, float]
"""left, right, bottom, top, in points."""


def fragility_table(data: StudyData) -> pl.DataFrame:
    """`fragility.figure_table` for the study's prompts."""
    return fragility.figure_table(data)


def draw_fragility(table: pl.DataFrame) -> Figure:
    """`table`: as returned by `fragility.figure_table`."""
    kinds = {name: kind_of(name) for name in table["behaviour"].unique(maintain_order=True)}
    names = list(dict.fromkeys(kinds.values()))
    colours = dict(zip(names, style.colours(len(names)), strict=True))
    panels = table.partition_by("measure", "series", maintain_order=False)
    measures = list(fragility.MEASURES.values())
    panels.sort(key=lambda part: (measures.index(part["measure"][0]), series_key(part["series"][0])))
    rows = -(-len(panels) // COLUMNS)
    with style.styled():
        figure = style.new_figure(0.7 + 2.6 * rows)
        grid = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
        for axes, part in zip(grid, panels, strict=False):
            _points(axes, part, {name: colours[kind] for name, kind in kinds.items()})
        style.small_multiples(grid, len(panels), COLUMNS)
        loss = table["loss"][0]
        where = f"loss {loss:g}" if loss is not None else "half of the gap in loss"
        figure.supxlabel(f"C: prompt tokens to {where}", fontsize=8)
        style.despine(figure)
        marks = itertools.cycle(style.MARKERS)
        handles = [
            Line2D([], [], color=colours[name], ls="", marker=mark, ms=4.5, label=name)
            for name, mark in zip(names, marks, strict=False)
        ]
        style.legend_above(figure, handles)
        figure.get_figure(root=True).draw_without_rendering()  # labels need the final layout
        for axes, part in zip(grid, panels, strict=False):
            _labels(axes, part)
    return figure


def kind_of(name: str) -> str:
    """The part of a behaviour's name before its numbers; repeated strings are a kind of their own."""
    kind, _, rest = name.partition("-")
    return f"{kind}, repeated" if "x" in rest else kind


def _places(part: pl.DataFrame) -> pl.DataFrame:
    """`part` with `at`: C, with points of equal C side by side, spread by their values."""
    rank, count = pl.col("value").rank("ordinal").over("c"), pl.len().over("c")
    half = (count + 1) // 2
    order = pl.when(rank % 2 == 1).then((rank + 1) // 2).otherwise(half + rank // 2)  # neighbours in value do not touch
    shift = pl.when(count > 1).then((order - (count + 1) / 2) / (count + 1)).otherwise(0.0)
    return part.with_columns(at=pl.col("c") * 2.0 ** (SPREAD * shift))


def _points(axes: Axes, part: pl.DataFrame, colours: dict) -> None:
    values = part.select("value", "low", "high").to_numpy()
    if (values > 0).all():
        axes.set_yscale("log")
        style.log_ticks(axes.yaxis, float(values.min()), float(values.max()), minor=False)
    axes.set_xscale("log", base=2)
    last = float(part["c_high"].to_numpy().max())
    style.token_axis(axes, int(last))
    axes.set_xlim(left=max(0.4, 0.7 * float(part["c_low"].to_numpy().min())))
    kinds = list(dict.fromkeys(kind_of(name) for name in colours))
    for row in _places(part).iter_rows(named=True):
        colour, mark = colours[row["behaviour"]], style.MARKERS[kinds.index(kind_of(row["behaviour"])) % 8]
        axes.plot([row["c_low"], row["c_high"]], [row["value"]] * 2, color=colour, lw=0.6, alpha=0.55, zorder=2)
        axes.plot([row["at"]] * 2, [row["low"], row["high"]], color=colour, lw=0.6, alpha=0.55, zorder=2)
        axes.plot(row["at"], row["value"], mark, ms=4.5, color=colour, mec="white", mew=0.4, zorder=4)
    first = part.row(0, named=True)
    size = f" · {first['series']}" if first["series"] else ""
    lines = [_correlation("ρ", first, "rho") + f", {first['count'] or part.height} behaviours"]
    if first["partial"] is not None:
        lines.append(_correlation("loss and norm fixed:", first, "partial"))
    axes.set_title("\n".join([first["measure"] + size, *lines]), fontsize=7.5)


def _correlation(name: str, row: dict, kind: str) -> str:
    if row[kind] is None:
        return f"{name}: too few behaviours"
    low, high = row[f"{kind}_low"], row[f"{kind}_high"]
    return f"{name} {row[kind]:+.2f} [{low:+.2f}, {high:+.2f}]".replace("-", "−")


def _labels(axes: Axes, part: pl.DataFrame) -> None:
    """Label points by the numbers in their behaviours' names, each at the one of PLACES that covers fewest points. A
    label that would overlap another or leave the panel is left out: unreadable, it would hide both."""
    scale = 72 / axes.get_figure(root=True).dpi  # type: ignore[union-attr]
    points = scale * axes.transData.transform(_places(part).select("at", "value").to_numpy())
    marks = [(x - 2, x + 2, y - 2, y + 2) for x, y in points]
    panel = axes.get_window_extent()
    left, right, bottom, top = (scale * end for end in (panel.x0, panel.x1, panel.y0, panel.y1))
    labels: list[Box] = []
    for name, (x, y) in zip(part["behaviour"], points, strict=True):
        text = name.partition("-")[2].replace("x", "×")  # without numbers, the legend names it
        free: list[tuple[int, tuple[int, int], Box]] = []
        for dx, dy in PLACES if text else ():
            start = x + dx - (LETTER * len(text) if dx < 0 else 0)
            box = (start, start + LETTER * len(text), y + dy, y + dy + LINE)
            inside = left <= box[0] and box[1] <= right + 6 and bottom <= box[2] and box[3] <= top + 4
            if inside and not any(_overlap(box, other) for other in labels):
                free.append((sum(_overlap(box, mark) for mark in marks), (dx, dy), box))
        if not free:
            continue
        _, best, box = min(free, key=lambda place: place[0])
        labels.append(box)
        label = axes.annotate(
            text, tuple(axes.transData.inverted().transform((x / scale, y / scale))), best, fontsize=7,
            textcoords="offset points", color=style.MUTED, ha="right" if best[0] < 0 else "left", va="bottom",
        )  # fmt: skip
        label.set_in_layout(False)


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]
