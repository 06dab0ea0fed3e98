"""`python -m analysis scaling`: half-lives, their exponent over size and a figure, from anyone's table of curves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure


def scaling(
    data: Annotated[Path, tyro.conf.Positional],
    /,
    *,
    step: str,
    size: str,
    seed: str,
    run: str | None = None,
    hits: str | None = None,
    trials: str | None = None,
    y: str | None = None,
    chance: float = 0.0,
    out: Path = Path("scaling"),
) -> None:
    """Half-lives of curves in a table, and how they grow with size; prints them and writes a table and a figure.

    Args:
        data: A .csv, .tsv, .parquet or .jsonl file with one row per run and evaluation.
        step: Column with the clock since training on the skill stopped.
        size: Column with the parameters.
        seed: Column with the seed: the exponent is fitted once per seed, with Student-t over seeds.
        run: Column that tells runs of one size and seed apart, if there are several: their half-lives are averaged.
        hits: Column of successes.
        trials: Column of trials.
        y: Column with a level of skill, in place of counts.
        chance: Level without skill, such as the success rate of guessing.
        out: Folder to write half_lives.csv and half_life.pdf to.
    """
    from analysis.decay.tables import Curves, half_lives_of_table
    from analysis.errors import UserError
    from analysis.fitting.table import read_table
    from analysis.stats import scaling as by_seed
    from analysis.stats.format import short

    columns = Curves(step=step, size=size, seed=seed, run=run, hits=hits, trials=trials, y=y, chance=chance)
    runs, never = half_lives_of_table(read_table(data), columns)
    if runs.is_empty():
        raise UserError(f"none of {never} runs has the skill at its first {step}: there is no half-life")
    times = one_per_seed(runs)
    for row in by_seed.by_size(times).iter_rows(named=True):
        late = f", {row['censored']} of {row['seeds']} not reached" if row["censored"] else ""
        if row["estimate"] is None:
            print(f"{row['size']}: half-life beyond the data, at least {short(row['bound'])} {step}{late}")
        else:
            ends = " (one seed)" if row["low"] is None else f" [{short(row['low'])}, {short(row['high'])}]"
            print(f"{row['size']}: half-life {short(row['estimate'])}{ends} {step} over {row['seeds']} seeds{late}")
    found = by_seed.slope(times)
    print(f"half-life ~ size^γ: {by_seed.gamma_text(found)}")
    if found.no_claim:
        print(f"warning: a demonstration, not a scaling claim: {found.no_claim}")
    if never:
        print(f"warning: {never} runs left out: they did not have the skill at their first {step}")
    try:
        out.mkdir(parents=True, exist_ok=True)
        runs.write_csv(out / "half_lives.csv")
        _drawn(times, step).savefig(out / "half_life.pdf")
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror}") from None
    print(f"{out / 'half_lives.csv'}\n{out / 'half_life.pdf'}")


def one_per_seed(runs: pl.DataFrame) -> pl.DataFrame:
    """Geometric mean over the runs of a size and seed; censored, at the mean of the bounds, if one of them is."""
    import polars as pl

    late = (pl.col("kind") == "censored").any()
    time = pl.coalesce("estimate", "low").log().mean().exp()
    table = runs.group_by("size", "parameters", "seed", maintain_order=True).agg(late=late, time=time)
    return table.with_columns(
        kind=pl.when("late").then(pl.lit("censored")).otherwise(pl.lit("observed")), low=pl.col("time"),
        high=pl.when(~pl.col("late")).then("time"), estimate=pl.when(~pl.col("late")).then("time"),
    ).drop("late", "time")  # fmt: skip


def _drawn(times: pl.DataFrame, clock: str) -> Figure:
    from analysis.figures import style
    from analysis.figures.half_life import size_axis_lines

    with style.styled():
        figure = style.new_figure(3.2, style.WIDTH * 0.6)
        axes = figure.subplots()
        size_axis_lines(axes, [("", times)], style.by_size(times))
        axes.set_xlabel("parameters")
        axes.set_ylabel(f"half-life ({clock})")
        style.despine(figure)
    return figure
