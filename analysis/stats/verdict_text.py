"""A verdict for readers, one sentence, and for programs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from analysis.stats.estimates import Estimates
from analysis.stats.format import plural, short
from analysis.stats.sequential import LEAST_P
from analysis.stats.settling import MOST, WANTED, Range
from analysis.stats.verdicts import Verdict


def sentence(verdict: Verdict, estimates: Estimates, subject: str, why: str = "") -> str:
    """ "An effect: the slope of y over x is 0.41 [0.33, 0.49] over 8 seeds (p = 0.002)." """
    interval = verdict.interval
    seeds = plural(int(np.isfinite(estimates.values).sum() if interval is None else interval.count), "seed")
    if interval is None:
        return f"Undecided: too many values of {subject} are missing or censored over {seeds} for an estimate."
    shown = f"{subject} is {short(interval.estimate)}"
    if interval.low is None or interval.high is None:
        first = verdict.looks.seeds[0]
        return (
            f"Undecided: {shown} over {seeds}; there is no interval before {plural(first, 'seed')}{_left(estimates)}."
        )
    shown += (
        f" [{short(interval.low)}, {short(interval.high)}] over {seeds}{_left(estimates)}{_look(verdict, estimates)}"
    )
    margin = "" if verdict.margin is None else f"the margin of {short(verdict.margin)}{f' ({why})' if why else ''}"
    if verdict.answer == "effect":
        holm = ", by Holm's procedure, though the simultaneous interval includes 0" if verdict.only_holm else ""
        return f"An effect: {shown} ({p_text(verdict.p)}){holm}{f', smaller than {margin}' if verdict.small else ''}."
    if verdict.answer == "equivalent":
        return f"Equivalent: {shown}, within {margin}."
    return f"Undecided: {shown}{f', neither apart from 0 nor within {margin}' if margin else ''}; {_settling(verdict)}."


def p_text(p: float | None) -> str:
    """ "p = 0.012"; the smallest p-value at looks is a bound."""
    if p is None:
        return "no p-value"
    return f"p < {LEAST_P:.0e}" if p <= LEAST_P else f"p = {short(p, 2)}"


def as_json(verdict: Verdict, estimates: Estimates) -> dict[str, Any]:
    """The verdict as JSON data; `seeds_to_settle` is null if it is settled or there is no margin, and an end of its
    ranges where more than 10,000 would be needed."""
    interval, settling = verdict.interval, verdict.settling if verdict.answer == "undecided" else None
    names = estimates.seeds or range(estimates.values.size)
    return {
        "verdict": verdict.answer,
        "estimate": None if interval is None else interval.estimate,
        "low": None if interval is None else interval.low,
        "high": None if interval is None else interval.high,
        "level": 1 - verdict.alpha / verdict.family,
        "seeds": None if interval is None else interval.count,
        "p": verdict.p,
        "margin": verdict.margin,
        "smaller_than_margin": verdict.small,
        "looks": list(verdict.looks.seeds),
        "look": verdict.look,
        "seeds_to_settle": None
        if settling is None
        else {"effect": list(settling.effect), "equivalent": list(settling.equivalent), "probability": WANTED},
        "by_seed": {
            str(name): float(value) if math.isfinite(value) else None
            for name, value in zip(names, estimates.values, strict=True)
        },
    }


def _left(estimates: Estimates) -> str:
    left = int((~np.isfinite(estimates.values)).sum())
    return f" ({left} left out: they lack values)" if left else ""


def _look(verdict: Verdict, estimates: Estimates) -> str:
    if len(verdict.looks.seeds) == 1 and verdict.look == estimates.values.size:
        return ""
    later = estimates.values.size - (verdict.look or 0)
    unused = f"; {plural(later, 'later seed')} unused" if later else ""
    return f" (look {verdict.look} of {', '.join(map(str, verdict.looks.seeds))}{unused})"


def _settling(verdict: Verdict) -> str:
    settling = verdict.settling
    if settling is None:
        needed = "a margin, the smallest effect of interest," if verdict.margin is None else "a spread over seeds"
        return f"what would settle it needs {needed} to be known"
    return (
        f"{range_text(settling.effect)} would show an effect as large as the margin, {range_text(settling.equivalent)} "
        f"that there is none, with probability {WANTED:g}"
    )


def range_text(seeds: Range) -> str:
    """ "12 to 40 seeds"."""
    few, many = seeds
    if few is None:
        return f"more than {MOST:,} seeds"
    return f"{few} seeds or more" if many is None else f"{few} seeds" if few == many else f"{few} to {many} seeds"
