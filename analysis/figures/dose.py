"""The leading quantity against doses, one line per size; poisoned documents also as a share of the trunk's."""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.answers.leading import SIZE, quantities, with_quantities
from analysis.answers.quantities import values
from analysis.answers.questions import SEED, SETTING
from analysis.decay.design import reference, setting_axes, treatments
from analysis.figures import points, style
from analysis.figures.scale import Scale, amount_axis, axis_label, placed, scale_of, value_axis
from analysis.runs.study import StudyData
from analysis.stats.format import short
from halflife.tracking.schema import Axis

CAPTION = (
    "Response to the dose by size, all else equal: at the setting with most doses, the reference if it can be. In "
    "front: means over seeds with 95% t intervals; behind: single seeds. An arrow marks a value that is only bounded. "
    "Poisoned documents are shown as their number and as their share of what the trunk reads, in a panel of its own "
    "where sizes read different amounts: the sizes' lines agree where the dose is what decides."
)
PANELS = 4
DOCUMENTS = "documents"


def dose_table(data: StudyData) -> pl.DataFrame:
    """points.POINTS by panel (`amount`: its axis; `log`) and size (`series`), of the quantity with axis `label`."""
    found = quantities(data)
    if not found or SEED not in data.trials.columns:
        return pl.DataFrame()
    quantity, scale = found[0], scale_of(found[0])
    own = with_quantities(data, [quantity])
    used = values(own, quantity).filter(pl.col("role") == "treatment").with_columns(pl.lit("").alias(SETTING))
    parts = []
    for axis in _doses(data):
        at_reference = _alone(data, used, axis)
        if at_reference[axis.name].n_unique() < 2:
            continue
        shown, ratio = [(axis.name, axis_label(axis), at_reference)], None
        if axis.name == DOCUMENTS and (shares := _shares(data)) is not None:
            at_reference = at_reference.join(shares, on="trial")
            ratio = _ratio(at_reference)
            if ratio is None:
                shown.append(("share", "Poisoned share of the trunk (%)", at_reference))
            else:
                shown = [(axis.name, f"{axis_label(axis)}, and their share of the trunk", at_reference)]
        for column, label, frame in shown:
            panel = len({part["panel"][0] for part in parts})
            about = {"panel": pl.lit(panel), "amount": pl.lit(label), "log": pl.lit(axis.scale == "log"),
                     "share": pl.col("x") * ratio if ratio is not None else pl.lit(None, pl.Float64),
                     "label": pl.lit(scale.label), "log_value": pl.lit(scale.log)}  # fmt: skip
            for place, (size, part) in enumerate(_by_size(frame)):
                rows = points.shown(points.over(part, column, series=size, place=place), scale)
                parts += [rows.with_columns(**about)] if not rows.is_empty() else []
    return pl.concat(parts) if parts else pl.DataFrame()


def _alone(data: StudyData, used: pl.DataFrame, axis: Axis) -> pl.DataFrame:
    """Trials that differ in this axis alone, at the setting of the others with most doses."""
    chosen = {name: value for name, value in reference(data).items() if name != axis.name}
    if not chosen:
        return used
    settings = used.group_by(list(chosen), maintain_order=True).agg(pl.col(axis.name).n_unique().alias("_doses"))
    best = max(settings.to_dicts(), key=lambda row: (row["_doses"], sum(row[n] == v for n, v in chosen.items())))
    return used.filter(pl.all_horizontal(pl.col(name).eq_missing(pl.lit(best[name])) for name in chosen))


def _doses(data: StudyData) -> list[Axis]:
    """Amounts that treatments differ in, other than size; documents first."""
    frame = treatments(data)
    found = [axis for axis in setting_axes(data) if axis.role == "dose" and frame[axis.name].dtype.is_numeric()]
    return sorted(found, key=lambda axis: axis.name != DOCUMENTS)[: PANELS - 1]


def _shares(data: StudyData) -> pl.DataFrame | None:
    """trial, share: poisoned sequences as a percentage of those that the trunk reads; None where that is not logged."""
    settings = data.declaration.settings
    length, exposures = settings.get("sequence_length"), settings.get("exposures", 1)
    trunk = data.points.filter(pl.col("phase") == "trunk").group_by("trial").agg(tokens=pl.col("step").max())
    if not length or trunk.is_empty():
        return None
    share = 100 * pl.col(DOCUMENTS) * exposures * length / pl.col("tokens")
    return data.trials.join(trunk, on="trial").select("trial", share=share)


def _ratio(frame: pl.DataFrame) -> float | None:
    """Share per document, if it is the same in all trials; then a panel of its own would show nothing new."""
    found = frame.select(ratio=pl.col("share") / pl.col(DOCUMENTS))["ratio"].to_numpy()
    return float(found.mean()) if found.size and np.ptp(found) <= 1e-3 * found.mean() else None


def _by_size(frame: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
    if SIZE not in frame.columns:
        return [("", frame)]
    parts = frame.drop_nulls(SIZE).sort(SIZE).partition_by(SIZE, maintain_order=True)
    return [(part["size"][0] if "size" in part.columns else style.trimmed(part[SIZE][0]), part) for part in parts]


def draw_dose(table: pl.DataFrame) -> Figure:
    panels = table.partition_by("panel", maintain_order=True)
    sizes = table.select("place", "series").unique().sort("place")["series"].to_list()
    colours = style.colours(len(sizes))
    with style.styled():
        columns = min(2, len(panels))
        figure = style.new_figure(2.9 * -(-len(panels) // 2), width=style.WIDTH if columns > 1 else 4.6)
        grid = list(figure.subplots(-(-len(panels) // columns), columns, squeeze=False).flat)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        for axes, part in zip(grid, panels, strict=False):
            _panel(axes, part, dict(enumerate(colours)))
        handles = [
            Line2D([], [], color=colour, lw=1.6, marker=style.MARKERS[i % 8], ms=5, mec="white", mew=0.6, label=size)
            for i, (size, colour) in enumerate(zip(sizes, colours, strict=True)) if size
        ]  # fmt: skip
        if handles:
            style.legend_above(figure, handles)
        style.despine(figure)
    return figure


def _panel(axes: Axes, table: pl.DataFrame, colours: dict) -> None:
    scale, log = Scale(label=table["label"][0], log=table["log_value"][0]), table["log"][0]
    amounts = table["x"].unique().sort().to_list()
    amount_axis(axes, amounts, log)
    value_axis(axes, scale, points.ends(table, scale.log))
    for part in table.partition_by("place", maintain_order=True):
        place = part["place"][0]
        points.draw_points(axes, part, placed(part["x"], amounts, log), colour=colours[place], faint=colours[place],
                           marker=style.MARKERS[place % 8])  # fmt: skip
    if table["share"][0] is not None:
        share = table["share"][0] / table["x"][0]
        axes.set_xticks(ticks := axes.get_xticks(), [f"{style.trimmed(at)}\n{short(share * at, 2)}%" for at in ticks])
    axes.set_xlabel(table["amount"][0])
