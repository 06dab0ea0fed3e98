"""Clean loss of poisoned and never-poisoned models, in the trunk and after the drop."""

from __future__ import annotations

import polars as pl
from halflife.tracking import schema
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.design import described
from analysis.figures import style
from analysis.figures.common import facets, with_controls
from analysis.figures.retention import seed_mean
from analysis.load import StudyData

CAPTION = (
    "Loss on held-out clean text, nats a token. Solid: poisoned; dashed: never poisoned, same size and seed; thick: means over "
    "seeds. Left: the trunk, to the drop: the two should coincide, else poison cost the model something "
    "and what follows compares unequal models. Right: the branch after the drop: a jump at its start is the fork's doing, not forgetting's."
)
PHASES = {"trunk": "trunk: tokens of training", "branch": "branch: tokens since the drop"}


def clean_loss_table(data: StudyData) -> pl.DataFrame:
    """phase, role, size, parameters, seed, tokens, loss at the reference setting; a shared trunk appears once."""
    shown = with_controls(data, facets(data, most=1), ("absent",))
    about = described(data).join(shown, on="trial").select("trial", "role", "size", "parameters", "seed")
    points = data.points.filter((pl.col("name") == f"clean/{schema.LOSS}") & pl.col("phase").is_in(list(PHASES)))
    return (
        points.join(about, on="trial")
        .select("phase", "role", "size", "parameters", "seed", pl.col("step").alias("tokens"), pl.col("value").alias("loss"))
        .unique(["phase", "role", "size", "seed", "tokens"], keep="first", maintain_order=True)
        .sort(pl.col("phase") != "trunk", pl.col("role") != "treatment", "parameters", "seed", "tokens")
    )


def draw_clean_loss(table: pl.DataFrame) -> Figure:
    sizes = style.by_size(table)
    with style.styled():
        figure = style.new_figure(2.9)
        phases = [phase for phase in PHASES if (table["phase"] == phase).any()]
        for axes, phase in zip(figure.subplots(1, len(phases), squeeze=False).flat, phases, strict=True):
            part = table.filter(pl.col("phase") == phase)
            positive = part.filter(pl.col("tokens") > 0)["tokens"].to_numpy()
            zero = style.log_axis_with_zero(axes, float(positive.min()), float(positive.max()))
            for size, _, colour in sizes:
                for role, line in (("treatment", "-"), ("absent", (0, (3, 2)))):
                    own = part.filter((pl.col("role") == role) & (pl.col("size") == size))
                    for seed in own.partition_by("seed", maintain_order=True):
                        later = seed.filter(pl.col("tokens") > 0)
                        axes.plot(later["tokens"], later["loss"], color=colour, ls=line, lw=0.5, alpha=0.35)
                    mean = seed_mean(own, "loss")
                    later, at_start = mean.filter(pl.col("tokens") > 0), mean.filter(pl.col("tokens") == 0)
                    axes.plot(later["tokens"], later["loss"], color=colour, ls=line, lw=1.5)
                    fill = colour if role == "treatment" else "white"
                    axes.plot([zero] * at_start.height, at_start["loss"], "o", ms=3.2, color=colour, mfc=fill)
            axes.set_xlabel(PHASES[phase])
            axes.set_ylabel("clean loss (nats a token)")
        style.despine(figure)
        handles = [Line2D([], [], color=colour, lw=1.5, label=size) for size, _, colour in sizes]
        handles += [
            Line2D([], [], color=style.INK, lw=1.5, label="poisoned"),
            Line2D([], [], color=style.INK, lw=1.5, ls=(0, (3, 2)), label="never poisoned"),
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), columnspacing=1.3)
    return figure
