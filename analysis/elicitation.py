"""How many soft-prompt tokens a behaviour takes: L(k), conditional distance C, saturation S.

After Nordby 2025 (arXiv 2505.14943). C(M, D, T) is the smallest k whose best prompt brings the loss to the threshold
T, infinite when none does; S the smallest k beyond which more tokens no longer help. The formulas are a
reconstruction from the paper's text. Both are upper bounds: an optimizer may fail where a prompt exists.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from analysis.load import StudyData
from analysis.uncertainty import t_interval

RUNS = {
    "behaviour": pl.String, "model": pl.String, "series": pl.String, "k": pl.Int64, "restart": pl.Int64,
    "seed": pl.Int64, "loss": pl.Float64,
}  # fmt: skip
CLOSED = 0.5
"""Share of the gap between no prompt and the best one that the default threshold asks to be closed."""
TOLERANCE = 0.05
"""Share of that gap by which the loss at saturation may lie above the best."""


def runs(data: StudyData) -> pl.DataFrame:
    """One row per trained prompt: behaviour, model (present | absent), series (the size, "" when there is one), k,
    restart, seed and its last held-out loss. Empty where the trials have no parameter `k`."""
    if "k" not in data.trials.columns:
        return pl.DataFrame(schema=RUNS)
    outcome = data.declaration.outcomes[0]
    last = (
        data.points.filter((pl.col("phase") == outcome.phase) & (pl.col("name") == f"{outcome.task}/loss"))
        .sort("step")
        .group_by("trial")
        .agg(loss=pl.col("value").last())
    )
    trials = data.trials.filter(pl.col("role").is_in(["treatment", "absent"])).drop_nulls("k")
    several = "size" in trials.columns and trials["size"].n_unique() > 1
    named = {name: pl.col(name) for name in ("behaviour", "restart", "seed") if name in trials.columns}
    return (
        trials.join(last, on="trial")
        .select(
            named.get("behaviour", pl.lit(outcome.label)).alias("behaviour"),
            pl.when(pl.col("role") == "absent").then(pl.lit("absent")).otherwise(pl.lit("present")).alias("model"),
            (pl.col("size") if several else pl.lit("")).alias("series"),
            "k",
            named.get("restart", pl.lit(0)).alias("restart"),
            named.get("seed", pl.lit(0)).alias("seed"),
            "loss",
        )
        .cast(pl.Schema(RUNS))
    )


def curves(prompts: pl.DataFrame, threshold: float | None = None) -> pl.DataFrame:
    """The table of the figure: per prompt its loss (part `restart`), and per k the best restart of each seed averaged
    over seeds (part `mean`, with t intervals), beside threshold, C and S in words.

    `prompts` as `runs` gives them. `threshold`: T in nats; by default half of the gap between no prompt and the best
    mean of the model that has the behaviour, so it needs k = 0. Where no gain is seen (the paired difference over
    seeds between no prompt and the most tokens holds 0) there is neither threshold nor C nor S.

    The best restart is chosen on the loss that is shown: with many restarts of a noisy loss it flatters.
    """
    parts = []
    for place, (_, part) in enumerate(prompts.group_by(["behaviour"], maintain_order=True)):
        best = part.group_by("model", "series", "seed", "k").agg(pl.col("loss").min()).sort("series", "seed", "k")
        aim = threshold if threshold is not None else default_threshold(best)
        for (model, series), own in best.group_by(["model", "series"], maintain_order=True):
            last = int(own["k"].to_numpy().max())
            rows = []
            for (k,), at in own.sort("k").group_by(["k"], maintain_order=True):
                found = t_interval(at["loss"])
                if found is not None:
                    rows.append((k, found.estimate, found.low, found.high))
            means = pl.DataFrame(rows, schema={"k": pl.Int64, "loss": pl.Float64, "low": pl.Float64,
                                               "high": pl.Float64}, orient="row")  # fmt: skip
            all_runs = part.filter((pl.col("model") == model) & (pl.col("series") == series))
            both = [means.with_columns(part=pl.lit("mean")),
                    all_runs.select("k", "loss", part=pl.lit("restart"))]  # fmt: skip
            parts.append(pl.concat(both, how="diagonal").with_columns(
                behaviour=pl.lit(part["behaviour"][0]), place=pl.lit(place), model=pl.lit(str(model)),
                series=pl.lit(str(series)), threshold=pl.lit(aim, dtype=pl.Float64),
                distance=pl.lit("" if aim is None else _told("C", distances(own, aim), last)),
                saturation=pl.lit(_told("S", saturations(own), last) if gains(own) else "no gain"),
            ))  # fmt: skip
    return pl.concat(parts) if parts else pl.DataFrame()


def default_threshold(best: pl.DataFrame) -> float | None:
    """T that closes CLOSED of the gap of the model that has the behaviour; None without k = 0 or without a gain."""
    present = best.filter(pl.col("model") == "present")
    means = present.group_by("k").agg(pl.col("loss").mean())
    bare = means.filter(pl.col("k") == 0)["loss"].to_list()
    return bare[0] - CLOSED * (bare[0] - min(means["loss"])) if bare and gains(present) else None


def gains(best: pl.DataFrame) -> bool:
    """Whether the most tokens do better than the fewest, paired by seed and series; one pair is taken at its word."""
    ends = best.sort("k").group_by("seed", "series").agg(gain=pl.col("loss").first() - pl.col("loss").last())
    found = t_interval(ends["gain"])
    return found is not None and (found.low if found.low is not None else found.estimate) > 0


def distances(best: pl.DataFrame, threshold: float) -> list[float]:
    """C of each seed: the smallest k whose best restart is at the threshold or below; inf where none is."""
    return [
        min((float(k) for k, loss in own.select("k", "loss").iter_rows() if loss <= threshold), default=np.inf)
        for _, own in best.sort("seed").group_by(["seed"], maintain_order=True)
    ]


def saturations(best: pl.DataFrame) -> list[float]:
    """S of each seed: the smallest k from which on no loss is better by more than TOLERANCE of the whole gain; inf
    when that is the largest k tried, for then nothing says that the gain has ended."""
    found = []
    for _, own in best.sort("seed", "k").group_by(["seed"], maintain_order=True):
        k, loss = own["k"].to_numpy(), own["loss"].to_numpy()
        enough = loss <= loss.min() + TOLERANCE * (loss[0] - loss.min())
        first = int(np.flatnonzero(enough)[0])
        found.append(float(k[first]) if first < k.size - 1 else np.inf)
    return found


def _told(name: str, values: list[float], last: int) -> str:
    """Median over seeds and their range: of 5 seeds the range holds the median in 94 % of cases (order statistics),
    and values that were not reached have their place in both."""
    middle, low, high = float(np.median(values)), min(values), max(values)
    reached = sum(np.isfinite(values))
    if not np.isfinite(middle):
        return f"{name} not reached by k = {last}" + (f" ({reached} of {len(values)} seeds did)" if reached else "")
    if low == high:
        return f"{name} = {middle:g}"
    return f"{name} = {middle:g} [{low:g}, {f'{high:g}' if np.isfinite(high) else f'> {last}'}]"
