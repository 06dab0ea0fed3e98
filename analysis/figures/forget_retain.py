"""What is lost of the behaviour against what the branch costs in clean loss, one point per setting."""

from __future__ import annotations

import polars as pl
from matplotlib.figure import Figure

from analysis.decay.retention import AREA, areas, main_measure, retention_curves
from analysis.figures import front, style
from analysis.runs.study import StudyData

CAPTION = (
    "Forgetting and its cost, by setting: the share of the {skill} that is lost, as one minus mean retention over log "
    "time, against the change in clean loss from the drop to the end of the branch. Means over seeds, each the mean "
    "over sizes; bars are 95% t intervals of each. Joined, with a dark edge: the settings of which none other loses "
    "more at less cost. To keep the {skill}, read the axis downwards. The choice among settings is not tested."
)


def forget_retain_table(data: StudyData) -> pl.DataFrame:
    """front.FRONT: x the cost in clean loss, y the share lost. A seed counts where it has every size of its setting."""
    if not data.declaration.outcomes:
        return pl.DataFrame()
    curves = retention_curves(data)
    treated = curves.filter((pl.col("role") == "treatment") & pl.col("completed"))
    loss = treated.drop_nulls("loss").sort("tokens").group_by("trial").agg(
        start=pl.col("loss").filter(pl.col("tokens") == 0).first(), end=pl.col("loss").last()
    )  # fmt: skip
    lost = areas(curves).select("trial", y=1 - pl.col(AREA[main_measure(curves)]))
    about = treated.select("trial", "setting", "seed", "parameters").unique(maintain_order=True)
    found = about.join(loss, on="trial").join(lost, on="trial").with_columns(x=pl.col("end") - pl.col("start"))
    sizes = about.group_by("setting").agg(sizes=pl.col("parameters").n_unique())
    per_seed = found.drop_nulls(["x", "y"]).group_by("setting", "seed", maintain_order=True).agg(
        pl.col("x", "y").mean(), count=pl.col("parameters").n_unique()
    )  # fmt: skip
    whole = per_seed.join(sizes, on="setting", maintain_order="left").filter(pl.col("count") == pl.col("sizes"))
    if whole["setting"].n_unique() < 2:
        return pl.DataFrame()
    return front.front_table(whole, ("low", "high"))


def draw_forget_retain(table: pl.DataFrame) -> Figure:
    with style.styled():
        figure = style.new_figure(3.2)
        axes = figure.subplots()
        handles = front.draw_front(axes, table)
        axes.set_xlabel("change in clean loss over the branch (nats per token)")
        axes.set_ylabel("share lost: 1 − mean retention")
        front.legend_beside(figure, handles)
        style.despine(figure)
    return figure
