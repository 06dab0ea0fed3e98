"""Decay laws fitted to a sweep's reference curves, size by size, with their diagnostics.

The response is the margin of the answer's log-probability over the never-trained control, in nats, with the level at
the drop as a parameter: a ratio to the first evaluation would carry that evaluation's noise into every point.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from analysis.decay.retention import CLOCKS, retention_curves
from analysis.fitting.extrapolation import SHARES, over_groups, predict_largest, rolling
from analysis.fitting.fit import by_group, fit
from analysis.fitting.groups import half_lives_by_group
from analysis.fitting.observations import Observations
from analysis.fitting.selection import Comparison, Ranked, compare
from analysis.laws import LAWS, Law
from analysis.runs.study import StudyData

STARTS = 32
MIN_POINTS = 10
"""Evaluations of a run below which no law is fitted to it."""
SUPPORTED = 10.0
"""ΔAICc beyond which a law has essentially no support in the data (Burnham and Anderson 2002, 2.6): what its parameters
would be is not asked, as their profiles took a sixth of a report's time."""


def menu() -> list[Law]:
    """Every registered law that decays from its value at 0, user laws included."""
    return [law for law in LAWS.values() if law.decays and law.inputs == ("x",)]


def reference_curves(data: StudyData) -> pl.DataFrame:
    """size, parameters, seed, clocks, margin (nats per token above the control): implanted runs at the reference."""
    curves = retention_curves(data).filter((pl.col("role") == "treatment") & pl.col("is_reference"))
    curves = curves.filter(pl.col("retention_logprob").is_not_null().any().over("trial"))
    table = curves.select("size", "parameters", "seed", *CLOCKS, margin=pl.col("logprob") - pl.col("control"))
    table = table.drop_nulls(["size", "parameters", "seed", "tokens", "margin"])
    return table.filter(pl.len().over("size", "seed") >= MIN_POINTS).sort("parameters", "seed", "tokens")


def comparisons(data: StudyData) -> dict[str, Comparison]:
    """By size, smallest first: all laws fitted to its seeds, ranked. Computed once per `data`."""
    if "fits" not in data.derived:
        data.derived["fits"] = {
            str(size): compare([fit(law, observations(part), starts=STARTS) for law in menu()])
            for (size,), part in reference_curves(data).group_by(["size"], maintain_order=True)
        }
    return data.derived["fits"]


def observations(part: pl.DataFrame, clock: str = "tokens") -> Observations:
    """The margin against a clock."""
    at, margin, seed = (part[name].to_numpy() for name in (clock, "margin", "seed"))
    return Observations(x=at, y=margin, group=seed)


def supported(each: Ranked) -> bool:
    return not each.delta > SUPPORTED


def fits_table(data: StudyData) -> pl.DataFrame:
    """One row per size and law: quality of fit and prediction, half-life with 95 % interval, share of starts that
    reached the optimum, warnings."""
    rows = []
    for size, found in comparisons(data).items():
        for each in found.ranked:
            half, made = each.half_life, each.fit
            rows.append({
                "size": size, "law": made.law.name, "delta_aicc": each.delta, "held_out_error": each.held_out,
                "held_out_log_likelihood": each.held_out_log_likelihood,
                "half_life": half.estimate if half else None, "half_life_low": half.low if half else None,
                "half_life_high": half.high if half else None, "half_life_censored": half.censored if half else None,
                "starts_at_optimum": made.starts_at_optimum, "starts": made.starts, "points": made.observations.n,
                "warnings": "; ".join(made.warnings), "formula": made.law.formula,
                "intervals": each.intervals.method if supported(each) else None,
            })  # fmt: skip
    return pl.DataFrame(rows, infer_schema_length=None)


def parameters_table(data: StudyData) -> pl.DataFrame:
    """One row per size, law that has support and parameter: estimate, low, high."""
    rows = [
        (size, each.fit.law.name, name, ends.estimate, ends.low, ends.high, ends.count)
        for size, found in comparisons(data).items()
        for each in found.ranked
        if supported(each)
        for name, ends in each.intervals.parameters.items()
    ]
    kinds = {"size": pl.String, "law": pl.String, "parameter": pl.String, "estimate": pl.Float64, "low": pl.Float64,
             "high": pl.Float64, "seeds": pl.Int64}  # fmt: skip
    return pl.DataFrame(rows, schema=kinds, orient="row")


def ranking(data: StudyData) -> pl.DataFrame:
    """law, delta: AICc summed over the sizes, minus the best law's; best first. Laws without an AICc are left out."""
    totals: dict[str, float] = {}
    for found in comparisons(data).values():
        for each in found.ranked:
            totals[each.fit.law.name] = totals.get(each.fit.law.name, 0.0) + each.aicc
    known = {name: total for name, total in totals.items() if np.isfinite(total)}
    rows = [(name, total - min(known.values())) for name, total in sorted(known.items(), key=lambda item: item[1])]
    return pl.DataFrame(rows, schema={"law": pl.String, "delta": pl.Float64}, orient="row")


def half_lives_by_law(data: StudyData) -> pl.DataFrame:
    """law, size, parameters, seed, estimate: each law's half-life in each run; null where the data only bound it, after
    the last evaluation or before the first one after the drop."""
    rows = []
    sizes = dict(reference_curves(data).select("size", "parameters").unique().iter_rows())
    for size, found in comparisons(data).items():
        for each in found.ranked:
            reached = half_lives_by_group(each.fit)
            assert reached is not None
            for seed, low, high in zip(seeds(each), reached.low, reached.high, strict=True):
                rows.append((each.fit.law.name, size, sizes[size], seed, float(low) if low == high else None))
    kinds = {"law": pl.String, "size": pl.String, "parameters": pl.Int64, "seed": pl.Int64, "estimate": pl.Float64}
    return pl.DataFrame(rows, schema=kinds, orient="row")


def median_seed(found: Comparison) -> int:
    """Index of the seed whose half-life, by the best law, is the median; the first if no seed has one."""
    halves = _half_lives(found.ranked[0])
    return int(np.argsort(halves, kind="stable")[(halves.size - 1) // 2])


def seeds(each: Ranked) -> list[int]:
    return np.unique(np.asarray(each.fit.observations.group)).tolist()


def _half_lives(each: Ranked) -> np.ndarray:
    found = by_group(each.fit).half_life
    assert found is not None
    return found


def predictions(data: StudyData, laws: list[str]) -> pl.DataFrame:
    """Table of the figure `extrapolation`: rolling errors over all runs, and the largest size's predicted half-life."""
    halves = half_lives_by_law(data)
    rows = []
    for rank, name in enumerate(laws):
        parts = []
        for found in comparisons(data).values():
            each = next(each for each in found.ranked if each.fit.law.name == name)
            parts += [rolling(each.fit.law, each.fit.observations, each.fit.error, SHARES[:-1]), each.rolling]
        clusters = pl.concat(parts).group_by("group", "seen")  # a seed is one cluster over all its sizes
        means = clusters.agg(pl.col("error").mean(), pl.col("log_likelihood").mean())
        for row in over_groups(means).iter_rows(named=True):
            rows.append(("rolling", name, rank, row["seen"], row["estimate"], row["low"], row["high"]))
        ratio = predict_largest(halves.filter(pl.col("law") == name))
        if ratio is not None:
            rows.append(("largest", name, rank, None, ratio.estimate, ratio.low, ratio.high))
    kinds = {"part": pl.String, "law": pl.String, "rank": pl.Int64, "seen": pl.Float64, "estimate": pl.Float64,
             "low": pl.Float64, "high": pl.Float64}  # fmt: skip
    return pl.DataFrame(rows, schema=kinds, orient="row")
