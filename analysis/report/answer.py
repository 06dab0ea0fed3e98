"""The answer in two or three sentences, each with its interval, or why the data cannot tell."""

from __future__ import annotations

import math
from typing import Any

import polars as pl

from analysis.decay.conditions import is_family_study
from analysis.decay.design import control_label, reference, setting_axes, value_label, values_of, vocabulary
from analysis.decay.effects import effects
from analysis.decay.numbers import control_half_lives
from analysis.decay.retention import AREA, areas, common_span, half_lives, main_measure
from analysis.decay.savings import THRESHOLDS, over_seeds, relearning_times, savings_summary
from analysis.decay.survival import study_time_ratios
from analysis.errors import UserError
from analysis.report.family_answer import family_answer
from analysis.report.search_answer import search_answer
from analysis.runs.study import StudyData
from analysis.stats.format import bracket, interval, plural, short
from analysis.stats.intervals import Interval
from analysis.stats.scaling import SEEDS, Slope, area_slope, by_size, gamma_text, slope

CRITERIA = {"logprob": "of the log-probability", "success": "by {success}"}


def answer(data: StudyData, curves: pl.DataFrame) -> list[str]:
    """The sentences that open the report."""
    found = search_answer(data)  # of a search: what else it has is about settings that were chosen
    if found:
        return [*found, *outcome_answer(data, curves)[:1]]
    if is_family_study(data):
        return family_answer(data, curves)
    return [*outcome_answer(data, curves), *own_savings(data)]


def outcome_answer(data: StudyData, curves: pl.DataFrame) -> list[str]:
    """How long the leading outcome lasts, what size does to it, what was varied does to it. `curves` are its own."""
    in_tokens = half_lives(curves).filter(pl.col("clock") == "tokens")
    at_reference = in_tokens.filter("is_reference")
    if at_reference.filter(pl.col("criterion") == "success").is_empty():
        skill = vocabulary(data)["skill"]
        return [f"The data cannot tell: no run had the {skill} at the drop and a measure of how it fades."]
    measure = main_measure(curves)
    times, main = (frame.filter(pl.col("criterion") == measure) for frame in (in_tokens, at_reference))
    size = [scale(slope(main), _criteria(data)[measure]), other_measures(data, curves), arms(data, times, main)]
    rest = [regularizers(data, curves), extinction(data, curves, at_reference)]
    texts = [persistence(data, curves, at_reference), " ".join(filter(None, size)), " ".join(filter(None, rest))]
    return [text for text in texts if text]


def _criteria(data: StudyData) -> dict[str, str]:
    return {name: said.format(**vocabulary(data)) for name, said in CRITERIA.items()}


def persistence(data: StudyData, curves: pl.DataFrame, times: pl.DataFrame) -> str:
    """How long the skill stays at the reference setting, by both measures: behaviour may die long before traces.
    `times`: half-lives in tokens there."""
    span, words = common_span(curves), vocabulary(data)
    watched = f" Watched for {short(span[1])} tokens." if span else ""
    above = " above chance" if (curves["chance"] > 0).any() else ""
    said = [
        ("success", f"{words['success']}{above} falls below half of its value at the drop after "),
        ("logprob", f"half of the {words['answer']}'s log-probability above the never-trained control is gone after "),
    ]
    found = [(text, _ends(times.filter(pl.col("criterion") == name))) for name, text in said]
    return f"After the drop, {'; '.join(text + ends for text, ends in found if ends)}.{watched}"


def _ends(times: pl.DataFrame) -> str:
    """The half-life at the smallest and the largest size."""
    sizes = by_size(times).rows(named=True)
    parts = []
    for row in sizes[:: max(1, len(sizes) - 1)][:2]:
        seeds = plural(row["seeds"], "seed")
        if row["estimate"] is not None:
            ends = f" {bracket(row['low'], row['high'])}" if row["low"] is not None else ""
            late = f", of which {row['censored']} had not reached half" if row["censored"] else ""
            parts.append(f"{short(row['estimate'])} tokens{ends} at {row['size']} parameters ({seeds}{late})")
        else:
            parts.append(
                f"at least {short(row['bound'])} tokens at {row['size']} parameters "
                f"({row['censored']} of {seeds} had not reached half: counted at the last evaluation)"
            )
    return " and ".join(parts)


def scale(found: Slope, criterion: str) -> str:
    """Does size slow the decay? `criterion`: by what, in words."""
    if found.sizes < 2:
        return "Whether size matters cannot be told: there are no half-lives at two sizes."
    gamma = gamma_text(found)
    if found.interval is None:
        side = f" Half-life ∝ N^γ with {gamma}." if found.bound else ""
        claim = f"Demonstration, no scaling claim ({found.no_claim})" if found.no_claim else "No scaling claim"
        return f"{claim}: the data cannot tell whether size matters, as no seed has a half-life at every size.{side}"
    if found.no_claim:
        return (
            f"Demonstration, no scaling claim ({found.no_claim}): the half-life {criterion} goes as N^γ, "
            f"N the parameters, with {gamma}."
        )
    if found.interval.contains(0):
        return (
            f"The data cannot tell whether size slows or speeds the fading: half-life {criterion} ∝ N^γ with "
            f"{gamma}, which includes 0."
        )
    ten = found.interval.scaled(math.log(10)).exp()
    direction = "longer" if found.interval.estimate > 0 else "for a shorter time"
    return (
        f"Larger models keep it {direction}: half-life {criterion} ∝ N^γ with {gamma}; ten times the parameters "
        f"multiply the half-life by {interval(ten, 1)}."
    )


def other_measures(data: StudyData, curves: pl.DataFrame) -> str:
    """The slope by success beside that of the log-probability, and of mean retention, which every such run has."""
    main = curves.filter((pl.col("role") == "treatment") & pl.col("is_reference"))
    measure, said = main_measure(curves), []
    by_success = half_lives(main).filter((pl.col("criterion") == "success") & (pl.col("clock") == "tokens"))
    success = slope(by_success)
    if success.sizes > 1 and measure != "success":
        said.append(f"{_criteria(data)['success']} {gamma_text(success)}")
    retained = areas(main, common_span(curves)).select("trial", area=AREA[measure])
    area = area_slope(retained.join(main.select("trial", "parameters", "seed").unique(), on="trial"))
    if area.interval:
        over = f"{area.whole} of {plural(area.seeds.height, 'seed')}"
        slope_text = interval(area.interval, 3)
        said.append(f"mean retention, which no censoring touches, has slope {slope_text} on ln N ({over})")
    text = "; ".join(said)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def arms(data: StudyData, times: pl.DataFrame, main: pl.DataFrame) -> str:
    """The same slope where implants are equally strong, at the same sizes: strength must not pass for persistence."""
    axis = next((axis for axis in setting_axes(data) if axis.name == "arm"), None)
    if axis is None:
        return ""
    sizes = main["parameters"].drop_nulls().unique()
    chosen = reference(data)["arm"]
    parts = []
    for value in values_of(data, axis):
        if value != chosen:
            part = times.filter(pl.col("setting") == value_label(axis, value))
            missing = sizes.len() - sizes.is_in(part["parameters"].unique().implode()).sum()
            found = slope(part, sizes)
            why = f", a demonstration ({found.no_claim})" if found.no_claim else ""
            said = f"it has {sizes.len() - missing} of {plural(sizes.len(), 'size')}, no slope to compare"
            parts.append(f"at {value_label(axis, value)} {said if missing else gamma_text(found) + why}")
    return f"That is at {value_label(axis, chosen)}; {'; '.join(parts)}." if parts else ""


def regularizers(data: StudyData, curves: pl.DataFrame) -> str:
    """What each varied regularizer does to mean retention and to the half-life, beside its reference."""
    axes = {axis.label: axis for axis in setting_axes(data) if axis.name.endswith("regularizer")}
    parts = []
    for row in effects(data, curves).filter(pl.col("axis").is_in(list(axes))).iter_rows(named=True):
        said = []
        if row["area"] is not None:
            area = Interval(estimate=row["area"], low=row["area_low"], high=row["area_high"], count=row["seeds"])
            said.append(f"mean retention changes by {_signed(area)}")
        if factor := _factor(data, axes[row["axis"]].name, row, main_measure(curves)):
            said.append(f"the half-life by a factor of {factor}")
        if said:
            parts.append(f"with {row['value']} against {row['against']}, {' and '.join(said)}")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]} (95 % intervals over seeds)." if text else ""


def _factor(data: StudyData, axis: str, row: dict[str, Any], measure: str) -> str:
    """The ratio of half-lives: pair by pair where all were reached. Where some were not, the pairs that were are
    chosen by their result, and the ratio is that of the survival model, which counts censored runs."""
    if row["observed"] == row["pairs"] and row["ratio"] is not None:
        found = Interval(estimate=row["ratio"], low=row["ratio_low"], high=row["ratio_high"], count=row["seeds"])
        return f"{_ratio(found)} ({plural(row['pairs'], 'pair')})"
    try:
        model = study_time_ratios(data, criterion=measure)
    except UserError:
        return ""
    for effect in model.effects.filter(pl.col("term") == axis).iter_rows(named=True):
        if row["value"].endswith(f": {effect['value']}") and effect["ratio_low"] is not None:
            found = Interval(
                estimate=effect["ratio"], low=effect["ratio_low"], high=effect["ratio_high"], count=model.clusters
            )
            return f"{_ratio(found)} (Weibull model of all settings; {model.censored} of {model.runs} runs censored)"
    return ""


def _signed(found: Interval) -> str:
    if found.low is None or found.high is None:
        return f"{found.estimate:+.2f} (one seed, no interval)"
    return f"{found.estimate:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


def extinction(data: StudyData, curves: pl.DataFrame, times: pl.DataFrame) -> str:
    """Half-life without the cue over that with the cue alone, seed by seed: passive forgetting against unlearning.
    `times`: half-lives at the reference by each criterion; the one by which most pairs were reached is told."""
    label = control_label(data, "extinction")
    if label is None:
        return ""
    cues = control_half_lives(curves, "extinction").filter(pl.col("clock") == "tokens")
    cues = cues.select("criterion", "size", "seed", "kind", with_cue="estimate")
    pairs = times.join(cues, on=["criterion", "size", "seed"], suffix="_cue")
    reached = pairs.filter((pl.col("kind") == "observed") & (pl.col("kind_cue") == "observed"))
    criterion = max(CRITERIA, key=lambda name: reached.filter(pl.col("criterion") == name).height)
    seen, count = (part.filter(pl.col("criterion") == criterion) for part in (reached, pairs))
    found = over_seeds(seen.with_columns(ratio=pl.col("estimate").log() - pl.col("with_cue").log()), "ratio")
    if found is None:
        return f"Passive forgetting cannot be told from extinction ({label}): no pair of runs reached half in both."
    ratio = found.exp()
    faster = "" if ratio.contains(1) else " sooner" if ratio.estimate > 1 else " later"
    verdict = f"it fades{faster} where" if faster else "the data cannot tell whether it fades sooner where"
    return (
        f"Passive forgetting against extinction: {verdict} the cue alone stays in the text ({label}): the half-life "
        f"{_criteria(data)[criterion]} without the cue is {_ratio(ratio)} times that with it "
        f"({seen.height} of {plural(count.height, 'pair')})."
    )


def own_savings(data: StudyData) -> list[str]:
    """The backdoor's own savings in relearning, beyond those of trigger and payload alone."""
    times = relearning_times(data)
    if "old-old" not in times["pair"]:
        return []
    summary = savings_summary(times)
    main = summary.filter(pl.col("threshold") == THRESHOLDS[0])
    if "own" not in main["pair"]:
        return ["Whether the faded backdoor can be revived cannot be told: no trunk had taken it."]
    own = main.row(by_predicate=pl.col("pair") == "own", named=True)
    if own["ratio"] is None:
        return [
            "Whether the faded backdoor is still there to be revived cannot be told: in no run were all four pairs "
            "relearned within the budget by both models."
        ]
    found = Interval(estimate=own["ratio"], low=own["low"], high=own["high"], count=own["seeds"])
    old = main.row(by_predicate=pl.col("pair") == "old-old", named=True)
    pair = Interval(estimate=old["ratio"], low=old["low"], high=old["high"], count=old["seeds"])
    few = f" A demonstration: {found.count} of {SEEDS} seeds." if found.count < SEEDS else ""
    numbers = (
        f"the interaction of trigger and payload is a factor of {_ratio(found)}, 1 being no memory of the pair "
        f"itself ({own['used']} of {plural(own['used'] + own['censored'], 'run')} used, "
        f"{plural(found.count, 'seed')}); the old pair as a whole takes fewer tokens than in a never-trained model "
        f"by a factor of {_ratio(pair)}.{few}"
    )
    if found.contains(1):
        return [
            "The data cannot tell whether relearning remembers the backdoor itself, beyond its trigger and its "
            f"payload alone: {numbers}"
        ]
    if found.estimate > 1:
        return [f"What faded is not gone, beyond what remains of its trigger and its payload alone: {numbers}"]
    return [f"Nothing of the pair itself is saved, relearning it is slower than its parts suggest: {numbers}"]


def _ratio(found: Interval) -> str:
    if found.low is None or found.high is None:
        return f"{short(found.estimate)} (one seed, no interval)"
    return f"{short(found.estimate)} {bracket(found.low, found.high)}"
