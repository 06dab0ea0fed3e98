"""How much it takes, in numbers: C and S with intervals, what teaching alone takes, bits, and how often a restart gets
there.

A behaviour's conditional distance is measured on the model that has it and on one that never had it, given the same
examples and steps: because a prompt can teach as well as elicit, C(absent) - C(present) is the primary number.
Everything is taken seed by seed, and the median over seeds told with its interval; what was not reached is infinite
and has its place in both.
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
"""Share of the prompts asked, above chance and of what chance leaves, that counts as the behaviour reached."""
BY = ("behaviour", "model", "series")
DISTANCE = {
    "threshold": pl.Float64, "c": pl.Float64, "c_low": pl.Float64, "c_high": pl.Float64, "c_below": pl.Float64,
    "coverage": pl.Float64, "reached": pl.Int64, "seeds": pl.Int64, "no_gain": pl.Int64, "numbers": pl.Float64,
    "c_single": pl.Float64, "s": pl.Float64, "s_low": pl.Float64, "s_high": pl.Float64,
}  # fmt: skip
"""What a distance table says where a gain was seen, and null where none was."""


def reached(prompts: pl.DataFrame, criterion: Criterion, threshold: float | None = None) -> pl.DataFrame:
    """`prompts` with `score`, which is better when lower, and `threshold`, which it is to fall to.

    loss: nats a token, by default to half of the gap of each behaviour, size and seed (see `elicitation`). success:
    minus the share of hits, above chance, to minus `threshold` or SUCCESS. Rows that do not say are left out; where no
    gain was seen there is no threshold.
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
    """One row a behaviour, model and series: C and S in tokens, with what they rest on.

    `gain`: whether any was seen; without there is no threshold and no C. `threshold`: the mean over seeds. `c`,
    `c_low`, `c_high` (infinite when not reached), `c_below` the largest k tried below C, `coverage` of the interval,
    `reached` of `seeds`, and how many more seeds have no threshold, as they gain nothing (`no_gain`); `last_k`;
    `numbers` trained at C; `s` likewise; `c_single`: the smallest k at which half of single restarts get there.
    """
    scored = reached(prompts, criterion, threshold)
    rows = [
        {"behaviour": behaviour, "model": model, "series": series, "criterion": criterion, **_distance(part)}
        for (behaviour, model, series), part in _parts(scored)
    ]
    return pl.DataFrame(rows, infer_schema_length=None, schema_overrides=DISTANCE if rows else None)


def _distance(part: pl.DataFrame) -> dict[str, Any]:
    best = best_restarts(part)
    tried, by_seed = sorted(set(best["k"])), distances(_scored(best))
    found: dict[str, Any] = {"gain": gains(best), "last_k": int(tried[-1])} | dict.fromkeys(DISTANCE)
    if not by_seed:
        return found
    c, aims = median_interval(by_seed.values()), best.drop_nulls("threshold").unique("seed", maintain_order=True)["threshold"]
    single = restart_table(part).filter(pl.col("rate") >= 0.5)["k"].to_list()
    at_c = best.filter(pl.col("k") == c.estimate)["numbers"].drop_nulls().to_list()
    found |= {
        "threshold": abs(float(aims.to_numpy().mean())), "c": c.estimate, "c_low": c.low, "c_high": c.high,
        "c_below": max((float(k) for k in tried if k < c.estimate), default=None), "coverage": c.coverage,
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
    """C(absent) - C(present), paired by seed: one row a behaviour and series, `difference` with its interval, infinite
    where the model without the behaviour never got there (NaN where the median lies between both infinities). Of
    `pairs`, seeds in which neither did say nothing and are counted in `untold`, those without a gain, and so without a
    threshold, in `no_gain`."""
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
        told = values[~np.isnan(values)]
        row = {"behaviour": behaviour, "series": series, "criterion": criterion, "pairs": len(pairs)}
        row |= {"untold": len(values) - len(told), "no_gain": len(pairs) - len(seeds)}
        if len(told):
            m = median_interval(told)
            row |= {"difference": m.estimate, "low": m.low, "high": m.high, "coverage": m.coverage}
        if seeds:
            rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def restart_table(scored: pl.DataFrame) -> pl.DataFrame:
    """P(success | restart): of all restarts of all seeds, at each k and beginning, how many get to the threshold, with
    Wilson's interval. `scored` as `reached` gives it; no prompt (k = 0) has no restart."""
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
    """The least information that still gets there: one row a behaviour, model and series.

    `quantised`: behaviour, model, series, seed, k, restart, bits (a number, infinite for the prompt as trained),
    numbers, score, threshold. Of a seed it is the least bits x numbers over k, restarts and bits a number; `bits` is
    the median over seeds with its interval, infinite when none got there.
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
    """Detuning: the share of the gap between a fine-tuned model's loss and its base's that a prompt closes; None where
    fine-tuning cost nothing."""
    return (bare - prompted) / (bare - base) if bare > base else None


def _parts(frame: pl.DataFrame) -> Iterator[tuple[tuple, pl.DataFrame]]:
    yield from frame.group_by(list(BY), maintain_order=True)


def _scored(best: pl.DataFrame) -> pl.DataFrame:
    return best.with_columns(loss=pl.col("score"))
