"""Decision accuracy: how often the order of two settings at a small size foretells their order at the largest size.

Magnusson et al. 2025, DataDecide (arXiv 2504.11393).
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import polars as pl

from analysis.answers.leading import SIZE, quantities, with_quantities
from analysis.answers.quantities import values
from analysis.answers.questions import SEED
from analysis.decay.design import described
from analysis.runs.study import StudyData
from analysis.stats.arrays import Array
from analysis.stats.intervals import t_interval
from halflife.tracking.questions import Quantity

SETTINGS = 3
"""Settings below which there is no accuracy to speak of."""
QUANTITIES = 3
ACCURACY = {
    "quantity": pl.String, "label": pl.String, "parameters": pl.Int64, "compute": pl.Float64, "seed": pl.String,
    "accuracy": pl.Float64, "low": pl.Float64, "high": pl.Float64, "pairs": pl.Int64, "seeds": pl.Int64,
}  # fmt: skip


def decision_accuracy(data: StudyData) -> pl.DataFrame:
    """ACCURACY: one row per quantity, size and seed, and without a seed the mean over seeds with its t interval, in
    [0, 1]; no interval where seeds do not differ. `compute`: FLOPs of one run, 6 x parameters x tokens.

    The order at the largest size is that of the means over the other seeds, so a seed never foretells itself; at the
    largest size this is how well one seed repeats. A pair whose order at the largest size is unknown (censored) is left
    out; one unknown at a small size counts one half. Empty below SETTINGS settings or two sizes.
    """
    if SIZE not in data.trials.columns or SEED not in data.trials.columns:
        return pl.DataFrame(schema=ACCURACY)
    found = quantities(data)[:QUANTITIES]
    own = with_quantities(data, found)
    about = described(own).filter(pl.col("role") == "treatment").select("trial", "setting")
    compute, parts = _compute(own, found), []
    for quantity in found:
        frame = values(own, quantity).join(about, on="trial").drop_nulls([SIZE, SEED])
        rows = _accuracy(frame)
        label = quantity.label.removeprefix("the ")
        parts.append(rows.with_columns(quantity=pl.lit(quantity.name), label=pl.lit(label)).join(compute, on=SIZE))
    if not parts:
        return pl.DataFrame(schema=ACCURACY)
    return pl.concat(parts).select(pl.col(name).cast(of) for name, of in ACCURACY.items())


def _compute(data: StudyData, asked: list[Quantity]) -> pl.DataFrame:
    """parameters, compute: of the trunk and the phase that the first quantity is measured in."""
    phases = {"trunk", *(quantity.phase for quantity in asked[:1])}
    tokens = data.points.filter(pl.col("phase").is_in(phases)).group_by("trial", "phase").agg(pl.col("step").max())
    treated = data.trials.filter(pl.col("role") == "treatment").select("trial", SIZE)
    per_trial = tokens.group_by("trial").agg(pl.col("step").sum()).join(treated, on="trial")
    return per_trial.group_by(SIZE).agg(compute=6.0 * pl.col("step").mean() * pl.col(SIZE).first())


def _accuracy(frame: pl.DataFrame) -> pl.DataFrame:
    """parameters, seed, accuracy, low, high, pairs, seeds."""
    schema = {name: ACCURACY[name] for name in ("parameters", "seed", "accuracy", "low", "high", "pairs", "seeds")}
    names, seeds, sizes = (frame[name].unique().sort().to_list() for name in ("setting", SEED, SIZE))
    if len(names) < SETTINGS or len(sizes) < 2:
        return pl.DataFrame(schema=schema)
    means = frame.group_by("setting", SEED, SIZE).agg(pl.col("low", "high").mean())
    low, high = (np.full((len(names), len(seeds), len(sizes)), np.nan) for _ in range(2))
    for setting, seed, size, *ends in means.iter_rows():
        at = names.index(setting), seeds.index(seed), sizes.index(size)
        low[at], high[at] = (np.nan if end is None else end for end in ends)
    orders, targets = _orders(low, high), _targets(low, high)
    rows = []
    for k, size in enumerate(sizes):
        right = (1 + orders[:, :, k] * targets) / 2  # 1 the same, 0 the opposite, one half unknown
        counted = (targets != 0) & np.isfinite(right)
        own = [(seed, right[counted[:, s], s]) for s, seed in enumerate(seeds)]
        found = [(str(seed), float(each.mean()), each.size) for seed, each in own if each.size]
        rows += [(size, seed, mean, None, None, pairs, 1) for seed, mean, pairs in found]
        if found:
            mean = t_interval([each for _, each, _ in found])
            assert mean is not None
            ends = (None, None)
            if mean.low is not None and mean.high is not None and mean.low < mean.high:
                ends = max(0.0, mean.low), min(1.0, mean.high)
            rows.append((size, None, mean.estimate, *ends, max(pairs for *_, pairs in found), len(found)))
    return pl.DataFrame(rows, schema=schema, orient="row")


def _orders(low: Array, high: Array) -> Array:
    """Of each pair of settings, seed and size (P, S, K): 1, -1, 0 if bounds leave it open; NaN if not measured."""
    return np.array([_sign(low[a] - high[b], high[a] - low[b]) for a, b in combinations(range(low.shape[0]), 2)])


def _targets(low: Array, high: Array) -> Array:
    """The order at the largest size by the means over all seeds but one (P, S); 0 where it is not known."""
    found = []
    for a, b in combinations(range(low.shape[0]), 2):
        least, most = low[a, :, -1] - high[b, :, -1], high[a, :, -1] - low[b, :, -1]
        known = ~np.isnan(least) & ~np.isnan(most)
        row = []
        for seed in range(low.shape[1]):
            others = known & ((np.arange(low.shape[1]) != seed) | (low.shape[1] == 1))
            row.append(_sign(least[others].mean(), most[others].mean()) if others.any() else 0.0)
        found.append(row)
    return np.array(found, dtype=float)


def _sign(low: Array | float, high: Array | float) -> Array:
    """Of a difference between bounds."""
    sign = np.where(np.asarray(low) > 0, 1.0, np.where(np.asarray(high) < 0, -1.0, 0.0))
    return np.where(np.isnan(low) | np.isnan(high), np.nan, sign)
