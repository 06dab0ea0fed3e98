"""Tables of numbers: every trial with all it measured, and the reference setting by size."""

from __future__ import annotations

import polars as pl

from analysis.decay.design import described, setting_axes
from analysis.decay.retention import AREA, CLOCKS, areas, common_span, half_lives, main_measure
from analysis.runs.study import StudyData
from analysis.stats.intervals import binomial_interval, t_interval
from analysis.stats.scaling import by_size

CLEAN_GAP = 0.1
"""Nats per token by which learning the behaviour may raise the trunk's clean loss."""


def at_drop(curves: pl.DataFrame) -> pl.DataFrame:
    """What each trial measured at the drop: success with its interval, log-probability, margin over the control."""
    return curves.filter(pl.col("tokens") == 0).select(
        "trial", "role", "size", "parameters", "seed", "setting", "is_reference",
        "hits", "trials", "success", "success_low", "success_high", "logprob",
        pl.col("logprob").sub(pl.col("control")).alias("margin"), "loss", "near", "untriggered",
        "untriggered_logprob", "implanted",
    )  # fmt: skip


def reference_times(curves: pl.DataFrame, criterion: str = "logprob") -> pl.DataFrame:
    """Half-lives in tokens by one of `retention.CRITERIA` at the reference setting."""
    wanted = (pl.col("criterion") == criterion) & (pl.col("clock") == "tokens") & pl.col("is_reference")
    return half_lives(curves, ("tokens",)).filter(wanted)


def control_half_lives(curves: pl.DataFrame, role: str) -> pl.DataFrame:
    """`half_lives` of the controls of a role that begin with the skill, as if they were treatments."""
    return half_lives(curves.filter(pl.col("role") == role).with_columns(role=pl.lit("treatment")))


def every_number(data: StudyData, curves: pl.DataFrame) -> pl.DataFrame:
    """One row per trial, treatments first. Values not measured or not reached are null, never 0."""
    axes = [axis.name for axis in setting_axes(data)]
    phase = data.declaration.outcomes[0].phase
    trials = described(data)
    outcome = f"outcome_{phase}"
    state = pl.col(outcome) if outcome in trials.columns else pl.lit(None, dtype=pl.String).alias(outcome)
    table = trials.select("trial", "role", "size", "parameters", "seed", *axes, state.alias("outcome"))
    drop = at_drop(curves).drop("role", "size", "parameters", "seed", "setting", "is_reference", "implanted")
    end = curves.group_by("trial", maintain_order=True).agg(
        tokens_end=pl.col("tokens").last(),
        **{f"{name}_end": pl.col(name).drop_nulls().last() for name in ("success", "logprob", "loss")},
    )  # fmt: skip
    table = table.join(drop.rename({"trials": "prompts"}), on="trial", how="left").join(end, on="trial", how="left")
    table = table.join(areas(curves).drop("outcome"), on="trial", how="left")
    times = pl.concat([half_lives(curves), control_half_lives(curves, "extinction")])
    wanted = [("logprob", clock) for clock in CLOCKS]
    wanted += [(criterion, "tokens") for criterion in ("logprob-first", "success", "success-first")]
    for criterion, clock in wanted:
        name = f"half_life_{clock}" if criterion == "logprob" else f"half_life_{criterion.replace('-', '_')}"
        part = times.filter((pl.col("criterion") == criterion) & (pl.col("clock") == clock))
        table = table.join(
            part.select(
                "trial",
                pl.col("estimate").alias(name),
                pl.col("low").alias(f"{name}_low"),
                pl.col("high").alias(f"{name}_high"),
                (pl.col("kind") == "censored").alias(f"{name}_censored"),
            ),
            on="trial",
            how="left",
        )
    rank = pl.col("role").replace_strict({"treatment": 0, "absent": 1, "positive": 2, "extinction": 3}, default=4)
    return table.sort(rank, "parameters", "seed", *axes, nulls_last=True)


def size_summary(curves: pl.DataFrame, measure: str | None = None) -> pl.DataFrame:
    """The reference setting by size: one row per size, over its seeds; half-lives are geometric means in tokens.

    `area` is the mean retention of `measure`, by default `retention.main_measure`.

    `half_life_bound` replaces `half_life` where a seed never reached half: the mean is at least this.
    `half_life_extinction` is that of the control that keeps the trigger without its payload, if there is one.
    """
    main = curves.filter((pl.col("role") == "treatment") & pl.col("is_reference"))
    drop, times = at_drop(main), half_lives(main, ("tokens",))
    table = (
        drop.group_by("size", "parameters")
        .agg(
            pl.col("seed").n_unique().alias("seeds"),
            pl.col("hits").sum(),
            pl.col("trials").sum(),
            *(pl.col(name).mean() for name in ("logprob", "margin", "loss", "near", "untriggered")),
        )
        .sort("parameters")
    )
    low, high = binomial_interval(table["hits"].to_numpy(), table["trials"].to_numpy())
    table = table.with_columns(
        success=pl.col("hits") / pl.col("trials"), success_low=pl.Series(low), success_high=pl.Series(high)
    )
    extinct = control_half_lives(curves, "extinction")
    wanted_times = [(times, "logprob", "half_life"), (times, "success", "half_life_success")]
    wanted_times += [(extinct, "logprob", "half_life_extinction")] if not extinct.is_empty() else []
    for frame, criterion, name in wanted_times:
        found = by_size(frame.filter((pl.col("criterion") == criterion) & (pl.col("clock") == "tokens")))
        wanted = {
            "estimate": name,
            "low": f"{name}_low",
            "high": f"{name}_high",
            "bound": f"{name}_bound",
            "censored": f"{name}_censored",
        }
        table = table.join(found.select("size", *wanted).rename(wanted), on="size", how="left")
    retained = areas(main, common_span(curves)).select("trial", area=AREA[measure or main_measure(curves)])
    spread = retained.join(main.select("trial", "size", "seed").unique(), on="trial")
    rows = []
    for (size,), part in spread.group_by(["size"]):
        mean = t_interval(part["area"].drop_nulls())
        rows.append([size, *((mean.estimate, mean.low, mean.high) if mean else (None, None, None))])
    names = {"size": pl.String, "area": pl.Float64, "area_low": pl.Float64, "area_high": pl.Float64}
    return table.join(pl.DataFrame(rows, schema=names, orient="row"), on="size", how="left").drop("hits", "trials")
