"""How much faster does a model relearn what it lost, and is that memory of the backdoor or of its parts?

After the same branch, a poisoned and a never-poisoned model relearn each pair of {old, new} trigger and {old, new}
payload. The old payload with a new trigger is also relearned faster: that is memory of the payload. What is specific to
the backdoor is the interaction  s(old,old) + s(new,new) - s(new,old) - s(old,new),  where
s = ln T(never poisoned) - ln T(poisoned) is the saving on one pair. Savings after Ebbinghaus; the 2 x 2 after
"Savings can be memory of the payload" in decay-and-backdoors.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from analysis.decay.design import controls, described
from analysis.decay.formulas import rising
from analysis.decay.retention import retention_curves, wide_points
from analysis.runs.study import StudyData
from analysis.stats import censoring
from analysis.stats.censoring import log_ratio
from analysis.stats.imputation import few_censored, mean_over_seeds
from analysis.stats.intervals import Interval, t_interval
from halflife.tracking import schema

PREFIX = "relearn-"
PAIRS = ("old-old", "new-old", "old-new", "new-new")
"""trigger-payload"""
SIGNS = {"old-old": 1, "new-old": -1, "old-new": -1, "new-new": 1}
THRESHOLDS = (0.5, 0.9)
"""Success rates that relearning has to reach; the first is reported."""
TIMES = {
    "outcome": pl.String, "trial": pl.String, "absent": pl.String, "role": pl.String, "size": pl.String,
    "parameters": pl.Int64, "seed": pl.Int64, "setting": pl.String, "pair": pl.String, "threshold": pl.Float64,
    **censoring.COLUMNS,
}  # fmt: skip


def relearning_times(
    data: StudyData, outcome: schema.Outcome | None = None, thresholds: Sequence[float] = THRESHOLDS
) -> pl.DataFrame:
    """Tokens until success first reaches each threshold: one row per trial, pair and threshold.

    Treatments whose trunk never learned the behaviour have no rows. kind: observed; censored (not reached by `low`);
    at-start (the skill was already there: nothing to relearn).
    """
    outcome = outcome or data.declaration.outcomes[0]
    hits, trials = f"{outcome.task}/{schema.HITS}", f"{outcome.task}/{schema.TRIALS}"
    # A trunk that never learned the behaviour has nothing to remember.
    curves = retention_curves(data, outcome)
    never = curves.filter((pl.col("role") == "treatment") & ~pl.col("implanted"))["trial"].unique()
    about = described(data).filter(~pl.col("trial").is_in(never.implode()))
    about = about.select("trial", "role", "size", "parameters", "seed", "setting")
    rows = []
    for pair in _pairs(data):
        wide = wide_points(data, PREFIX + pair)
        if hits not in wide.columns or trials not in wide.columns:
            continue
        matches = controls(data, "absent", among=set(wide["trial"].unique()))
        for part in wide.join(about, on="trial").partition_by("trial", maintain_order=True):
            head = part.row(0, named=True)
            success = (part[hits] / part[trials]).to_numpy()
            absent = matches.get(head["trial"]) if head["role"] == "treatment" else None
            for threshold in thresholds:
                found = rising(part["step"].cast(pl.Float64).to_numpy(), success, threshold)
                if found is not None:
                    setting = [head[name] for name in ("role", "size", "parameters", "seed", "setting")]
                    rows.append([outcome.name, head["trial"], absent, *setting, pair, threshold, *found.row])
    return pl.DataFrame(rows, schema=TIMES, orient="row")


def _pairs(data: StudyData) -> list[str]:
    """The pairs of the 2 x 2, then any others that were relearned."""
    phases = data.points["phase"].unique().to_list()
    found = {phase.removeprefix(PREFIX) for phase in phases if phase.startswith(PREFIX)}
    return [pair for pair in PAIRS if pair in found] + sorted(found - set(PAIRS))


def log_savings(times: pl.DataFrame, threshold: float = THRESHOLDS[0]) -> pl.DataFrame:
    """ln T(never poisoned) - ln T(poisoned) of each treatment and pair, as `saving`; null unless both were observed.

    saving_kind: observed, at least (the control did not reach it) or at most (the treatment did not); saving_bound is
    the value or the bound. kind_absent and control describe the control's time.
    """
    seen = times.filter(pl.col("threshold") == threshold)
    treated = seen.filter(pl.col("role") == "treatment")
    control = seen.filter(pl.col("role") == "absent").select(
        pl.col("trial").alias("absent"), "pair", pl.col("kind", "low", "estimate").name.suffix("_absent")
    )
    kind, bound = log_ratio("_absent", "")
    return (
        treated.join(control, on=["absent", "pair"], how="left")
        .with_columns(saving_kind=kind, saving_bound=bound)
        .with_columns(saving=pl.when(pl.col("saving_kind") == "observed").then("saving_bound"))
        .rename({"estimate_absent": "control"})
        .drop("low_absent")
    )


def interactions(savings: pl.DataFrame) -> pl.DataFrame:
    """The saving specific to the backdoor (log ratio) of each treatment with four pairs observed on both sides."""
    sign = pl.col("pair").replace_strict(SIGNS, return_dtype=pl.Float64)
    return (
        savings.drop_nulls("saving")
        .filter(pl.col("pair").is_in(PAIRS))
        .group_by("trial", "size", "parameters", "seed", "setting", maintain_order=True)
        .agg(own=(sign * pl.col("saving")).sum(), pairs=pl.col("pair").n_unique())
        .filter(pl.col("pairs") == len(PAIRS))
        .drop("pairs")
    )


def over_seeds(frame: pl.DataFrame, value: str) -> Interval | None:
    """Mean over sizes and settings within each seed, then Student-t over seeds."""
    seeds = frame.drop_nulls([value, "seed"]).group_by("seed").agg(pl.col(value).mean()).sort("seed")
    return t_interval(seeds[value].to_list())


def bounded_over_seeds(savings: pl.DataFrame) -> Interval | None:
    """`over_seeds` of the saving with those that are only bounded as bounds, while they are few
    (analysis.stats.imputation): dropping a model that never relearned would select by result."""
    known = savings.drop_nulls(["saving_bound", "seed"])
    low = pl.when(pl.col("saving_kind") == "at most").then(-float("inf")).otherwise("saving_bound").mean()
    high = pl.when(pl.col("saving_kind") == "at least").then(float("inf")).otherwise("saving_bound").mean()
    seeds = known.group_by("seed").agg(low=low, high=high).sort("seed")
    seeds = seeds.filter(pl.col("low").is_finite() | pl.col("high").is_finite())
    ends = seeds.select("low", "high").to_numpy()
    bounded = ends[:, :1] != ends[:, 1:]
    if seeds.height < 2 or not bounded.any() or not few_censored(bounded):
        return over_seeds(savings, "saving")
    return mean_over_seeds(ends[:, 0], ends[:, 1])


def savings_summary(times: pl.DataFrame) -> pl.DataFrame:
    """Per threshold and pair, and for the interaction ("own"): the factor by which tokens are saved, over seeds. A few
    savings of pairs that are only bounded count as bounds.

    Columns: threshold, pair, ratio, low, high, seeds, used, censored (treatments without an observed pair of times).
    """
    rows = []
    for threshold in times["threshold"].unique().sort().to_list():
        savings = log_savings(times, threshold)
        found = set(savings["pair"])
        pairs = [*PAIRS, *sorted(found - set(PAIRS))] if found & set(PAIRS) else sorted(found)
        parts = [(pair, savings.filter(pl.col("pair") == pair)) for pair in pairs]
        groups = [(pair, bounded_over_seeds(part), part["saving"]) for pair, part in parts]
        if found & set(PAIRS):
            own = interactions(savings)
            groups.append(("own", over_seeds(own, "own"), own["own"]))
        treatments = savings["trial"].n_unique()
        for name, mean, values in groups:
            used = values.len() - values.null_count()
            shown = mean.exp() if mean else None
            ends = (shown.estimate, shown.low, shown.high, shown.count) if shown else (None, None, None, 0)
            rows.append([threshold, name, *ends, used, treatments - used])
    names = {
        "threshold": pl.Float64, "pair": pl.String, "ratio": pl.Float64, "low": pl.Float64, "high": pl.Float64,
        "seeds": pl.Int64, "used": pl.Int64, "censored": pl.Int64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=names, orient="row")
