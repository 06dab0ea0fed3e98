"""`python -m analysis scaling`: half-lives, their exponent over size and a figure, from anyone's table of curves."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from analysis.stats.format import plural, short

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure

    from analysis.stats.scaling import Slope

FEW = 4
"""Runs that a warning names."""


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
    origin: float | None = None,
    out: Path = Path("scaling"),
    json: Path | None = None,
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
        origin: Step at which training on the skill stopped, such as 50000 for raw training steps: it is subtracted.
        out: Folder to write half_lives.csv and half_life.pdf to.
        json: File to write the result to.
    """
    from analysis.decay.tables import Curves, half_lives_of_table
    from analysis.errors import UserError
    from analysis.fitting.command import write_json
    from analysis.fitting.table import read_table
    from analysis.stats import scaling as by_seed

    columns = Curves(
        step=step, size=size, seed=seed, run=run, hits=hits, trials=trials, y=y, chance=chance, origin=origin
    )
    runs, left = half_lives_of_table(read_table(data), columns)
    if runs.is_empty():
        why = ", ".join(f"{count} {reason}" for reason, count in left["why"].value_counts().sort("why").iter_rows())
        raise UserError(f"no run has a half-life: of {left.height}, {why}")
    times, absent = one_per_seed(runs), absent_runs(runs, left)
    sizes, found = by_seed.by_size(times), by_seed.slope(times)
    for row in sizes.iter_rows(named=True):
        print(_size_line(row, step))
    print(f"half-life ~ size^γ: {by_seed.gamma_text(found)}")
    print(f"95 % interval of γ: {found.method}")
    if any(row["low"] is not None for row in sizes.iter_rows(named=True)):
        print("95 % intervals of half-lives: geometric mean, Student-t over seeds")
    if found.no_claim:
        print(f"warning: a demonstration, not a scaling claim: {found.no_claim}")
    for why, part in left.sort("why").group_by(["why"], maintain_order=True):
        print(f"warning: {plural(part.height, 'run')} left out, {why[0]}: {_named(part)}")
    if absent.height:
        print(f"warning: the table has no run of {_named(absent)}")
    try:
        out.mkdir(parents=True, exist_ok=True)
        runs.write_csv(out / "half_lives.csv")
        _drawn(times, step).savefig(out / "half_life.pdf")
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror}") from None
    if found.selected:
        command = f"python -m analysis fit {out / 'half_lives.csv'} --law half_life_size --x N=parameters --y estimate"
        print(f"γ by a likelihood of all half-lives, also bounds: {command} --low low --high high --group seed")
    print(f"{out / 'half_lives.csv'}\n{out / 'half_life.pdf'}")
    if json is not None:
        write_json(json, {"data": str(data), "columns": asdict(columns)} | _as_json(sizes, found, left, absent))


def absent_runs(runs: pl.DataFrame, left: pl.DataFrame) -> pl.DataFrame:
    """Sizes and seeds of the table that occur, but never together (columns size, parameters, seed)."""
    import polars as pl

    seen = pl.concat([runs.select("size", "parameters", "seed"), left.select("size", "parameters", "seed")]).unique()
    every = seen.select("size", "parameters").unique().join(seen.select("seed").unique(), how="cross")
    return every.join(seen, on=["parameters", "seed"], how="anti").sort("parameters", "seed")


def _size_line(row: dict[str, Any], unit: str) -> str:
    """ "1.00M: half-life 51.2 [40.1, 60.3] step over 5 seeds"."""
    seeds, late = row["seeds"], row["censored"]
    over = f"over {plural(seeds, 'seed')}"
    if row["estimate"] is None and late == seeds:
        return f"{row['size']}: half-life beyond the data, at least {short(row['bound'])} {unit}, {over}"
    missed = f", of which {late} did not reach half" if late else ""
    if row["estimate"] is None:
        return f"{row['size']}: half-life at least {short(row['bound'])} {unit} {over}{missed}"
    if row["low"] is None:
        return f"{row['size']}: half-life {short(row['estimate'])} {unit} (one seed, no interval)"
    ends = f"[{short(row['low'])}, {short(row['high'])}]"
    return f"{row['size']}: half-life {short(row['estimate'])} {ends} {unit} {over}{missed}"


def _named(part: pl.DataFrame) -> str:
    """The first few sizes and seeds."""
    names = [f"size {size} seed {seed}" for size, seed in part.select("size", "seed").head(FEW).iter_rows()]
    return ", ".join([*names, *([f"and {part.height - FEW} more"] if part.height > FEW else [])])


def _as_json(sizes: pl.DataFrame, found: Slope, left: pl.DataFrame, absent: pl.DataFrame) -> dict[str, Any]:
    """The result as JSON data; unknown values are null."""
    gamma = found.interval
    return {
        "half_lives": sizes.to_dicts(),
        "exponent": {
            "estimate": None if gamma is None else gamma.estimate,
            "low": None if gamma is None else gamma.low,
            "high": None if gamma is None else gamma.high,
            "seeds": 0 if gamma is None else gamma.count,
            "bound": None
            if found.bound is None
            else {found.bound[0].replace(" ", "_"): found.bound[1], "interval_end": found.bound_end},
            "intervals": found.method,
            "censored": found.censored,
            "by_seed": found.seeds.to_dicts(),
        },
        "no_claim": found.no_claim,
        "left_out": left.to_dicts(),
        "absent": absent.to_dicts(),
    }


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
