"""Quantities that take more than one measure, by their names in halflife.tracking.questions.DERIVED.

One row per trial that has a reading, or per trial and item: trial, value, low, high, hits, trials, reason, the items.
Known: value = low = high. Censored: no value; it lies between low and high. Missing: only a reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import polars as pl

from analysis.decay import search
from analysis.decay.design import setting_axes
from analysis.decay.erasure import main_rows
from analysis.decay.savings import PAIRS, THRESHOLDS, relearning_times
from analysis.interpret import attribution, dictionaries
from analysis.prompts import amounts, elicitation, fragility, information
from analysis.runs.study import StudyData
from halflife.tracking import schema
from halflife.tracking.questions import DERIVED

COLUMNS = {
    "trial": pl.String, "value": pl.Float64, "low": pl.Float64, "high": pl.Float64, "hits": pl.Float64,
    "trials": pl.Float64, "reason": pl.String,
}  # fmt: skip
ITEMS = {
    "k": pl.Int64, "moment": pl.String, "kind": pl.String, "length": pl.Int64, "reading": pl.String,
    "chosen": pl.String, "dictionary": pl.String, "meaning": pl.String, "latents": pl.String,
    "compared": pl.String,
    "loss": pl.String, "way": pl.String, "score": pl.String, "features": pl.Int64, "made": pl.String,
}  # fmt: skip
NO_GAIN = "no prompt helps: there is no threshold to reach"
Row = dict[str, Any]


def _known(value: float) -> Row:
    if not math.isfinite(value):
        return {"reason": "not a number"}
    return {"value": value, "low": value, "high": value}


def _prompts(data: StudyData) -> pl.DataFrame:
    """Every fitted prompt of models that have the behaviour, or never had it, with its trial and items."""
    phases = sorted(p for p in data.points["phase"].unique() if p.startswith("prompts") or p == elicitation.WARM)
    found = elicitation.declared_points(data, elicitation.MODELS, phases)
    if "loss" not in found.columns:
        return pl.DataFrame()
    names = ("hits", "trials")
    judged = [elicitation.GENERATED + name for name in names]
    if set(judged) <= set(found.columns):  # where several answers are right, those that were generated count
        found = found.with_columns(pl.coalesce(*pair).alias(name) for name, *pair in zip(names, judged, names))  # noqa: B905
    optional = ("train_loss", "loss_se", "hits", "trials", "chance")
    lacking = [pl.lit(None, pl.Float64).alias(name) for name in optional if name not in found.columns]
    return _with_items(found.with_columns(lacking).drop_nulls("loss"))


def _with_items(found: pl.DataFrame) -> pl.DataFrame:
    """With moment, kind and length."""
    later = pl.col("phase").str.starts_with("prompts-")
    moment = pl.when(later).then(pl.col("phase").str.strip_prefix("prompts-").str.replace_all("-", " "))
    number = pl.col("task").str.extract(r"^[a-z]+-(\d+)$")
    return found.with_columns(
        moment=moment.otherwise(pl.lit("")), length=number.cast(pl.Int64),
        kind=pl.when(number.is_null()).then("task").otherwise(pl.col("task").str.extract(r"^([a-z]+)-")),
    )  # fmt: skip


def _cells(found: pl.DataFrame, *more: str) -> Iterable[tuple[Row, pl.DataFrame]]:
    """The prompts of each trial, moment and behaviour."""
    by = ["trial", "moment", "kind", "length", *more]
    for key, part in found.group_by(by, maintain_order=True) if found.height else ():
        yield dict(zip(by, key, strict=True)), part


def _best(found: pl.DataFrame) -> pl.DataFrame:
    """The best restart of each k, by training loss."""
    return found.sort("k", pl.col("train_loss").fill_null(pl.col("loss"))).unique(
        "k", keep="first", maintain_order=True
    )


def _prompt_loss(data: StudyData) -> Iterable[Row]:
    for about, part in _cells(_prompts(data)):
        for k, loss in _best(part).select("k", "loss").iter_rows():
            yield {**about, "k": k, **_known(loss)}


def _prompt_success(data: StudyData) -> Iterable[Row]:
    for about, part in _cells(_prompts(data)):
        for k, hits, trials in _best(part).drop_nulls(["hits", "trials"]).select("k", "hits", "trials").iter_rows():
            yield {**about, "k": k, "hits": hits, "trials": trials, **_known(hits / trials)}


def _fewest(about: Row, reached: pl.DataFrame, most: float, name: str = "k") -> Row:
    """The least that reached a threshold, or a bound above the most that was tried."""
    if reached.height:
        return {**about, **_known(float(reached[name].to_numpy().min()))}
    return {**about, "low": most, "high": math.inf}


def _distance(data: StudyData) -> Iterable[Row]:
    """To one token where it was searched for."""
    searched = amounts.searched(data)
    of = dict(searched.select("trial", "c").iter_rows()) if searched.height else {}
    prompts = _prompts(data)
    if prompts.is_empty():
        return
    for about, part in _cells(elicitation.with_threshold(prompts, amounts.matched_loss(data))):
        exact, best = of.get(about["trial"]), _best(part)
        most = float(best["k"].to_numpy().max())
        if exact is not None and about["moment"] == "":
            yield {**about, **(_known(exact) if math.isfinite(exact) else {"low": most, "high": math.inf})}
        elif best["threshold"].null_count():
            yield {**about, "reason": NO_GAIN}
        else:
            yield _fewest(about, best.filter(pl.col("loss") <= pl.col("threshold")), most)


def _success_distance(data: StudyData) -> Iterable[Row]:
    for about, part in _cells(_prompts(data)):
        best = _best(part).drop_nulls(["hits", "trials"])
        if best.is_empty():
            yield {**about, "reason": "no answers were counted"}
            continue
        chance = pl.col("chance").fill_null(0.0)
        above = (pl.col("hits") / pl.col("trials") - chance) / (1 - chance)
        yield _fewest(about, best.filter(above >= information.SUCCESS), float(best["k"].to_numpy().max()))


def _information(data: StudyData) -> Iterable[Row]:
    rounded = amounts.quantised(data)
    if rounded.is_empty():
        return
    rounded = rounded.filter(pl.col("bits").is_finite()).with_columns(cost=pl.col("bits") * pl.col("numbers"))
    for about, part in _cells(_with_items(rounded)):
        reached = part.filter(pl.col("score") <= pl.col("threshold"))
        yield _fewest(about, reached, float(part["cost"].to_numpy().max()), "cost")


def _fragility(name: str, data: StudyData) -> Iterable[Row]:
    found = fragility.measured(data)
    if found.is_empty() or name not in found.columns:
        return
    at = found.filter(pl.col("k") == fragility.common_k(found.filter(pl.col("model") == "present")))
    for trial, value in at.drop_nulls(name).group_by("trial", maintain_order=True).agg(pl.col(name).mean()).iter_rows():
        yield {"trial": trial, **_known(value)}


SIGNS = {"new-old": 1, "old-new": 1, "old-old": -1, "new-new": -1}
"""trigger-payload"""


def _own_savings(data: StudyData) -> Iterable[Row]:
    """Bounds of logarithms add up."""
    if not data.declaration.outcomes:
        return
    times = relearning_times(data, thresholds=THRESHOLDS[:1]).filter(pl.col("pair").is_in(PAIRS))
    for (trial,), part in times.group_by(["trial"], maintain_order=True):
        if part.height < len(PAIRS):
            continue
        low = high = 0.0
        for pair, kind, first, last, estimate in part.select("pair", "kind", "low", "high", "estimate").iter_rows():
            ends = {"censored": (first, math.inf), "at-start": (0.0, last)}.get(kind, (estimate, estimate))
            logs = [math.log(end) if end else -math.inf for end in ends]
            few, many = logs if SIGNS[pair] > 0 else (-logs[1], -logs[0])
            low, high = low + few, high + many
        if math.isinf(low) and math.isinf(high):
            yield {"trial": trial, "reason": "times of pairs are only bounds: their difference could be anything"}
        else:
            least, most = math.exp(low), math.exp(high)
            yield {"trial": trial, "value": least if low == high else None, "low": least, "high": most}


def _share_left(data: StudyData) -> Iterable[Row]:
    if not data.declaration.outcomes:
        return
    ends = {"at least": lambda share: (share, 1.0), "at most": lambda share: (-math.inf, share)}
    for trial, reading, kind, share in main_rows(data).select("trial", "reading", "kind", "share").iter_rows():
        if share is None:
            yield {"trial": trial, "reading": reading, "reason": f"{kind} over the never-exposed control at the drop"}
        elif kind in ends:
            low, high = ends[kind](share)
            yield {"trial": trial, "reading": reading, "low": low, "high": high}
        else:
            yield {"trial": trial, "reading": reading, **_known(share)}


def _objective(place: int, data: StudyData) -> Iterable[Row]:
    """On fresh seeds; chosen by the search's own values, as choosing by the fresh ones would flatter them."""
    objectives = data.declaration.objectives
    if len(objectives) <= place:
        return
    table = search.evaluated_settings(data)
    again = data.trials.filter(pl.col("role") == schema.ROLE_HELD_OUT)
    if table.is_empty() or again.is_empty():
        return
    mine = pl.col("suggestion").is_in(again[schema.SUGGESTION].to_list()) & pl.col("feasible")
    eligible = table.filter((pl.col("role") == "treatment") & mine)
    chosen: list[tuple[str, int]] = []
    axes = [axis for axis in setting_axes(data) if axis.values]
    plain = again.filter(*(pl.col(axis.name) == axis.values[0] for axis in axes))
    chosen += [("reference", plain[schema.SUGGESTION][0])] if plain.height else []
    for column, word, objective in zip("xy", ("first", "second"), objectives, strict=False):
        if eligible.height:
            best = eligible.sort(column, descending=objective.direction == "maximize")["suggestion"][0]
            chosen.append((f"best {word}", best))
    phase, name = pl.col("phase") == schema.OBJECTIVE_PHASE, pl.col("name") == objectives[place].name
    values = dict(data.points.filter(phase & name).select("trial", "value").iter_rows())
    own = plain[schema.SUGGESTION][0] if plain.height else None
    for trial, suggestion in again.select("trial", schema.SUGGESTION).iter_rows():
        for word, setting in chosen:
            if suggestion == setting:
                found = _known(values[trial]) if trial in values else {"reason": "the objective was not measured"}
                if word != "reference" and setting == own:  # a difference from itself is no evidence of none
                    found = {"reason": "the search found no setting that beats the reference"}
                yield {"trial": trial, "chosen": word, **found}


_READERS: dict[str, Callable[[StudyData], Iterable[Row]]] = {
    "prompt_loss": _prompt_loss, "prompt_success": _prompt_success, "distance": _distance,
    "success_distance": _success_distance, "information": _information,
    **{f"fragility_{name}": partial(_fragility, name) for name in fragility.MEASURES},
    "features_needed": dictionaries.features_needed, "sharing": dictionaries.sharing,
    "agreement": dictionaries.agreement, "persistence": dictionaries.persistence,
    "persistence_written": partial(dictionaries.persistence, phase=dictionaries.WRITTEN),
    "feature_alignment": attribution.alignment, "feature_edits": attribution.edits,
    "dictionary_transfer": attribution.transfer,
    "own_savings": _own_savings, "share_left": _share_left, "first_objective": partial(_objective, 0),
    "second_objective": partial(_objective, 1),
}  # fmt: skip


def _framed(name: str, data: StudyData) -> pl.DataFrame:
    types = COLUMNS | {item: ITEMS[item] for item in DERIVED[name].items}
    rows = [{column: row.get(column) for column in types} for row in _READERS[name](data)]
    return pl.DataFrame(rows, schema=types, orient="row")


READINGS: dict[str, Callable[[StudyData], pl.DataFrame]] = {name: partial(_framed, name) for name in _READERS}
