"""Fragility of fitted prompts against the information that their behaviours take: do behaviours that need little break
easily?

Easy behaviours reach a lower loss, with smaller gradients and other norms, so prompts are compared at one loss
(`--matched-loss`), under noise of one norm, and at one k; remaining differences in loss, norm and k are controlled for
by partial correlation. A behaviour is one observation, however many seeds it has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl

from analysis.errors import UserError
from analysis.prompts import amounts, elicitation
from analysis.runs.study import StudyData
from analysis.stats.association import rank_correlation
from analysis.stats.intervals import Interval, median_interval

PHASE = "fragility"
MEASURES = {
    "f1": "F1, gradient under noise", "f2": "F2, rise under noise", "f3": "F3, worst rise",
    "r50": "r50, radius that halves success", "curvature": "λmax, largest curvature",
}  # fmt: skip
CONTROLS = ("loss", "norm", "k")
"""In what else easy behaviours differ: controls of the partial correlations."""
SCHEMA = {"task": pl.String, "behaviour": pl.String, "model": pl.String, "series": pl.String, "seed": pl.Int64,
          "k": pl.Int64}  # fmt: skip


def measured(data: StudyData) -> pl.DataFrame:
    """One row per measured prompt: SCHEMA, restart, and its measures; empty if there are none."""
    runs = elicitation.declared_points(data, elicitation.MODELS, (PHASE,))
    return runs if runs.height else pl.DataFrame(schema=SCHEMA)


def c_by_seed(data: StudyData) -> pl.DataFrame:
    """C of every behaviour, series and seed on models that have it, by the matched loss: to one token if searched for,
    otherwise the smallest k evaluated. If not reached, twice the largest k: above all others."""
    found = amounts.searched(data)
    if found.is_empty():
        prompts = elicitation.with_threshold(elicitation.runs(data), amounts.matched_loss(data)).drop_nulls("threshold")
        rows = [
            {"behaviour": behaviour, "model": model, "series": series, "seed": seed, "c": c}
            for (behaviour, model, series), part in prompts.group_by(
                ["behaviour", "model", "series"], maintain_order=True
            )
            for seed, c in elicitation.distances(elicitation.best_restarts(part)).items()
        ]
        found = pl.DataFrame(rows, infer_schema_length=None)
    if found.is_empty():
        return found
    largest = max((prompt["k"] for prompt in data.declaration.prompts.values()), default=1)
    found = found.filter(pl.col("model") == "present").select("behaviour", "series", "seed", "c")
    return found.with_columns(pl.when(pl.col("c").is_finite()).then("c").otherwise(pl.lit(2.0 * largest)).alias("c"))


def joined(data: StudyData, found: pl.DataFrame) -> pl.DataFrame:
    """The rows of `found` on models that have the behaviour, with its `c`; empty without any."""
    c = c_by_seed(data) if found.height else found
    if c.is_empty():
        return pl.DataFrame()
    return found.filter(pl.col("model") == "present").join(c, on=["behaviour", "series", "seed"], maintain_order="left")


def common_k(table: pl.DataFrame) -> int:
    """The k at which most behaviours were measured, the largest of several: there k is held fixed by design."""
    counts = table.group_by("k").agg(pl.col("behaviour").n_unique()).sort("behaviour", "k")
    return int(counts["k"][-1])


def correlations(data: StudyData, found: pl.DataFrame) -> pl.DataFrame:
    """Spearman's correlation over behaviours of each measure with C, size by size, with 95 % intervals: at one k and
    over every k; without controls, and given loss, norm and, if it varies, k. `each_seed`: the same for each seed.
    Without rows that have too few behaviours."""
    table = joined(data, found)
    return pl.DataFrame(list(_rows(table)) if table.height else [], infer_schema_length=None)


def _rows(table: pl.DataFrame) -> Iterator[dict[str, Any]]:
    at = common_k(table)
    for (series,), own in table.group_by(["series"], maintain_order=True):
        for prompts, part in ((f"k = {at}", own.filter(pl.col("k") == at)), ("every k", own)):
            if prompts == "every k" and own["k"].n_unique() == 1:
                continue
            held = [name for name in CONTROLS if name in part.columns and part[name].drop_nulls().n_unique() > 1]
            for name, label in MEASURES.items():
                for controls in ((), tuple(held)) if name in part.columns else ():
                    r = _correlation(part, name, controls)
                    if r is None:
                        continue
                    seeds = [_correlation(each, name, controls) for _, each in sorted(part.group_by("seed"))]
                    yield {
                        "measure": label, "series": series, "prompts": prompts,
                        "held_fixed": ", ".join(controls) or "nothing", "correlation": r.estimate, "low": r.low,
                        "high": r.high, "behaviours": r.count,
                        "each_seed": ", ".join("–" if s is None else f"{s.estimate:+.2f}" for s in seeds),
                    }  # fmt: skip


def _correlation(part: pl.DataFrame, name: str, controls: Sequence[str]) -> Interval | None:
    try:
        return rank_correlation(part, "c", name, controls)
    except UserError:
        return None


def figure_table(data: StudyData) -> pl.DataFrame:
    """The table of the figure, at the common k: one row per measure, size and behaviour, with `c` and `value` as
    medians over seeds with their intervals, and per measure and size `rho` and `partial` (given loss and norm) with
    theirs, over `count` behaviours."""
    found = measured(data)
    table, computed = joined(data, found), correlations(data, found)
    if table.is_empty() or computed.is_empty():
        return pl.DataFrame()
    at = common_k(table)
    rows = []
    for (series, task), part in table.filter(pl.col("k") == at).group_by(["series", "task"], maintain_order=True):
        c = median_interval(part["c"].drop_nulls())
        for name, label in MEASURES.items():
            values = part[name].drop_nulls() if name in part.columns else pl.Series([])
            if values.is_empty():
                continue
            value = median_interval(values)
            rows.append({
                "measure": label, "series": series, "behaviour": task, "k": at, "loss": amounts.matched_loss(data),
                "seeds": value.count, "c": c.estimate, "c_low": c.low, "c_high": c.high, "value": value.estimate,
                "low": value.low, "high": value.high,
            })  # fmt: skip
    of_k = computed.filter(pl.col("prompts") == f"k = {at}")
    parts = {
        "rho": of_k.filter(pl.col("held_fixed") == "nothing"),
        "partial": of_k.filter(pl.col("held_fixed") != "nothing"),
    }
    frame = pl.DataFrame(rows, infer_schema_length=None)
    for name, part in parts.items():
        both = part.select(
            "measure", "series", pl.col("correlation").alias(name), pl.col("low").alias(f"{name}_low"),
            pl.col("high").alias(f"{name}_high"), *([pl.col("behaviours").alias("count")] if name == "rho" else []),
        )  # fmt: skip
        frame = frame.join(both, on=["measure", "series"], how="left", maintain_order="left")
    return frame


def unmeasured(data: StudyData, found: pl.DataFrame) -> list[str]:
    """Fitted behaviours without a measured prompt: none reached the matched loss."""
    fitted = elicitation.runs(data).filter(pl.col("model") == "present")["behaviour"].unique(maintain_order=True)
    known = set(found.filter(pl.col("model") == "present")["behaviour"])
    return [name for name in fitted if name not in known]
