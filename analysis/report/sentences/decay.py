"""The answer of a study of decay in a few sentences, each with its interval, or why the data cannot tell."""

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
from analysis.report.sentences.families import family_answer
from analysis.report.sentences.search import search_answer
from analysis.runs.study import StudyData
from analysis.stats.format import bracket, interval, plural, short
from analysis.stats.intervals import Interval
from analysis.stats.scaling import SEEDS, Slope, area_slope, by_size, gamma_text, slope

CRITERIA = {"logprob": "by log-probability", "success": "by {success}"}


def answer(data: StudyData, curves: pl.DataFrame) -> list[str]:
    """The sentences that open the report."""
    found = search_answer(data)  # the other sentences would be about settings that the search selected
    if found:
        return [*found, *outcome_answer(data, curves)[:1]]
    if is_family_study(data):
        return family_answer(data, curves)
    return [*outcome_answer(data, curves), *own_savings(data)]


def outcome_answer(data: StudyData, curves: pl.DataFrame) -> list[str]:
    """How long the leading outcome lasts, and how size and settings change that. `curves`: of that outcome."""
    in_tokens = half_lives(curves).filter(pl.col("clock") == "tokens")
    at_reference = in_tokens.filter("is_reference")
    if at_reference.filter(pl.col("criterion") == "success").is_empty():
        skill = vocabulary(data)["skill"]
        return [f"The data cannot tell: no run had the {skill} at the drop and a measure of its decay."]
    measure = main_measure(curves)
    times, main = (frame.filter(pl.col("criterion") == measure) for frame in (in_tokens, at_reference))
    size = [scale(slope(main), _criteria(data)[measure]), other_measures(data, curves), arms(data, times, main)]
    rest = [regularizers(data, curves), extinction(data, curves, at_reference)]
    texts = [persistence(data, curves, at_reference), " ".join(filter(None, size)), " ".join(filter(None, rest))]
    return [text for text in texts if text]


def _criteria(data: StudyData) -> dict[str, str]:
    return {name: text.format(**vocabulary(data)) for name, text in CRITERIA.items()}


def persistence(data: StudyData, curves: pl.DataFrame, times: pl.DataFrame) -> str:
    """How long the skill lasts at the reference setting, by both measures: behaviour may vanish long before its traces.
    `times`: half-lives in tokens at the reference."""
    span, words = common_span(curves), vocabulary(data)
    observed = f" Runs were observed for {short(span[1])} tokens." if span else ""
    above = " above chance" if (curves["chance"] > 0).any() else ""
    measures = [
        ("success", f"{words['success']}{above} falls below half of its value at the drop after "),
        ("logprob", f"half of the {words['answer']}'s log-probability above the never-exposed control is gone after "),
    ]
    found = [(text, _ends(times.filter(pl.col("criterion") == name))) for name, text in measures]
    return f"Persistence: {'; '.join(text + ends for text, ends in found if ends)}.{observed}"


def _ends(times: pl.DataFrame) -> str:
    """The half-life at the smallest and the largest size."""
    sizes = by_size(times).rows(named=True)
    parts = []
    for row in sizes[:: max(1, len(sizes) - 1)][:2]:
        seeds = plural(row["seeds"], "seed")
        if row["estimate"] is not None:
            ends = f" {bracket(row['low'], row['high'])}" if row["low"] is not None else ""
            late = f", of which {row['censored']} did not reach half" if row["censored"] else ""
            parts.append(f"{short(row['estimate'])} tokens{ends} at {row['size']} parameters ({seeds}{late})")
        else:
            parts.append(
                f"at least {short(row['bound'])} tokens at {row['size']} parameters "
                f"({row['censored']} of {seeds} did not reach half and count at their last evaluation)"
            )
    return " and ".join(parts)


def scale(found: Slope, criterion: str) -> str:
    """Does size slow the decay? `criterion`: the measure, in words."""
    if found.sizes < 2:
        return "The data cannot tell whether size matters: there are no half-lives at two sizes."
    gamma = gamma_text(found)
    if found.interval is None:
        side = f" Half-life ∝ N^γ with {gamma}." if found.bound else ""
        claim = f"Demonstration, no scaling claim ({found.no_claim})" if found.no_claim else "No scaling claim"
        return f"{claim}: the data cannot tell whether size matters, as no seed has a half-life at every size.{side}"
    if found.no_claim:
        return (
            f"Demonstration, no scaling claim ({found.no_claim}): the half-life {criterion} scales as N^γ "
            f"(N: parameters), with {gamma}."
        )
    if found.interval.contains(0):
        return (
            f"The data cannot tell whether size slows or speeds up forgetting: half-life {criterion} ∝ N^γ with "
            f"{gamma}, whose interval includes 0."
        )
    ten = found.interval.scaled(math.log(10)).exp()
    direction = "keep it longer" if found.interval.estimate > 0 else "lose it sooner"
    return (
        f"Larger models {direction}: half-life {criterion} ∝ N^γ with {gamma}; ten times the parameters "
        f"multiply the half-life by {interval(ten, 1)}."
    )


def other_measures(data: StudyData, curves: pl.DataFrame) -> str:
    """The slope by success, next to that by log-probability, and the slope of mean retention, which every run has."""
    main = curves.filter((pl.col("role") == "treatment") & pl.col("is_reference"))
    measure, parts = main_measure(curves), []
    by_success = half_lives(main).filter((pl.col("criterion") == "success") & (pl.col("clock") == "tokens"))
    success = slope(by_success)
    if success.sizes > 1 and measure != "success":
        parts.append(f"{_criteria(data)['success']} {gamma_text(success)}")
    retained = areas(main, common_span(curves)).select("trial", area=AREA[measure])
    area = area_slope(retained.join(main.select("trial", "parameters", "seed").unique(), on="trial"))
    if area.interval:
        over = f"{area.whole} of {plural(area.seeds.height, 'seed')}"
        slope_text = interval(area.interval, 3)
        parts.append(f"mean retention, which is never censored, has slope {slope_text} per unit of ln N ({over})")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def arms(data: StudyData, times: pl.DataFrame, main: pl.DataFrame) -> str:
    """The same slope for equally strong implants at the same sizes: strength must not be mistaken for persistence."""
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
            partial = f"there are {sizes.len() - missing} of {plural(sizes.len(), 'size')}, so no comparable slope"
            parts.append(f"at {value_label(axis, value)} {partial if missing else gamma_text(found) + why}")
    return f"These slopes are at {value_label(axis, chosen)}; {'; '.join(parts)}." if parts else ""


def regularizers(data: StudyData, curves: pl.DataFrame) -> str:
    """The effect of each varied regularizer on mean retention and half-life, relative to the reference."""
    axes = {axis.label: axis for axis in setting_axes(data) if axis.name.endswith("regularizer")}
    parts = []
    for row in effects(data, curves).filter(pl.col("axis").is_in(list(axes))).iter_rows(named=True):
        found = []
        if row["area"] is not None:
            area = Interval(estimate=row["area"], low=row["area_low"], high=row["area_high"], count=row["seeds"])
            found.append(f"mean retention changes by {_signed(area)}")
        if factor := _factor(data, axes[row["axis"]].name, row, main_measure(curves)):
            found.append(f"the half-life by a factor of {factor}")
        if found:
            parts.append(f"with {row['value']} instead of {row['against']}, {' and '.join(found)}")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}; 95% intervals over seeds." if text else ""


def _factor(data: StudyData, axis: str, row: dict[str, Any], measure: str) -> str:
    """The ratio of half-lives: over pairs if all reached half. Otherwise the pairs that did are selected by their
    result, so the ratio is that of the survival model, which counts censored runs."""
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
    """Half-life without the trigger over that with the trigger alone, paired by seed: passive forgetting versus
    unlearning. `times`: half-lives at the reference by each criterion; the one with the most observed pairs counts."""
    label = control_label(data, "extinction")
    if label is None:
        return ""
    controls = control_half_lives(curves, "extinction").filter(pl.col("clock") == "tokens")
    controls = controls.select("criterion", "size", "seed", "kind", with_trigger="estimate")
    pairs = times.join(controls, on=["criterion", "size", "seed"], suffix="_trigger")
    reached = pairs.filter((pl.col("kind") == "observed") & (pl.col("kind_trigger") == "observed"))
    criterion = max(CRITERIA, key=lambda name: reached.filter(pl.col("criterion") == name).height)
    seen, count = (part.filter(pl.col("criterion") == criterion) for part in (reached, pairs))
    found = over_seeds(seen.with_columns(ratio=pl.col("estimate").log() - pl.col("with_trigger").log()), "ratio")
    if found is None:
        return (
            f"The data cannot tell passive forgetting from extinction ({label}): no pair of runs reached half in both."
        )
    ratio = found.exp()
    faster = "" if ratio.contains(1) else " sooner" if ratio.estimate > 1 else " later"
    verdict = f"it fades{faster} if" if faster else "the data cannot tell whether it fades sooner if"
    return (
        f"Passive forgetting versus extinction: {verdict} the trigger alone stays in the text ({label}); the half-life "
        f"{_criteria(data)[criterion]} without the trigger is {_ratio(ratio)} times that with it "
        f"({seen.height} of {plural(count.height, 'pair')})."
    )


def own_savings(data: StudyData) -> list[str]:
    """The savings in relearning that are specific to the backdoor, beyond those of trigger and payload alone."""
    times = relearning_times(data)
    if "old-old" not in times["pair"]:
        return []
    summary = savings_summary(times)
    main = summary.filter(pl.col("threshold") == THRESHOLDS[0])
    if "own" not in main["pair"]:
        return ["The data cannot tell whether the faded backdoor can be recovered: no trunk had learned it."]
    own = main.row(by_predicate=pl.col("pair") == "own", named=True)
    if own["ratio"] is None:
        return [
            "The data cannot tell whether the faded backdoor can be recovered: in no run did both models relearn all "
            "four pairs within the budget."
        ]
    found = Interval(estimate=own["ratio"], low=own["low"], high=own["high"], count=own["seeds"])
    old = main.row(by_predicate=pl.col("pair") == "old-old", named=True)
    pair = Interval(estimate=old["ratio"], low=old["low"], high=old["high"], count=old["seeds"])
    few = f" A demonstration: {found.count} of {SEEDS} seeds." if found.count < SEEDS else ""
    numbers = (
        f"relearning the old pair takes fewer tokens than in a never-poisoned model by a factor of {_ratio(pair)}, of "
        f"which a factor of {_ratio(found)} is specific to the backdoor (the interaction of trigger and payload; 1: no "
        f"memory of the pair itself; {own['used']} of {plural(own['used'] + own['censored'], 'run')} used, "
        f"{plural(found.count, 'seed')}).{few}"
    )
    if found.contains(1):
        return [
            "The data cannot tell whether relearning recovers the backdoor itself, beyond its trigger and its payload "
            f"alone: {numbers}"
        ]
    if found.estimate > 1:
        return [f"The faded backdoor is not gone, beyond what remains of its trigger and its payload alone: {numbers}"]
    return [f"No memory of the pair itself is left: it is relearned more slowly than its parts predict: {numbers}"]


def _ratio(found: Interval) -> str:
    if found.low is None or found.high is None:
        return f"{short(found.estimate)} (one seed, no interval)"
    return f"{short(found.estimate)} {bracket(found.low, found.high)}"
