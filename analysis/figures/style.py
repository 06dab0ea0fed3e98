"""The look of the figures: one palette ordered by lightness, readable ticks, zero set apart on log axes."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, cast

import matplotlib as mpl
import numpy as np
import polars as pl
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.markers import TICKDOWN, TICKLEFT
from matplotlib.path import Path
from matplotlib.text import Text

from analysis.stats.format import short

WIDTH = 7.0
"""Inches: the text width of a paper."""
DPI = 200
"""For PNGs and for the layout: at lower resolution, glyphs snap to pixels and texts measure a tenth too short."""
INK, MUTED, FAINT = "#1f2328", "#6e7781", "#d0d7de"
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "h")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)), (0, (2, 2)))
"""Line styles that differ without colour, for things without an order."""
GAP = 3.0
"""Zero is drawn at the first positive value of a log axis divided by this."""
BEYOND = Path([(0, 0), (0, 2.2), (-0.55, 1.4), (0, 2.2), (0.55, 1.4)], [1, 2, 1, 2, 2])
"""Marker of a censored value: an arrow from it towards the true value above."""
BELOW = Path([(0, 0), (0, -2.2), (-0.55, -1.4), (0, -2.2), (0.55, -1.4)], [1, 2, 1, 2, 2])
"""The same downwards, for upper bounds."""
RIGHT = Path([(0, 0), (2.2, 0), (1.4, 0.55), (2.2, 0), (1.4, -0.55)], [1, 2, 1, 2, 2])
LEFT = Path([(0, 0), (-2.2, 0), (-1.4, 0.55), (-2.2, 0), (-1.4, -0.55)], [1, 2, 1, 2, 2])
"""The same where the values lie along the x axis."""
_RC: dict[Any, Any] = {
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 8, "axes.labelsize": 8,
    "axes.titlesize": 8.5, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "xtick.labelsize": 7.5, "ytick.labelsize": 7.5, "legend.fontsize": 7.5, "legend.frameon": False,
    "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.linewidth": 0.7, "xtick.major.width": 0.7, "ytick.major.width": 0.7, "xtick.minor.width": 0.5,
    "ytick.minor.width": 0.5, "xtick.major.size": 3.2, "ytick.major.size": 3.2, "xtick.minor.size": 1.8,
    "ytick.minor.size": 1.8, "axes.grid": True, "grid.color": "#e8ebee", "grid.linewidth": 0.5,
    "axes.axisbelow": True, "lines.solid_capstyle": "round", "patch.edgecolor": "w", "patch.force_edgecolor": True,
    # Names from data are text, never formulas; the same figure renders to the same bytes.
    "text.parse_math": False, "svg.fonttype": "path", "svg.hashsalt": "halflife", "savefig.facecolor": "white",
}  # fmt: skip


@contextmanager
def styled() -> Iterator[None]:
    with mpl.rc_context(_RC):
        yield


_given: ContextVar[SubFigure | None] = ContextVar("given", default=None)


@contextmanager
def drawn_into(figure: SubFigure) -> Iterator[None]:
    """Within it, figures are drawn into this part of a caller's figure; its size is the caller's."""
    token = _given.set(figure)
    try:
        yield
    finally:
        _given.reset(token)


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """A figure of `height` and `width` inches, or the one given by `drawn_into`, which offers all that drawing uses."""
    return cast(Figure, _given.get()) or Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def colours(count: int, palette: str = "viridis") -> list[Any]:
    """Dark to light without the palest: keeps its order in grey, safe for colour-blind readers."""
    return [mpl.colormaps[palette](x) for x in np.linspace(0.02, 0.84, max(count, 2))][:count]


def by_size(table: pl.DataFrame) -> list[tuple[str, int, Any]]:
    """(size, parameters, colour), smallest first."""
    sizes = table.select("size", "parameters").drop_nulls().unique().sort("parameters").rows()
    return [(size, n, colour) for (size, n), colour in zip(sizes, colours(len(sizes)), strict=True)]


def trimmed(value: float) -> str:
    """A tick label without trailing zeros: 10k, not 10.0k, and 1e17."""
    text = short(value)
    digits = text.partition("e")[0].rstrip("TBMk")
    unit = text[len(digits) :]
    return (digits.rstrip("0").rstrip(".") if "." in digits else digits) + unit.replace("e-0", "e-")


def linear_ticks(axis: Axis, low: float, high: float) -> None:
    """Labels of large and small numbers whole, 1.5e17 or 20k, instead of in parts, with a factor at the axis' end."""
    largest = max(abs(low), abs(high))
    if (largest >= 1e4 or 0 < largest < 1e-3) and high - low > 0.05 * largest:  # three digits tell the ticks apart
        axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: trimmed(value)))


def log_ticks(axis: Any, low: float, high: float, minor: bool = True) -> None:
    """Decades labelled 10k, 100k, 1M; also 2 and 5, or more, if fewer than two decades are shown.

    Without `minor` (for small panels) there are no minor ticks, and only 3 is labelled between decades where 2 and 5
    would touch.
    """
    span = np.log10(high / low)
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: trimmed(value)))
    axis.set_minor_formatter(ticker.NullFormatter())
    if span < 0.4:  # too narrow for round logarithms: even steps
        axis.set_major_locator(ticker.MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
        axis.set_minor_locator(ticker.NullLocator())
        return
    subs = (1.0,) if span >= 2 else (1.0, 2.0, 5.0) if span >= 0.8 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    if not minor and 1.2 <= span < 2:
        subs = (1.0, 3.0)
    axis.set_major_locator(ticker.LogLocator(subs=subs, numticks=20))
    axis.set_minor_locator(ticker.LogLocator(subs=tuple(range(2, 10)), numticks=20) if minor else ticker.NullLocator())


def log_axis_with_zero(axes: Axes, first: float, last: float) -> float:
    """A log x axis from `first` to `last` with 0 set apart on the left; returns the position at which 0 is drawn."""
    zero = first / GAP
    axes.set_xscale("log")
    axes.set_xlim(zero / 1.35, last * 1.12)
    decades = 10.0 ** np.arange(np.ceil(np.log10(first)), np.floor(np.log10(last)) + 1)
    axes.xaxis.set_major_locator(ticker.FixedLocator([zero, *decades]))
    minor = [m * 10.0**e for e in range(int(np.floor(np.log10(first))), int(np.log10(last)) + 1) for m in range(2, 10)]
    axes.xaxis.set_minor_locator(ticker.FixedLocator([x for x in minor if first <= x <= last]))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: "0" if x < first / 1.5 else trimmed(x)))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    # Two slashes mark the break of the axis between 0 and the first step.
    middle = np.sqrt(zero * first)
    for shift in (0.96, 1.06):
        axes.plot(
            [middle * shift / 1.04, middle * shift * 1.04], [-0.014, 0.014], transform=axes.get_xaxis_transform(),
            color=INK, lw=0.7, clip_on=False, zorder=5,
        )  # fmt: skip
    return zero


def token_axis(axes: Axes, last: int) -> float:
    """A log2 x axis of counts 1 to `last` with 0 set apart on the left; returns the position at which 0 is drawn."""
    zero = 0.4
    top = int(np.ceil(np.log2(max(last, 2))))
    axes.set_xscale("log", base=2)
    axes.set_xlim(zero / 1.3, last * 1.25)
    powers = [2**e for e in range(0, top + 1, 1 if top < 6 else 2)]
    axes.xaxis.set_major_locator(ticker.FixedLocator([zero, *powers]))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: "0" if x < 0.9 else f"{x:.0f}"))
    return zero


WIDEST = 1e4
"""A factor beyond it (or its inverse) runs out of the panel: a wider axis would hide what can be read."""


def ratio_axis(axes: Axes, ends: Sequence[float]) -> None:
    """A log x axis of factors around 1, with ticks at powers of 2, 4 or 10, at most to WIDEST on either side."""
    ends = [min(max(end, 1 / WIDEST), WIDEST) for end in ends]
    low, high = min([0.8, *(end / 1.15 for end in ends)]), max([1.25, *(end * 1.15 for end in ends)])
    decades = np.log10(high / low)
    base = 2.0 if decades < 1.3 else 4.0 if decades < 2.6 else 10.0 ** max(1, round(decades / 4))
    powers = range(int(np.floor(np.log(low) / np.log(base))), int(np.ceil(np.log(high) / np.log(base))) + 1)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    near = (0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2)
    places = [at for at in near if low <= at <= high] if decades < 0.45 else [base**power for power in powers]
    axes.xaxis.set_major_locator(ticker.FixedLocator(places))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"×{value:g}"))


def size_axis(axes: Axes, sizes: Sequence[tuple[str, int, Any]]) -> None:
    """A log x axis of parameters with a tick at each size in the study."""
    ns = [n for _, n, _ in sizes]
    axes.set_xscale("log")
    pad = (ns[-1] / ns[0]) ** 0.08 if len(ns) > 1 else 1.3
    axes.set_xlim(ns[0] / pad, ns[-1] * pad)
    axes.xaxis.set_major_locator(ticker.FixedLocator(ns))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.xaxis.set_major_formatter(ticker.FixedFormatter([size for size, _, _ in sizes]))


def nothing_here(axes: Axes, why: str) -> None:
    """Marks a panel as empty, with the reason and without a scale that could be misread."""
    axes.set_yticks([])
    axes.annotate(why, (0.5, 0.5), xycoords="axes fraction", ha="center", va="center", color=MUTED)


def note(axes: Axes, text: str) -> None:
    """A short text in the lower left corner of a small panel, where a falling curve leaves room."""
    axes.annotate(text, (0.04, 0.14), xycoords="axes fraction", ha="left", va="bottom", fontsize=7, color=MUTED)


def small_multiples(grid: Sequence[Axes], used: int, columns: int) -> None:
    """Hides the panels after the first `used`; the lowest visible panel of each column keeps its tick labels."""
    for axes in grid[used:]:
        axes.set_visible(False)
    for axes in grid[max(0, used - columns) : used]:
        axes.tick_params(axis="x", labelbottom=True)


def legend_above(figure: Figure, handles: Sequence[Any], handlelength: float = 2.0) -> None:
    """A legend above the whole figure, with as many columns as fit its width."""
    room, count = 72 * figure.bbox.width / figure.dpi - 12, len(handles)
    spacing = {"columnspacing": 1.1, "handlelength": handlelength, "handletextpad": 0.6}

    def width(columns: int) -> float:  # in points, of DejaVu Sans at 7.5; columns are filled as matplotlib fills them
        parts = np.array_split([len(handle.get_label()) for handle in handles], columns)
        return sum(4.3 * max(part) + 7.5 * sum(spacing.values()) for part in parts)

    wanted = [-(-count // rows) for rows in range(1, count + 1)]
    columns = next((columns for columns in wanted if width(columns) <= room), 1)
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, **spacing)


def despine(figure: Figure) -> None:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)


def rendered(figure: Figure, kind: str) -> bytes:
    """The figure as "svg" or "png" (at DPI); without dates, so the same figure gives the same bytes.

    The layout is computed once, as it takes longer than the drawing.
    """
    buffer = io.BytesIO()
    with styled():
        if (layout := figure.get_layout_engine()) is not None:
            _wrap_titles(figure)
            _draw_unlabelled_ticks_at_once(figure)
            layout.execute(figure)
            figure.set_layout_engine(None)  # not "none", which draws twice on every save
        figure.savefig(buffer, format=kind, dpi=DPI, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def _draw_unlabelled_ticks_at_once(figure: Figure) -> None:
    """Minor ticks, and all ticks and grid lines of an axis whose labels another panel carries, as one line of markers
    and one collection: a tick of matplotlib's is five artists, made, measured and placed alone."""
    found: list[tuple[Axes, Axis, Literal["major", "minor"], Any]] = []
    for axes in figure.axes:  # all of them first, as shared axes share their locators
        for axis, view in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            looks = axis.get_tick_params("major")
            labelled = axis.get_label_text() or any(looks[name] for name in looks if name.startswith("label"))
            if not axis.get_visible():
                continue
            plain = isinstance(axis.get_minor_formatter(), ticker.NullFormatter) or not labelled
            kinds: tuple[tuple[Literal["major", "minor"], bool], ...] = (("minor", plain), ("major", not labelled))
            for kind, drawn in kinds:
                if drawn:
                    at = axis.get_ticklocs(minor=kind == "minor")
                    found.append((axes, axis, kind, at[(at >= min(view)) & (at <= max(view))]))
    for axes, axis, kind, at in found:
        across, looks = axis is axes.xaxis, axis.get_tick_params(kind)
        transform = axes.get_xaxis_transform() if across else axes.get_yaxis_transform()
        if kind == "minor":
            axis.set_minor_locator(ticker.NullLocator())
        else:
            axis.set_visible(False)
        if kind == "major" and looks["gridOn"]:
            ends = [[(x, 0), (x, 1)] if across else [(0, x), (1, x)] for x in at]
            width, colour = _RC["grid.linewidth"], _RC["grid.color"]
            lines = LineCollection(ends, lw=width, color=colour, transform=transform, zorder=0.5)
            lines.set_in_layout(False)
            axes.add_artist(lines)
        if at.size and looks["bottom" if across else "left"]:
            look = {name: _RC[f"xtick.{kind}.{name}"] for name in ("size", "width")}
            marker: Any = TICKDOWN if across else TICKLEFT  # a number of matplotlib's, which its types leave out
            zeros = np.zeros(at.size)
            line = Line2D(
                at if across else zeros, zeros if across else at, ls="", marker=marker, color=INK, transform=transform,
                ms=looks.get("length", look["size"]), mew=looks.get("width", look["width"]), clip_on=False, zorder=0.6,
            )  # fmt: skip
            line.set_in_layout(False)  # shorter than labels
            axes.add_artist(line)


def _wrap_titles(figure: Figure) -> None:
    """Breaks titles that are longer than their panel is wide; those with breaks of their own stay."""
    for axes in figure.axes:
        points = 72 * axes.get_position().width * figure.get_figwidth() * 1.1  # before the layout, which widens panels
        given = {axes.get_title(loc) for loc in ("left", "center", "right")} - {""}
        for title in axes.get_children():
            if isinstance(title, Text) and (text := title.get_text()) in given and "\n" not in text:
                letters = max(12, int(points / (0.62 * float(title.get_fontsize()))))
                title.set_text(textwrap.fill(text, letters, break_on_hyphens=False))
