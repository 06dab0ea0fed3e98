"""Where retention settles, if it does: the floor of a decay, without a law.

The tail of a curve is its last two octaves of tokens. It has settled when the change across the tail, from a straight
line over ln tokens, is shown to be small: its whole 90 % interval within +-0.1 of retention (two one-sided tests at
5 %, Schuirmann 1987). A curve too noisy or too short for that has not settled and has no floor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from analysis.decay.retention import RUN, treatments
from analysis.stats.intervals import binomial_interval, t_interval

OCTAVES = 2.0
SMALL = 0.1
MIN_EVALUATIONS = 4
"""Evaluations in the tail below which nothing is concluded."""
MEASURES = {"logprob": "retention_logprob", "success": "retention_success"}
FLOORS = {
    **RUN, "measure": pl.String, "kind": pl.String, "floor": pl.Float64, "low": pl.Float64, "high": pl.Float64,
    "change": pl.Float64, "change_low": pl.Float64, "change_high": pl.Float64, "evaluations": pl.Int64,
    "since": pl.Float64,
}  # fmt: skip


def floors(curves: pl.DataFrame) -> pl.DataFrame:
    """One row per treatment and measure (logprob, success) whose trunk had the skill.

    kind: settled | not settled. floor: mean retention over the tail, from `since` tokens on, with a 95 % t interval
    over its `evaluations`; for success never narrower than Wilson's of the pooled counts. The evaluations are of one
    run, so the interval covers evaluation noise and not seeds (see `floor_summary`). Null unless settled. change:
    across the tail, with its 90 % interval.
    """
    rows = []
    for about, part in treatments(curves):
        for measure, column in MEASURES.items():
            tokens, kept = part["tokens"].to_numpy(), part[column].to_numpy()
            seen = (tokens > 0) & np.isfinite(kept)
            if not seen.any():
                continue
            since = float(tokens[seen][-1]) / 2**OCTAVES
            last = seen & (tokens >= since)
            change = _change(np.log(tokens[last]), kept[last], tokens[seen][0] <= since)
            settled = change is not None and change[1] >= -SMALL and change[2] <= SMALL
            floor = _floor(part, part.filter(last), measure) if settled else (None, None, None)
            kind = "settled" if settled else "not settled"
            rows.append([*about, measure, kind, *floor, *(change or (None,) * 3), int(last.sum()), since])
    return pl.DataFrame(rows, schema=FLOORS, orient="row")


def _floor(part: pl.DataFrame, last: pl.DataFrame, measure: str) -> tuple[float | None, float | None, float | None]:
    """Mean over the tail of a curve, and its interval."""
    mean = t_interval(last[MEASURES[measure]])
    if mean is None:
        return None, None, None
    if measure == "logprob" or mean.low is None or mean.high is None:
        return mean.estimate, mean.low, mean.high
    # Seven evaluations at 0 of 128 hits have no variance, yet do not show that the rate is 0.
    ends = binomial_interval(last["hits"].to_numpy().sum(), last["trials"].to_numpy().sum())
    chance, at_drop = part["chance"][0], part["success"][0]
    low, high = (float(end - chance) / (at_drop - chance) for end in ends)
    return mean.estimate, min(mean.low, low), max(mean.high, high)


def _change(at: NDArray[np.float64], values: NDArray[np.float64], spans: bool) -> tuple[float, float, float] | None:
    """Change over the tail by least squares, and its 90 % interval; None with too few evaluations."""
    if at.size < MIN_EVALUATIONS or not spans:
        return None
    x = at - at.mean()
    slope = float(x @ values / (x @ x))
    left = values - values.mean() - slope * x
    error = math.sqrt(float(left @ left) / (at.size - 2) / float(x @ x))
    half_width = float(stats.t.ppf(0.95, at.size - 2)) * error
    width = OCTAVES * math.log(2)
    return width * slope, width * (slope - half_width), width * (slope + half_width)


def floor_summary(found: pl.DataFrame, by: Sequence[str] = ("setting", "size", "parameters")) -> pl.DataFrame:
    """Mean floor over seeds by measure and `by`, with its t interval: floor, low, high, seeds, settled, unsettled.

    Floor and interval are null if some runs did not settle: the others are selected by their result. above_control:
    whether the interval lies above 0, where retention meets the control; null without an interval. Seeds that agree
    exactly (all at 0 hits) get the mean of their own intervals instead of one of zero width.
    """
    rows = []
    for key, part in found.group_by("outcome", "measure", *by, maintain_order=True):
        settled = part.filter(pl.col("kind") == "settled")
        whole = settled.height == part.height
        mean = t_interval(settled.group_by("seed").agg(pl.col("floor").mean())["floor"]) if whole else None
        ends = (mean.estimate, mean.low, mean.high) if mean else (None, None, None)
        if mean is not None and mean.low == mean.high:
            low, high = settled.select(pl.col("low", "high").mean()).row(0)
            ends = (mean.estimate, low, high)
        above = None if ends[1] is None else ends[1] > 0
        rows.append([*key, *ends, above, part["seed"].n_unique(), settled.height, part.height - settled.height])
    names = {
        **{name: found.schema[name] for name in ("outcome", "measure", *by)},
        "floor": pl.Float64, "low": pl.Float64, "high": pl.Float64, "above_control": pl.Boolean, "seeds": pl.Int64,
        "settled": pl.Int64, "unsettled": pl.Int64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=names, orient="row")
