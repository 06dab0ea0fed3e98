"""The answer in two or three sentences, each with its interval, or why the data cannot tell."""

from __future__ import annotations

import math

import polars as pl

from analysis.design import reference, setting_axes, value_label, values_of
from analysis.load import StudyData
from analysis.retention import common_span, half_lives
from analysis.savings import THRESHOLDS, relearning_times, savings_summary
from analysis.scaling import SEEDS, Slope, by_size, slope
from analysis.uncertainty import Interval
from analysis.words import interval, plural, short


def answer(data: StudyData, curves: pl.DataFrame) -> list[str]:
    """The sentences that open the report."""
    times = half_lives(curves).filter((pl.col("criterion") == "logprob") & (pl.col("clock") == "tokens"))
    main = times.filter("is_reference")
    if main.is_empty():
        return ["The data cannot tell: no run had a backdoor at the drop whose fading was measured."]
    found = slope(main)
    return [persistence(main, curves), scale(found) + arms(data, times, found), *own_savings(data)]


def persistence(main: pl.DataFrame, curves: pl.DataFrame) -> str:
    """How long the backdoor stays at the reference setting, at the smallest and the largest size."""
    sizes = by_size(main).rows(named=True)
    if not sizes:
        return "The data cannot tell how long it stays: every run was below half from its first evaluation."
    span = common_span(curves)
    parts = []
    for row in sizes[:: max(1, len(sizes) - 1)][:2]:
        seeds = plural(row["seeds"], "seed")
        if row["estimate"] is not None:
            ends = f" [{short(row['low'])}, {short(row['high'])}]" if row["low"] is not None else ""
            parts.append(f"{short(row['estimate'])} tokens{ends} at {row['size']} parameters ({seeds})")
        else:
            parts.append(
                f"more than {short(row['bound'])} tokens at {row['size']} parameters "
                f"({row['censored']} of {seeds} had not reached half when the run ended)"
            )
    watched = f", watched for {short(span[1])} tokens" if span else ""
    return (
        "After the poison stops, half of the payload's log-probability above the never-poisoned control is gone after "
        f"{', and after '.join(parts)}{watched}."
    )


def scale(found: Slope) -> str:
    """Does size slow the decay?"""
    if found.sizes < 2:
        return "Whether size matters cannot be told: there is one size."
    if found.interval is None:
        side = f" Half-life ∝ N^γ with γ {found.bound[0]} {found.bound[1]:.2f}." if found.bound else ""
        return f"The data cannot tell whether size matters: no seed has a half-life at every size.{side}"
    censored = found.seeds.height - found.whole
    bounded = f" {plural(censored, 'more seed')} had runs that never reached half or never began." if censored else ""
    gamma = f"γ = {interval(found.interval)} over {plural(found.interval.count, 'seed')}"
    if found.no_claim:
        return (
            f"Demonstration, no scaling claim ({found.no_claim}): in these runs the half-life goes as parameters to "
            f"the power {gamma}.{bounded}"
        )
    if found.interval.contains(0):
        return (
            f"The data cannot tell whether size slows or speeds the fading: half-life ∝ N^γ with {gamma}, which "
            f"includes 0.{bounded}"
        )
    ten = found.interval.scaled(math.log(10)).exp()
    direction = "longer" if found.interval.estimate > 0 else "for a shorter time"
    return (
        f"Larger models keep it {direction}: half-life ∝ N^γ with {gamma}; ten times the parameters multiply the "
        f"half-life by {interval(ten, 1)}.{bounded}"
    )


def arms(data: StudyData, times: pl.DataFrame, exposure: Slope) -> str:
    """The same slope where implants are equally strong: strength must not pass for persistence."""
    axis = next((axis for axis in setting_axes(data) if axis.name == "arm"), None)
    if axis is None or exposure.interval is None:
        return ""
    chosen = reference(data)["arm"]
    parts = []
    for value in values_of(data, axis):
        if value != chosen:
            part = times.filter(pl.col("setting") == value_label(axis, value))
            found = slope(part).interval
            parts.append(f"{value_label(axis, value)} {'γ = ' + interval(found) if found else 'cannot be fitted'}")
    return f" That is at {value_label(axis, chosen)}; at {', '.join(parts)}." if parts else ""


def own_savings(data: StudyData) -> list[str]:
    """The backdoor's own savings in relearning, beyond those of trigger and payload alone."""
    times = relearning_times(data)
    if times.is_empty():
        return []
    summary = savings_summary(times)
    main = summary.filter(pl.col("threshold") == THRESHOLDS[0])
    own = main.row(by_predicate=pl.col("pair") == "own", named=True)
    if own["ratio"] is None:
        return [
            "Whether the faded backdoor is still there to be revived cannot be told: in no run were all four pairs "
            "relearned within the budget by both models."
        ]
    found = Interval(estimate=own["ratio"], low=own["low"], high=own["high"], count=own["seeds"])
    over = f"{interval(found)} over {plural(found.count, 'seed')}"
    few = f" ({found.count} of {SEEDS} seeds: a demonstration)" if found.count < SEEDS else ""
    if found.contains(1):
        return [
            "The data cannot tell whether relearning remembers the backdoor itself, beyond its trigger and payload: "
            f"the interaction is a factor of {over}, against 1 for no memory."
        ]
    if found.estimate > 1:
        return [
            "What faded is not gone: beyond what remains of trigger and payload alone, the old pair is relearned "
            f"in fewer tokens by a factor of {over}{few}."
        ]
    return [
        f"Nothing of the pair itself is saved: relearning it is slower than its parts suggest, a factor of {over}{few}."
    ]
