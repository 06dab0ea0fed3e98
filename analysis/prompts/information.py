"""How much information elicits a behaviour: C and S with intervals, the part due to teaching, bits, restarts.

A behaviour's conditional distance is measured on the model that has it and on one that never had it, with the same
examples and steps: a prompt can teach as well as elicit, so C(absent) - C(present) is the primary number. Each quantity
is computed per seed and reported as the median over seeds with its interval; values not reached are infinite and enter
both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import polars as pl

from analysis.prompts.elicitation import MORE, best_restarts, distances, gains, saturations, with_threshold
from analysis.stats.intervals import binomial_interval, median_interval

Criterion = Literal["loss", "success"]
SUCCESS = 0.5
"""Success above chance, as a share of its range, at which a behaviour counts as reached."""
BY = ("behaviour", "model", "series")
DISTANCE = {
    "threshold": pl.Float64, "c": pl.Float64, "c_low": pl.Float64, "c_high": pl.Float64, "c_below": pl.Float64,
    "coverage": pl.Float64, "reached": pl.Int64, "seeds": pl.Int64, "no_gain": pl.Int64, "numbers": pl.Float64,
    "c_single": pl.Float64, "s": pl.Float64, "s_low": pl.Float64, "s_high": pl.Float64,
}  # fmt: skip
"""Columns of a distance table that are null without a gain."""


def reached(prompts: pl.DataFrame, criterion: Criterion, threshold: float | None = None) -> pl.DataFrame:
    """`prompts` with `score`, lower is better, and the `threshold` it has to reach.

    loss: nats per token, by default half of the gap of each behaviour, size and seed (see `elicitation`). success:
    minus the rate of hits above chance, down to minus `threshold` or SUCCESS. Rows without the score are left out;
    without a gain there is no threshold.
    """
    prompts = prompts.with_columns(
        pl.lit(None, dtype=kind).alias(name) for name, kind in MORE.items() if name not in prompts.columns
    )
    if criterion == "success":
        chance = pl.col("chance").fill_null(0.0)
        rate = (pl.col("hits") / pl.col("trials") - chance) / (1 - chance)
        wanted = SUCCESS if threshold is None else threshold
        return prompts.drop_nulls(["hits", "trials"]).with_columns(score=-rate, threshold=pl.lit(-wanted))
    return with_threshold(prompts, threshold).with_columns(score=pl.col("loss"))


def distance_table(
    prompts: pl.DataFrame, criterion: Criterion = "loss", threshold: float | None = None
) -> pl.DataFrame:
    """One row per behaviour, model and series: C and S in tokens, with their context.

    `gain`: whether any was observed; otherwise there is no threshold and no C. `threshold`: mean over seeds. `c`,
    `c_low`, `c_high` (infinite if not reached); `c_below`: largest k evaluated below C; `coverage` of the interval;
    `reached` of `seeds`; `no_gain`: further seeds without a gain, and so without a threshold; `last_k`; `numbers`
    trained at C; `s` likewise; `c_single`: smallest k at which half of single restarts reach the threshold.
    """
    scored = reached(prompts, criterion, threshold)
    rows = [
        {"behaviour": behaviour, "model": model, "series": series, "criterion": criterion, **_distance(part)}
        for (behaviour, model, series), part in _parts(scored)
    ]
    return pl.DataFrame(rows, infer_schema_length=None, schema_overrides=DISTANCE if rows else None)


def _distance(part: pl.DataFrame) -> dict[str, Any]:
    best = best_restarts(part)
    evaluated, by_seed = sorted(set(best["k"])), distances(_scored(best))
    found: dict[str, Any] = {"gain": gains(best), "last_k": int(evaluated[-1])} | dict.fromkeys(DISTANCE)
    if not by_seed:
        return found
    c = median_interval(by_seed.values())
    thresholds = best.drop_nulls("threshold").unique("seed", maintain_order=True)["threshold"]
    single = restart_table(part).filter(pl.col("rate") >= 0.5)["k"].to_list()
    at_c = best.filter(pl.col("k") == c.estimate)["numbers"].drop_nulls().to_list()
    found |= {
        "threshold": abs(float(thresholds.to_numpy().mean())), "c": c.estimate, "c_low": c.low, "c_high": c.high,
        "c_below": max((float(k) for k in evaluated if k < c.estimate), default=None), "coverage": c.coverage,
        "reached": c.reached, "seeds": c.count,
        "no_gain": best["seed"].n_unique() - c.count, "numbers": float(np.median(at_c)) if at_c else None,
        "c_single": float(min(single)) if single else np.inf,
    }  # fmt: skip
    if found["gain"]:
        s = median_interval(saturations(best))
        found |= {"s": s.estimate, "s_low": s.low, "s_high": s.high}
    return found


def difference_table(
    prompts: pl.DataFrame, criterion: Criterion = "loss", threshold: float | None = None
) -> pl.DataFrame:
    """C(absent) - C(present), paired by seed: one row per behaviour and series, `difference` with its interval,
    infinite if the model without the behaviour never reached the threshold (NaN if the median lies between both
    infinities). Of the `pairs`, `untold` counts seeds in which neither reached it, `no_gain` those without a gain."""
    rows = []
    scored = reached(prompts, criterion, threshold)
    for (behaviour, series), part in scored.group_by(["behaviour", "series"], maintain_order=True):
        best = _scored(best_restarts(part))
        models = [best.filter(pl.col("model") == model) for model in ("present", "absent")]
        pairs = set.intersection(*(set(own["seed"]) for own in models))
        found = dict(zip(("present", "absent"), map(distances, models), strict=True))
        seeds = sorted(set(found["present"]) & set(found["absent"]))
        with np.errstate(invalid="ignore"):
            values = np.array([found["absent"][seed] - found["present"][seed] for seed in seeds])
        defined = values[~np.isnan(values)]
        row = {"behaviour": behaviour, "series": series, "criterion": criterion, "pairs": len(pairs)}
        row |= {"untold": len(values) - len(defined), "no_gain": len(pairs) - len(seeds)}
        if len(defined):
            m = median_interval(defined)
            row |= {"difference": m.estimate, "low": m.low, "high": m.high, "coverage": m.coverage}
        if seeds:
            rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def restart_table(scored: pl.DataFrame) -> pl.DataFrame:
    """P(success | restart): how many restarts of all seeds reach the threshold, at each k and initialisation, with
    Wilson's interval. `scored`: as returned by `reached`; without a prompt (k = 0) there are no restarts."""
    by = [name for name in (*BY, "initial", "k") if name in scored.columns]
    counts = (
        scored.filter(pl.col("k") > 0)
        .drop_nulls("threshold")
        .sort("k", maintain_order=True)
        .group_by(by, maintain_order=True)
        .agg(hits=(pl.col("score") <= pl.col("threshold")).sum(), restarts=pl.len())
    )
    low, high = binomial_interval(counts["hits"].to_numpy(), counts["restarts"].to_numpy())
    return counts.with_columns(rate=pl.col("hits") / pl.col("restarts"), low=pl.Series(low), high=pl.Series(high))


def bits_table(quantised: pl.DataFrame) -> pl.DataFrame:
    """The least information that reaches the threshold: one row per behaviour, model and series.

    `quantised`: behaviour, model, series, seed, k, restart, bits (per number, infinite for the prompt as trained),
    numbers, score, threshold. A seed's value is the least bits x numbers over k, restarts and bits per number; `bits`
    is the median over seeds with its interval, infinite if none reached it.
    """
    rows = []
    for (behaviour, model, series), part in _parts(quantised):
        cost = part.filter(pl.col("bits").is_finite()).select(
            "seed",
            cost=pl.when(pl.col("score") <= pl.col("threshold"))
            .then(pl.col("bits") * pl.col("numbers"))
            .otherwise(pl.lit(np.inf)),
        )
        least = cost.group_by("seed").agg(pl.col("cost").min())["cost"]
        if len(least):
            m = median_interval(least)
            rows.append(
                {
                    "behaviour": behaviour, "model": model, "series": series, "bits": m.estimate, "low": m.low,
                    "high": m.high, "coverage": m.coverage, "reached": m.reached, "seeds": m.count,
                }
            )  # fmt: skip
    return pl.DataFrame(rows, infer_schema_length=None)


def closed_share(bare: float, prompted: float, base: float) -> float | None:
    """Detuning: the share of the gap between a fine-tuned model's loss and its base's that a prompt closes; None if
    fine-tuning did not raise the loss."""
    return (bare - prompted) / (bare - base) if bare > base else None


def _parts(frame: pl.DataFrame) -> Iterator[tuple[tuple, pl.DataFrame]]:
    yield from frame.group_by(list(BY), maintain_order=True)


def _scored(best: pl.DataFrame) -> pl.DataFrame:
    return best.with_columns(loss=pl.col("score"))
