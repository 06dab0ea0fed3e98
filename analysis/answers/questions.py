"""From declared questions to estimates, one per seed (analysis.stats.per_seed); verdicts: analysis.answers.judging.

One function per kind of question, found by its kind in `KINDS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl

from analysis.answers.derived import ITEMS
from analysis.answers.quantities import about, values
from analysis.decay.conditions import skill_measure
from analysis.decay.design import reference
from analysis.decay.floors import floors
from analysis.decay.formulas import crossing, rising
from analysis.decay.numbers import reference_times
from analysis.decay.retention import retention_curves
from analysis.decay.savings import relearning_times, savings_summary
from analysis.decay.search import on_front
from analysis.errors import UserError, nearest
from analysis.runs.study import StudyData
from analysis.stats import per_seed
from analysis.stats.arrays import Array
from analysis.stats.estimates import Censored, Estimates
from analysis.stats.format import short
from analysis.stats.intervals import Interval, Median, median_interval
from analysis.stats.scaling import by_size
from analysis.stats.verdicts import Verdict
from halflife.tracking.questions import Association, Contrast, Curve, Decay, Frontier, Quantity, Question, Trend

SEED, SETTING = "seed", "_setting"
CRITERIA = {"success": "success", "logprob": "log-probability"}
ONLY_ABOVE = "known only from above, which no slope can use"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a kind of question computes: estimates for the verdict, and further numbers."""

    estimates: Estimates
    used: pl.DataFrame
    """The rows of `quantities.values` that it is about, with SETTING and `quantity`, its name."""
    further: dict[str, Any] = field(default_factory=dict)
    """By name: a number, an Interval or a Median over seeds, text, or a list of names."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A question with its verdict, or with the problem why there is none."""

    question: Question
    quantities: tuple[Quantity, ...]
    verdict: Verdict | None = None
    estimates: Estimates | None = None
    further: dict[str, Any] = field(default_factory=dict)
    trials: int = 0
    censored: int = 0
    missing: dict[str, int] = field(default_factory=dict)
    """By reason, the trials without a number."""
    problem: str = ""
    used: pl.DataFrame = field(default_factory=pl.DataFrame, repr=False, compare=False)
    """The rows of `quantities.values` that it is about: trial, role, parameters, value, low, high, hits, trials,
    reason, `quantity` (its name) and `_setting` (what else sets trials of a cell apart). Without columns if there are
    none."""
    invalid: tuple[str, ...] = ()
    """Names of required checks of the sweep that fail: then no verdict is claimed."""
    p: float | None = None
    """p-value; of a primary corrected by Holm."""

    @property
    def valid(self) -> bool:
        return not self.invalid

    @property
    def word(self) -> str:
        """effect | equivalent | undecided | reported | not valid"""
        if not self.valid:
            return "not valid"
        if not self.question.has_verdict:
            return "reported"
        return "undecided" if self.verdict is None else self.verdict.answer


def estimated(data: StudyData, question: Question) -> Answer:
    """The answer without its verdict."""
    declared = {quantity.name: quantity for quantity in data.declaration.quantities}
    quantities = tuple(declared[name] for name in question.quantities if name in declared)
    try:
        if lacking := [name for name in question.quantities if name not in declared]:
            raise UserError(f"no quantity {lacking[0]!r} is declared{nearest(lacking[0], list(declared))}")
        found = KINDS[question.kind](data, question, quantities)
    except UserError as error:
        # A primary that has no estimates yet still has its share of the error rate.
        nothing = Estimates(values=np.empty(0)) if question.primary else None
        return Answer(question=question, quantities=quantities, estimates=nothing, problem=str(error))
    reasons = found.used["reason"].drop_nulls()
    return Answer(
        question=question, quantities=quantities, estimates=found.estimates, further=found.further,
        trials=found.used.height,
        censored=found.used.filter(pl.col("reason").is_null() & pl.col("value").is_null()).height,
        missing=dict(reasons.value_counts(sort=True).iter_rows()), used=found.used,
    )  # fmt: skip


def _selected(data: StudyData, question: Question, quantity: Quantity, *needed: str) -> pl.DataFrame:
    """The quantity of the trials that the question is about.

    Raises UserError if a column is lacking, or no trial is left.
    """
    frame = values(data, quantity).filter(pl.col("role").is_in(question.roles))
    stage = f"stage_{quantity.phase}"
    if stage in data.trials.columns:  # trials without the phase, such as relearning, are not asked about
        having = data.trials.filter(pl.col(stage).is_not_null())["trial"]
        frame = frame.filter(pl.col("trial").is_in(having.to_list()))
    for name in (SEED, *needed, *question.where):
        if name not in frame.columns:
            raise UserError(f"no trial has {name!r}{nearest(name, frame.columns)}")
    for name, value in question.where.items():
        frame = frame.filter(pl.col(name) == _level(frame, name, value))
    frame = frame.drop_nulls([SEED, *needed])
    if frame.is_empty():
        raise UserError("no trial has been measured yet")
    return apart(data, frame, [SEED, *needed]).with_columns(quantity=pl.lit(quantity.name))


def _level(frame: pl.DataFrame, name: str, given: Any) -> Any:
    """A declared value as the column holds it: parameters are logged as text, and typed when they are read."""
    levels = frame[name].unique().drop_nulls().sort().to_list()
    if not levels:
        raise UserError("no trial has been measured yet")
    for level in levels:
        if level == given or str(level) == str(given):
            return level
    raise UserError(f"no trial has {name} = {given!r}: expected one of {', '.join(str(level) for level in levels)}")


def apart(data: StudyData, frame: pl.DataFrame, cell: Sequence[str]) -> pl.DataFrame:
    """With SETTING: the axes that differ within a cell, as one text; where they do not tell its trials apart, all
    parameters that differ."""
    apart: list[str] = []
    for among in ([axis.name for axis in data.declaration.axes], data.parameters):
        among = dict.fromkeys([*among, *ITEMS])
        others = [name for name in among if name in frame.columns and name not in cell]
        counts = frame.group_by(cell).agg(pl.col(name).n_unique() for name in others).select(others).max()
        apart = [name for name in others if counts[name][0] > 1]
        if not frame.select(*cell, *apart).is_duplicated().any():
            break
    texts = [pl.col(name).cast(pl.String).fill_null("none") for name in apart]
    return frame.with_columns((pl.concat_str(texts, separator=", ") if texts else pl.lit("")).alias(SETTING))


def cells(frame: pl.DataFrame, cell: Sequence[str]) -> pl.DataFrame:
    """One row per cell: value, low and high, means over its settings; null unless every setting has them."""
    settings = frame[SETTING].n_unique()
    whole = [
        pl.when(pl.col(name).is_not_null().all() & (pl.len() == settings)).then(pl.col(name).mean()).alias(name)
        for name in ("value", "low", "high")
    ]
    return frame.group_by(cell, maintain_order=True).agg(whole)


def _trend(data: StudyData, question: Trend, quantities: tuple[Quantity, ...]) -> Found:
    frame = _selected(data, question, quantities[0], question.axis)
    # What was already so at the start is known only from above, as in analysis.stats.scaling.
    early = pl.col("value").is_null() & pl.col("high").is_finite()
    frame = frame.with_columns(reason=pl.when(early).then(pl.lit(ONLY_ABOVE)).otherwise("reason"))
    kept = frame.with_columns(pl.when(~early.fill_null(False)).then(name).alias(name) for name in ("low", "high"))
    table = cells(kept, [SEED, question.axis]).with_columns(value="low", late=pl.col("low") != pl.col("high"))
    table = table.filter(pl.col("value").is_not_null())
    if table.is_empty():
        return Found(estimates=_none(frame), used=frame)
    late = {"censored": "late"} if table["late"].any() else {}
    log = question.scale == "log"
    found = per_seed.trend(table, "value", question.axis, seed=SEED, log=log, **late)
    return Found(estimates=_of_all(found, frame), used=frame)


def _contrast(data: StudyData, question: Contrast, quantities: tuple[Quantity, ...]) -> Found:
    axis = question.axis
    needed = () if axis == "role" else (axis,)
    frame = _selected(data, question, quantities[0], *needed)
    if axis == "role":
        frame = apart(data, frame, [SEED, "role"])
    high, low = (_level(frame, axis, value) for value in (question.high, question.low))
    frame = frame.filter(pl.col(axis).is_in([high, low]))
    return Found(estimates=_differences(frame, axis, high, low), used=frame)


def _differences(frame: pl.DataFrame, axis: str, high: Any, low: Any) -> Estimates:
    """Paired differences, one per seed, within their bounds where some are censored."""
    frame = frame.with_columns(pl.col("low", "high").fill_nan(None))
    if frame.drop_nulls("low").is_empty():
        return _none(frame)
    up = pl.col(axis) == high
    ends: list[Array] = []
    for own, other in (("low", "high"), ("high", "low")):
        side = frame.with_columns(value=pl.when(up).then(own).otherwise(other))
        if not side["value"].is_finite().any():
            return _none(frame)
        found = per_seed.contrast(side, "value", axis, high=high, low=low, seed=SEED, pair=[SETTING])
        ends.append(found.values)
    bottom, top = ends
    known = np.isfinite(bottom) | np.isfinite(top)
    estimates = Estimates(values=np.where(np.isfinite(bottom), bottom, top), seeds=found.seeds)
    if (known & (bottom != top)).any():
        least, most = (np.where(known & np.isnan(end), fill, end) for end, fill in ((bottom, -np.inf), (top, np.inf)))
        estimates = replace(estimates, censored=Censored(x=np.zeros(1), low=least[:, None], high=most[:, None]))
    return estimates


def _curve(data: StudyData, question: Curve, quantities: tuple[Quantity, ...]) -> Found:
    """The change from the smallest to the largest amount; threshold and saturation as medians over seeds."""
    frame = _selected(data, question, quantities[0], question.axis)
    amounts = frame[question.axis].unique().sort()
    estimates = _differences(frame.filter(pl.col(question.axis).is_in([amounts[0], amounts[-1]])), question.axis,
                             amounts[-1], amounts[0])  # fmt: skip
    grows = bool(np.nanmean(estimates.values) >= 0) if np.isfinite(estimates.values).any() else True
    reached, flat = [], []
    for (_,), part in cells(frame, [SEED, question.axis]).drop_nulls("value").group_by([SEED]):
        if part.height < len(amounts):
            continue  # a seed without all amounts says neither where it ends nor how it gets there
        part = part.sort(question.axis)
        at, level = part[question.axis].cast(pl.Float64).to_numpy(), part["value"].to_numpy()
        if question.threshold is not None:
            found = rising(at, level, question.threshold) if grows else crossing(at, level, question.threshold)
            reached.append(_amount(found))
        change = abs(level[-1] - level[0])
        flat.append(_amount(crossing(at, np.abs(level - level[-1]), question.saturation * change, sustained=True)))
    medians = {"threshold": _median(reached), "saturation": _median(flat)}
    further = {"smallest": amounts[0], "largest": amounts[-1]} | {name: each for name, each in medians.items() if each}
    return Found(estimates=estimates, used=frame, further=further)


def _amount(found: Any) -> float:
    """NaN without two points; infinite if it was not reached."""
    if found is None:
        return math.nan
    return {"observed": found.estimate, "censored": math.inf, "at-start": found.high}[found.kind]


def _median(found: list[float]) -> Median | None:
    known = [each for each in found if not math.isnan(each)]
    return median_interval(known) if known else None


def _association(data: StudyData, question: Association, quantities: tuple[Quantity, ...]) -> Found:
    cell = [SEED, question.items]
    frames = [_selected(data, question, quantity, question.items) for quantity in quantities]
    one, other = (cells(frame, cell).select(*cell, "value") for frame in frames)
    table = one.join(other, on=cell, suffix="_other").sort(cell)
    found = per_seed.association(table, "value", "value_other", item=question.items, seed=SEED)
    return Found(estimates=found, used=pl.concat(frames, how="diagonal_relaxed"))


def _decay(data: StudyData, question: Decay, quantities: tuple[Quantity, ...]) -> Found:
    """Floor for the verdict; half-life and savings as in reports."""
    outcome = next((each for each in data.declaration.outcomes if each.name == question.outcome), None)
    if outcome is None:
        raise UserError(f"no outcome {question.outcome!r} is declared")
    chosen = _at_setting(data, question)
    curves = retention_curves(data, outcome).with_columns(is_reference=pl.col("trial").is_in(chosen))
    main = curves.filter((pl.col("role") == question.role) & pl.col("is_reference"))
    if main.is_empty():
        raise UserError("no trial has been measured yet")
    measure = skill_measure(data, curves)
    settled = floors(main).filter(pl.col("measure") == measure)
    whole = not settled.is_empty() and (settled["kind"] == "settled").all()
    # Runs that did not settle have no floor: the others alone would be selected by their result.
    means = settled.group_by("seed").agg(pl.col("floor").mean()).sort("seed")
    estimates = Estimates(
        values=means["floor"].to_numpy().astype(float) if whole else np.full(means.height, np.nan),
        seeds=means["seed"].to_list(),
    )
    further = _half_lives(curves, measure)
    times = relearning_times(data, outcome)
    if question.where:
        times = times.filter((pl.col("role") != question.role) | pl.col("trial").is_in(chosen))
    savings = savings_summary(times).unique("pair", keep="first", maintain_order=True)
    if not savings.is_empty():
        further["savings are"] = (
            f"the tokens in which a model that never had it learns it to success {savings['threshold'][0]:g}, divided "
            "by those of relearning (a ratio of relearning times is the other way round, and to its own success)"
        )
    further |= {
        f"savings of {'the pair itself' if row['pair'] == 'own' else row['pair']}": _over_seeds(
            row | {"estimate": row["ratio"]}
        )
        for row in savings.drop_nulls("ratio").iter_rows(named=True)
    }
    used = settled.select(
        "trial", value="floor", low="floor", high="floor", quantity=pl.lit("floor"),
        hits=pl.lit(None, pl.Float64), trials=pl.lit(None, pl.Float64),
        reason=pl.when(pl.col("kind") != "settled").then(pl.lit("retention has not settled")),
    )  # fmt: skip
    used = about(data).join(used, on="trial").with_columns(pl.lit("").alias(SETTING))
    return Found(estimates=estimates, used=used, further=further)


def _half_lives(curves: pl.DataFrame, measure: str) -> dict[str, Any]:
    """By size. By success and by log-probability where success is the measure, or only one of them reached half: an
    answer's format may outlive the answer."""
    times = {read: by_size(reference_times(curves, criterion)) for criterion, read in CRITERIA.items()}
    reached = [frame.select("size", pl.col("estimate").is_null()).rows() for frame in times.values()]
    both = measure == "success" or (all(reached) and reached[0] != reached[1])
    return {
        f"half-life by {read} at {row['size']}": f"at least {short(row['bound'])}"
        if row["estimate"] is None
        else _over_seeds(row)
        for read, frame in times.items() if both or read == CRITERIA[measure]
        for row in frame.iter_rows(named=True)
    }  # fmt: skip


def _at_setting(data: StudyData, question: Decay) -> list[str]:
    """The trials with the values of `where`, and else at the reference setting.

    Raises UserError if there are none.
    """
    trials = data.trials
    for name, value in (reference(data) | question.where).items():
        if name not in trials.columns:
            raise UserError(f"no trial has {name!r}{nearest(name, trials.columns)}")
        trials = trials.filter(pl.col(name).eq_missing(pl.lit(_level(data.trials, name, value))))
    return trials["trial"].to_list()


def _over_seeds(row: dict[str, Any]) -> Interval:
    return Interval(estimate=row["estimate"], low=row["low"], high=row["high"], count=row["seeds"])


def _frontier(data: StudyData, question: Frontier, quantities: tuple[Quantity, ...]) -> Found:
    frames = [_selected(data, question, quantity, question.axis) for quantity in quantities]
    one, other = (
        cells(frame, [SEED, question.axis]).group_by(question.axis, maintain_order=True).agg(pl.col("value").mean())
        for frame in frames
    )
    table = one.join(other, on=question.axis, suffix="_other").drop_nulls()
    signs = np.array([1.0 if side == "high" else -1.0 for side in question.better])
    points = table.select("value", "value_other").to_numpy() * signs
    front = on_front(points, np.ones(table.height, dtype=bool))
    best = table.filter(pl.Series(front))
    return Found(
        estimates=_none(frames[0]), used=pl.concat(frames, how="diagonal_relaxed"),
        further={"frontier": [str(value) for value in best[question.axis]]},
    )  # fmt: skip


def _none(frame: pl.DataFrame) -> Estimates:
    """No estimate for any seed."""
    seeds = frame[SEED].unique().sort().to_list()
    return Estimates(values=np.full(len(seeds), np.nan), seeds=seeds)


def _of_all(found: Estimates, frame: pl.DataFrame) -> Estimates:
    """With a row for every seed: those without a value count as seen."""
    seeds = frame[SEED].unique().sort().to_list()
    at = [seeds.index(seed) for seed in found.seeds]

    def placed(values: Array) -> Array:
        every = np.full((len(seeds), *values.shape[1:]), np.nan)
        every[at] = values
        return every

    late = found.censored
    return Estimates(
        values=placed(found.values), seeds=seeds,
        censored=None if late is None else Censored(x=late.x, low=placed(late.low), high=placed(late.high)),
    )  # fmt: skip


KINDS: dict[str, Callable[[StudyData, Any, tuple[Quantity, ...]], Found]] = {
    "trend": _trend, "contrast": _contrast, "curve": _curve, "association": _association, "decay": _decay,
    "frontier": _frontier,
}  # fmt: skip
"""By kind of question."""
