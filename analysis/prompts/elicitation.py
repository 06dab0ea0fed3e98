"""How many soft-prompt tokens elicit a behaviour: L(k), conditional distance C, saturation S.

After Nordby 2025 (arXiv 2505.14943). C(M, D, T) is the smallest k whose best prompt reduces the loss to the threshold
T, infinite if none does; S is the smallest k beyond which more tokens no longer help. The formulas are a reconstruction
from the paper's text. Both are upper bounds: an optimizer may fail even though a prompt exists.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from analysis.runs.study import StudyData
from analysis.stats.format import plural
from analysis.stats.intervals import Z, median_interval, t_interval
from halflife.tracking import schema

RUNS = {
    "behaviour": pl.String, "model": pl.String, "series": pl.String, "k": pl.Int64, "restart": pl.Int64,
    "seed": pl.Int64, "loss": pl.Float64,
}  # fmt: skip
MORE = {"train_loss": pl.Float64, "hits": pl.Float64, "trials": pl.Float64, "chance": pl.Float64, "numbers": pl.Float64,
        "initial": pl.String, "size": pl.String, "loss_se": pl.Float64}  # fmt: skip
"""Optional columns of a table of runs; null if unknown. `numbers`: trained parameters of the prompt."""
MODELS = {"treatment": "present", "absent": "absent"}
"""Model by role. Other controls are not models that behaviours are compared on."""
GENERATED = "generated_"
"""Prefix of the task's counts over answers that the model generated: if several answers are right, success is their
hits."""
WARM = "warm"
"""The phase in which each k is fitted again, warm-started from a smaller one."""
CLOSED = 0.5
"""Share of the gap between no prompt and the best one that the default threshold requires to be closed."""
MIN_GAIN = 0.02
"""Nats per token: of a smaller gain, however certain, half cannot be resolved."""
HALF_CLOSED = "closes half of the gap in loss"
"""How captions describe a prompt that reaches the default threshold."""
UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9}
TOLERANCE = 0.05
"""Share of the gain by which the loss at saturation may exceed the best."""


def runs(data: StudyData, models: Mapping[str, str] = MODELS) -> pl.DataFrame:
    """One row per trained prompt: RUNS and MORE, for trials of the roles in `models` (role -> name of its model).
    `series` is the size ("" if there is one), the number of examples if that varies, and the time at which the prompt
    was fitted if a study has several.

    If a study declares its prompts, a trial's points are named `<behaviour>.<prompt>/<measure>`, and the outcome with a
    behaviour's name holds its label and chance. Otherwise every trial is one prompt, with a parameter `k`. Empty if
    neither holds.
    """
    if data.declaration.prompts:
        return _declared(data, models)
    if "k" not in data.trials.columns:
        return pl.DataFrame(schema=RUNS | MORE)
    outcome = data.declaration.outcomes[0]
    last = (
        data.points.filter((pl.col("phase") == outcome.phase) & (pl.col("name") == f"{outcome.task}/loss"))
        .sort("step")
        .group_by("trial")
        .agg(loss=pl.col("value").last())
    )
    trials = data.trials.filter(pl.col("role").is_in(list(models))).drop_nulls("k")
    named = {name: pl.col(name) for name in ("behaviour", "restart", "seed") if name in trials.columns}
    return _all_columns(
        trials.join(last, on="trial").select(
            named.get("behaviour", pl.lit(outcome.label)).alias("behaviour"),
            pl.col("role").replace_strict(models).alias("model"),
            _series(trials),
            "k",
            named.get("restart", pl.lit(0)).alias("restart"),
            named.get("seed", pl.lit(0)).alias("seed"),
            "loss",
        )
    )


def _declared(data: StudyData, models: Mapping[str, str]) -> pl.DataFrame:
    phases = [phase for phase in data.points["phase"].unique() if phase.startswith("prompts") or phase == WARM]
    found = declared_points(data, models, phases)
    if found.is_empty():
        return pl.DataFrame(schema=RUNS | MORE)
    for name in ("hits", "trials"):
        if GENERATED + name in found.columns:
            found = found.with_columns(pl.coalesce(GENERATED + name, name).alias(name))
    return _all_columns(found)


def is_elicited(data: StudyData) -> bool:
    """Whether every outcome is how much it takes to elicit a behaviour, and none how long it lasts."""
    return bool(data.declaration.prompts) and all(each.phase == "prompts" for each in data.declaration.outcomes)


def judged(data: StudyData, models: Mapping[str, str] = MODELS) -> pl.DataFrame:
    """The answers that models generated after prompts, as judged by the task: one row per behaviour, model, series and
    k, with the counts of the best restart of each seed, summed, and their `success` and `chance`. Empty if nothing was
    judged."""
    phases = sorted(phase for phase in data.points["phase"].unique() if phase.startswith("prompts"))
    found = declared_points(data, models, phases)
    names = [name for name in found.columns if name.startswith(GENERATED)]
    if not names:
        return pl.DataFrame()
    counts = pl.col(names).sum().name.replace(GENERATED, "")
    return (
        best_restarts(found.drop_nulls(names[0]))
        .group_by("behaviour", "model", "series", "k", maintain_order=True)
        .agg(pl.len().alias("seeds"), counts, pl.col("chance").mean())
        .with_columns(success=pl.col("hits") / pl.col("trials"))
    )


def declared_points(data: StudyData, models: Mapping[str, str], phases: Sequence[str]) -> pl.DataFrame:
    """One row per trial and prompt: the prompt's declaration, behaviour, model, series, seed, size, chance, and the
    last value of every measure of these phases. Behaviours in the declared order; empty if there are none."""
    prompts = pl.DataFrame(
        [{"prompt": name, **fields} for name, fields in data.declaration.prompts.items()], infer_schema_length=None
    )
    task = pl.col("name").str.split_exact("/", 1)
    target = task.struct[0].str.splitn(".", 2)
    trials = data.trials.filter(pl.col("role").is_in(list(models)))
    if prompts.is_empty() or trials.is_empty():
        return pl.DataFrame()
    measured = (
        data.points.filter(pl.col("phase").is_in(list(phases)))
        .with_columns(task=target.struct[0], prompt=target.struct[1], measure=task.struct[1])
        .join(prompts, on="prompt")
        .sort("step", maintain_order=True)
        .group_by("trial", "phase", "task", *prompts.columns, "measure", maintain_order=True)
        .agg(pl.col("value").last())
    )
    if measured.is_empty():
        return pl.DataFrame()
    found = measured.pivot("measure", index=["trial", "phase", "task", *prompts.columns], values="value")
    about = trials.select(
        "trial", pl.col("role").replace_strict(models).alias("model"), _series(trials),
        *(name for name in ("seed", "size") if name in trials.columns),
    )  # fmt: skip
    found = found.join(about, on="trial", maintain_order="left")
    own = pl.col(schema.CHANCE) if schema.CHANCE in found.columns else pl.lit(None, dtype=pl.Float64)
    outcomes = {o.task: o for o in data.declaration.outcomes if o.phase.startswith("prompts")}
    order = {task: place for place, task in enumerate(outcomes)}
    # "prompts" is one time in a model's life, "prompts-after-decay" another; other phases fit more prompts at the first
    moment = (
        pl.when(pl.col("phase").str.starts_with("prompts-"))
        .then(pl.col("phase").str.strip_prefix("prompts-").str.replace_all("-", " "))
        .otherwise(pl.lit(""))
    )
    both = (pl.col("series") != "") & (moment != "")
    found = found.with_columns(
        series=pl.concat_str("series", pl.when(both).then(pl.lit(" · ")).otherwise(pl.lit("")), moment)
    )
    declared = pl.col("task").replace_strict(order, default=len(order))
    return found.sort(declared, by_series(found), maintain_order=True).with_columns(
        behaviour=pl.col("task").replace({name: outcome.label for name, outcome in outcomes.items()}),
        chance=own.fill_null(
            pl.col("task").replace_strict(
                {name: outcome.chance for name, outcome in outcomes.items()}, default=0.0, return_dtype=pl.Float64
            )
        ),
    )


def _series(trials: pl.DataFrame) -> pl.Expr:
    """The size, if there are several, and the number of examples, if prompts for one size had several."""
    parts = [pl.col("size")] if "size" in trials.columns and trials["size"].n_unique() > 1 else []
    if {"size", "examples"} <= set(trials.columns):
        counts = trials.group_by("size").agg(pl.col("examples").n_unique())["examples"]
        if (counts > 1).any():
            parts.append(pl.format("{} examples", "examples"))
    return (pl.concat_str(parts, separator=" · ") if parts else pl.lit("")).alias("series")


def series_key(name: str) -> tuple[float, float, str]:
    """Sort key of series: the size in the name (70m, 1.4b; for a released model at any position), the number of
    examples, then the name."""
    lower = name.lower()
    size = re.match(r"(\d+(?:\.\d+)?)([kmb]?)(?= ·|$)", lower) or re.search(r"(\d+(?:\.\d+)?)([kmb])\b", lower)
    examples = re.search(r"(\d+) examples", lower)
    return (
        float(size[1]) * UNITS[size[2]] if size else float("inf"),
        float(examples[1]) if examples else float("inf"),
        name,
    )


def by_series(frame: pl.DataFrame) -> pl.Expr:
    """Rank of each row's series among those of `frame`, to sort by."""
    names = sorted(frame["series"].unique(), key=series_key)
    places = {name: place for place, name in enumerate(names)}
    return pl.col("series").replace_strict(places, default=0, return_dtype=pl.Int64)


def in_order(frame: pl.DataFrame) -> pl.DataFrame:
    """Behaviours in order of first appearance, each with smaller sizes first."""
    behaviours = {name: place for place, name in enumerate(frame["behaviour"].unique(maintain_order=True))}
    behaviour = pl.col("behaviour").replace_strict(behaviours, default=0, return_dtype=pl.Int64)
    return frame.sort(behaviour, by_series(frame), maintain_order=True)


def _all_columns(found: pl.DataFrame) -> pl.DataFrame:
    """All columns of RUNS and MORE, in order."""
    schema = RUNS | MORE
    missing = {name: pl.lit(0 if name in ("restart", "seed") else None) for name in schema if name not in found.columns}
    return in_order(found.with_columns(**missing).select(list(schema)).cast(pl.Schema(schema)).drop_nulls("loss"))


def best_restarts(prompts: pl.DataFrame) -> pl.DataFrame:
    """The restart with the best training loss, if known, of each behaviour, model, series, seed and k: selection by
    held-out loss would bias it."""
    chosen = "train_loss" if "train_loss" in prompts.columns else "loss"
    by = [name for name in ("behaviour", "model", "series", "seed", "k") if name in prompts.columns]
    return prompts.sort(*by, pl.col(chosen).fill_null(pl.col("loss"))).unique(by, keep="first", maintain_order=True)


def curves(prompts: pl.DataFrame, threshold: float | None = None) -> pl.DataFrame:
    """The table of the figure: the loss of every prompt (part `restart`); per k the best restart of each seed averaged
    over seeds (part `mean`, with t intervals; for one seed with its standard error, if known); threshold; and C and S,
    as medians over seeds (`distance_at`, `saturation_at`, infinite if not reached) and as text.

    `prompts`: as returned by `runs`. `threshold`: T in nats per token, by default each seed's own (see
    `with_threshold`), of which the table has the mean. Without a gain (see `gains`) there is no threshold, C or S. The
    best restart is selected by its training loss (see `best_restarts`).
    """
    parts = []
    for place, (_, part) in enumerate(with_threshold(prompts, threshold).group_by(["behaviour"], maintain_order=True)):
        best = best_restarts(part)
        best = best.sort(by_series(best), "seed", "k")
        for (model, series), own in best.group_by(["model", "series"], maintain_order=True):
            last, aims = int(own["k"].to_numpy().max()), own.drop_nulls("threshold").unique("seed", maintain_order=True)
            reach, stop = list(distances(own).values()), saturations(own) if gains(own) else []
            left = f"; {left_out(own['seed'].n_unique(), len(reach))}" if own["seed"].n_unique() > len(reach) else ""
            all_runs = part.filter((pl.col("model") == model) & (pl.col("series") == series))
            both = [_means(own), all_runs.select("k", "loss", part=pl.lit("restart"))]
            parts.append(pl.concat(both, how="diagonal").with_columns(
                behaviour=pl.lit(part["behaviour"][0]), place=pl.lit(place), model=pl.lit(str(model)),
                series=pl.lit(str(series)), threshold=pl.lit(aims["threshold"].mean(), dtype=pl.Float64),
                distance_at=pl.lit(float(np.median(reach)) if reach else None, dtype=pl.Float64),
                saturation_at=pl.lit(float(np.median(stop)) if stop else None, dtype=pl.Float64),
                distance=pl.lit(_median_text("C", reach, last) + left if reach else ""),
                saturation=pl.lit(_median_text("S", stop, last) if stop else "no gain"),
            ))  # fmt: skip
    return pl.concat(parts) if parts else pl.DataFrame()


def left_out(seeds: int, gained: int) -> str:
    """Text about the seeds without a C."""
    return f"{seeds - gained} of {plural(seeds, 'seed')} gained nothing"


def with_threshold(prompts: pl.DataFrame, threshold: float | None = None) -> pl.DataFrame:
    """`prompts` with the column `threshold`: the given one, or by default one per behaviour, size and seed, since sizes
    and seeds start and end at different losses. Models, numbers of examples and times of one size and seed share it;
    null if there is none (see `default_thresholds`)."""
    if threshold is not None:
        return prompts.with_columns(threshold=pl.lit(threshold, dtype=pl.Float64))
    size = pl.col("size").fill_null(pl.col("series")) if "size" in prompts.columns else pl.col("series")
    pooled = prompts.with_columns(pool=size)
    rows = [
        (behaviour, pool, seed, aim)
        for (behaviour, pool), part in pooled.group_by("behaviour", "pool", maintain_order=True)
        for seed, aim in default_thresholds(best_restarts(part)).items()
    ]
    by = ["behaviour", "pool", "seed"]
    schema = {name: pooled.schema[name] for name in by} | {"threshold": pl.Float64()}
    aims = pl.DataFrame(rows, schema=schema, orient="row")
    return pooled.join(aims, on=by, how="left", maintain_order="left", nulls_equal=True).drop("pool")


def _means(best: pl.DataFrame) -> pl.DataFrame:
    """k, loss, low, high over seeds, part `mean`."""
    rows = []
    for (k,), at in best.sort("k").group_by(["k"], maintain_order=True):
        found = t_interval(at["loss"])
        if found is None:
            continue
        low, high = found.low, found.high
        error = at["loss_se"][0] if "loss_se" in at.columns and at.height == 1 else None
        if error is not None:
            low, high = found.estimate - Z * error, found.estimate + Z * error
        rows.append((k, found.estimate, low, high, "mean"))
    names = {"k": pl.Int64, "loss": pl.Float64, "low": pl.Float64, "high": pl.Float64, "part": pl.String}
    return pl.DataFrame(rows, schema=names, orient="row")


def default_thresholds(best: pl.DataFrame) -> dict[int, float]:
    """T of each seed: closes CLOSED of its own gap between no prompt and the best one, on the model that has the
    behaviour. Empty if no gain is observed over seeds; without seeds that lack k = 0 or gain at most MIN_GAIN."""
    present = best.filter(pl.col("model") == "present")
    found: dict[int, float] = {}
    for (seed,), own in present.sort("seed", "k").group_by(["seed"], maintain_order=True) if gains(present) else ():
        means = dict(own.group_by("k", maintain_order=True).agg(pl.col("loss").mean()).iter_rows())
        gap = means[0] - min(means.values()) if 0 in means else 0.0
        if gap > MIN_GAIN:
            found[seed] = means[0] - CLOSED * gap
    return found


def gains(best: pl.DataFrame) -> bool:
    """Whether the most tokens improve on the fewest by more than MIN_GAIN, and significantly: paired by seed and
    series, averaged within a seed; for one or two seeds, whose interval is uninformative, in every seed and beyond its
    standard error, if known."""
    error = pl.col("loss_se") if "loss_se" in best.columns else pl.lit(None, dtype=pl.Float64)
    ends = (
        best.with_columns(error=error)
        .sort("k")
        .group_by("seed", "series")
        .agg(
            gain=pl.col("loss").first() - pl.col("loss").last(),
            error=(pl.col("error").first() ** 2 + pl.col("error").last() ** 2).sqrt(),
        )
        .group_by("seed")
        .agg(pl.col("gain").mean(), error=(pl.col("error") ** 2).sum().sqrt() / pl.len())
    )
    found = t_interval(ends["gain"])
    if found is None or found.estimate <= MIN_GAIN:
        return False
    if ends.height < 3:
        return all(gain > max(MIN_GAIN, Z * (error or 0.0)) for gain, error in ends.select("gain", "error").rows())
    return found.low is not None and found.low > 0


def distances(best: pl.DataFrame) -> dict[int, float]:
    """C of each seed with a threshold: the smallest k whose best restart is at or below it; inf if none is."""
    reached = pl.col("k").filter(pl.col("loss") <= pl.col("threshold")).min().cast(pl.Float64)
    found = best.drop_nulls("threshold").group_by("seed").agg(reached.fill_null(np.inf)).sort("seed")
    return dict(found.iter_rows())


def saturations(best: pl.DataFrame) -> list[float]:
    """S of each seed that gains: the smallest k beyond which no loss is better by more than TOLERANCE of the gain; inf
    if that is the largest k evaluated, since the gain may not have ended."""
    found = []
    for _, own in best.sort("seed", "k").group_by(["seed"], maintain_order=True):
        k, loss = own["k"].to_numpy(), own["loss"].to_numpy()
        gain = loss[0] - loss.min()
        if gain <= MIN_GAIN:
            continue
        enough = loss <= loss.min() + TOLERANCE * gain
        first = int(np.flatnonzero(enough)[0])
        found.append(float(k[first]) if first < k.size - 1 else np.inf)
    return found


def _median_text(name: str, values: list[float], last: int) -> str:
    """Median over seeds and its interval from order statistics, which include values not reached."""
    found = median_interval(values)
    if not np.isfinite(found.estimate):
        some = f" ({found.reached} of {plural(found.count, 'seed')} reached it)" if found.reached else ""
        return f"{name} not reached by k = {last}{some}"
    if found.low == found.high:
        return f"{name} = {found.estimate:g}"
    high = f"{found.high:g}" if np.isfinite(found.high) else f"> {last}"
    return f"{name} = {found.estimate:g} [{found.low:g}, {high}]"
