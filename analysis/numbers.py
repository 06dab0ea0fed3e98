"""The table of every number: one row a trial, what was implanted, how long it stayed, in every clock."""

from __future__ import annotations

import polars as pl

from analysis.design import described, setting_axes
from analysis.load import StudyData
from analysis.retention import CLOCKS, areas, half_lives


def at_drop(curves: pl.DataFrame) -> pl.DataFrame:
    """What each trial measured at the drop: success with its interval, log-probability, margin over the control."""
    return curves.filter(pl.col("tokens") == 0).select(
        "trial", "role", "size", "parameters", "seed", "setting", "is_reference",
        "hits", "trials", "success", "success_low", "success_high", "logprob",
        pl.col("logprob").sub(pl.col("control")).alias("margin"), "loss", "near", "untriggered",
    )  # fmt: skip


def every_number(data: StudyData, curves: pl.DataFrame) -> pl.DataFrame:
    """One row per trial, treatments first; what was not measured or not reached is empty, never 0."""
    axes = [axis.name for axis in setting_axes(data)]
    phase = data.declaration.outcomes[0].phase
    trials = described(data)
    outcome = f"outcome_{phase}"
    state = pl.col(outcome) if outcome in trials.columns else pl.lit(None, dtype=pl.String).alias(outcome)
    table = trials.select("trial", "role", "size", "parameters", "seed", *axes, state.alias("outcome"))
    drop = at_drop(curves).drop("role", "size", "parameters", "seed", "setting", "is_reference")
    end = curves.group_by("trial", maintain_order=True).agg(
        tokens_end=pl.col("tokens").last(), success_end=pl.col("success").last(),
        logprob_end=pl.col("logprob").last(), loss_end=pl.col("loss").last(),
    )  # fmt: skip
    table = table.join(drop.rename({"trials": "prompts"}), on="trial", how="left").join(end, on="trial", how="left")
    table = table.join(areas(curves), on="trial", how="left")
    times = half_lives(curves)
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
    rank = pl.col("role").replace_strict({"treatment": 0, "absent": 1, "positive": 2}, default=3)
    return table.sort(rank, "parameters", "seed", *axes, nulls_last=True)
