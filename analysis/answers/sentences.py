"""One sentence in plain English per question: what was found, with its interval and margin, always.

The same for declared questions and for questions about tables: to the terminal, the report, answers.json and MLflow.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from analysis.answers.quantities import ALREADY
from analysis.answers.questions import Answer
from analysis.answers.subjects import REPORTED, SHOWN, Shown
from analysis.checks import remedies
from analysis.checks.sweep import failed
from analysis.runs.study import StudyData
from analysis.stats.estimates import Estimates
from analysis.stats.format import listed, plural, short
from analysis.stats.intervals import Interval, Median
from analysis.stats.sequential import LEAST_P
from analysis.stats.settling import MOST, WANTED, Range
from analysis.stats.verdicts import Verdict
from halflife.tracking import schema
from halflife.tracking.questions import Crossing

WORDS = {"effect": "Effect", "equivalent": "Equivalent", "undecided": "Undecided", "reported": "Reported",
         "not valid": "Not valid"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class More:
    """What further seeds cost."""

    hours: float | None = None
    """Hours a seed on this sweep's slots; None if the runs do not say."""
    command: str = ""
    """What the sweep was started with."""


def sentence(answer: Answer, data: StudyData) -> str:
    """The question's label, the verdict and what it rests on."""
    start = f"{answer.question.label} {WORDS[answer.word]}"
    if not answer.valid:
        return f"{start}: {_fails(answer.invalid)}."
    if answer.problem:
        return f"{start}: {answer.problem}."
    if answer.verdict is None or answer.estimates is None:
        return f"{start}: {REPORTED[answer.question.kind](answer, data.declaration)}{_gaps(answer)}."
    if answer.verdict.interval is None and (why := _nothing_to_compare(answer)):
        return f"{start}: {why}.{mended(answer, data)}"
    shown = SHOWN[answer.question.kind](answer, data.declaration, answer.verdict.interval)
    text = judged(
        answer.verdict, answer.estimates, shown, p=answer.p, gaps=_gaps(answer), more=more(data)
    )  # fmt: skip
    return f"{answer.question.label} {text}{_predicted(answer)}{_further(answer)}{mended(answer, data)}"


def not_valid(data: StudyData) -> str:
    """Why these runs answer nothing, and what would mend it: said once for all questions. Empty where they do."""
    if not (found := failed(data)):
        return ""
    mend = "; ".join(dict.fromkeys(check.remedy for check in found))
    return f"These runs answer nothing: {_fails([check.name for check in found])}. Remedy: {mend}."


def _fails(names: Sequence[str]) -> str:
    return f"{'a required check fails' if len(names) == 1 else 'required checks fail'} ({'; '.join(names)})"


def mended(answer: Answer, data: StudyData) -> str:
    """Of trials in which too much was left to be relearned: the level that their relearning began above, and what would
    leave less. That is a longer branch, unless models that never had it begin there too."""
    if not answer.quantities:
        return ""
    quantity = answer.quantities[0]
    asked = quantity.moment
    if not isinstance(asked, Crossing) or asked.direction != "above" or ALREADY not in answer.missing:
        return ""
    used, many = answer.used, ""
    if not used.is_empty():
        began = used.filter(pl.col("reason") == ALREADY)
        if not (began["role"] == "treatment").all():
            return ""
        many = f" in {began.height} of {plural(used.filter(role='treatment').height, 'treatment')}"
    phase, _, measure = quantity.measure.partition("/")
    what = "success" if measure.endswith(f"/{schema.HITS}") else measure
    longer = remedies.flags(data, "branch", by=2.0, otherwise="twice as long")
    start = f"At the start of {phase} {what} was {asked.threshold:g} or more{many}, so that there was nothing to time"
    return f" {start}; remedy: a longer branch, which leaves less: {longer}."


def judged(
    verdict: Verdict, estimates: Estimates, shown: Shown, *, reason: str = "", p: float | None = None, gaps: str = "",
    more: More | None = None,
) -> str:  # fmt: skip
    """ "Effect: the slope of y over x is 0.41 [0.33, 0.49] over 8 seeds (margin ±0.1; p = 0.002)." """
    found, margin = verdict.interval, shown.margin(verdict.margin, reason)
    word = WORDS[verdict.answer] if verdict.look else "No verdict yet"
    if found is None:
        return f"{word}: {_no_estimate(estimates, shown)}{gaps} ({margin})."
    if verdict.small:
        word += " within the margin" if verdict.answer == "equivalent" else ", smaller than the margin"
    notes = [margin, *([shown.note] if shown.note else [])]
    if verdict.look is not None and found.low is not None:
        notes.append(p_text(p) + (", by Holm" if verdict.family > 1 else ""))
    if verdict.only_holm:
        notes.append("the simultaneous interval includes no effect")
    notes += _looks(verdict, estimates)
    counted = plural(found.count, "seed") + _left(estimates)
    text = f"{word}: {shown.before} {shown.interval(found)}{shown.after} over {counted}{gaps} ({'; '.join(notes)})."
    return f"{text}{_settling(verdict, estimates, more)}" if verdict.answer == "undecided" else text


def _no_estimate(estimates: Estimates, shown: Shown) -> str:
    late = estimates.censored
    known = np.isfinite(estimates.values)
    if late is not None and (bounds := (late.low != late.high)[known]).any():
        how = "all" if bounds.all() else f"{int(bounds.sum())} of {bounds.size}"
        over = plural(int(known.sum()), "seed")
        return f"{shown.what} cannot be estimated, because {how} values over {over} are only bounds"
    return f"{shown.what} cannot be estimated, because no seed has all its numbers"


def _nothing_to_compare(answer: Answer) -> str:
    """The reason, if there is only one, for which no trial at some value of the question's axis has a number."""
    axis = getattr(answer.question, "axis", "")
    if len(answer.missing) != 1 or axis not in answer.used.columns:
        return ""
    lacking = answer.used.group_by(axis).agg(pl.col("reason").is_not_null().all())
    return next(iter(answer.missing)) if lacking["reason"].any() else ""


def _left(estimates: Estimates) -> str:
    left = int((~np.isfinite(estimates.values)).sum())
    return f" ({left} of {plural(estimates.values.size, 'seed')} left out for lack of values)" if left else ""


def _looks(verdict: Verdict, estimates: Estimates) -> list[str]:
    """At which look of several, or what it waits for."""
    if not verdict.look:
        first = verdict.looks.seeds[0]
        waits = estimates.values.size >= first  # for trials that this question does not ask about
        return [f"no verdict before {first} seeds{' are whole' if waits else ''}"]
    if len(verdict.looks.seeds) == 1:
        return []
    later = estimates.values.size - verdict.look
    unused = f", {plural(later, 'later seed')} unused" if later > 0 else ""
    seeds = verdict.looks.seeds
    at = f"look {seeds.index(verdict.look) + 1} of {len(seeds)}, at {verdict.look} seeds"
    return [f"{at}{unused} (looks at {', '.join(map(str, seeds))})"]


def p_text(p: float | None) -> str:
    """ "p = 0.012"; the smallest p-value at looks is a bound."""
    if p is None:
        return "no p-value"
    return f"p < {LEAST_P:.0e}" if p <= LEAST_P else f"p = {short(p, 2)}"


def _gaps(answer: Answer) -> str:
    parts = [f"{answer.censored} of {answer.trials} values are censored"] if answer.censored else []
    if gone := sum(answer.missing.values()):
        why = "; ".join(f"{reason}: {count}" for reason, count in answer.missing.items())
        parts.append(f"{gone} of {answer.trials} trials have no number ({why})")
    return f"; {listed(parts)}" if parts else ""


def _settling(verdict: Verdict, estimates: Estimates, more: More | None) -> str:
    """Seeds in all that would settle it, their hours, and the command."""
    if verdict.look is None or verdict.margin is None:
        return ""
    if (settling := verdict.settling) is None:
        return " How many seeds would settle it is unknown: that takes a spread over two or more seeds."
    text = (
        f" To settle it with probability {WANTED:g} takes {range_text(settling.effect)} in all if the true effect "
        f"equals the margin, {range_text(settling.equivalent)} if there is none"
    )
    ends = [end for end in (*settling.effect, *settling.equivalent) if end is not None]
    if more is None or not ends:
        return f"{text}."
    have, few, many = estimates.values.size, min(ends), max(ends)
    beyond = None in (*settling.effect, *settling.equivalent)
    if more.hours is not None:
        hours = [f"{short(more.hours * max(0, end - have), 2)}" for end in (few, many)]
        spent = f"{hours[0]} hours or" if beyond else hours[0] if hours[0] == hours[1] else f"{hours[0]} to {hours[1]}"
        text += f", {spent} {'more' if beyond else 'more hours'}"
    return f"{text}.{_command(verdict, more.command, few, many)}"


def _command(verdict: Verdict, command: str, few: int, many: int) -> str:
    if not command:
        return ""
    last, words, kept = verdict.looks.seeds[-1], command.split(" "), list[str]()
    if len(verdict.looks.seeds) > 1 and few > last:
        return f" That is beyond the last declared look, {last} seeds."
    while words:
        word = words.pop(0)
        if word == "--seeds" and words:
            words.pop(0)
        elif not word.startswith("--seeds="):
            kept.append(word)
    if len(verdict.looks.seeds) == 1:
        return f" Command: {' '.join(kept)} --seeds {many}"
    return f" Command: {' '.join(kept)}{'' if '--settle' in kept else ' --settle'}"


def range_text(seeds: Range) -> str:
    """ "12 to 40 seeds"."""
    few, many = seeds
    if few is None:
        return f"more than {MOST:,} seeds"
    return f"{few} seeds or more" if many is None else f"{few} seeds" if few == many else f"{few} to {many} seeds"


def more(data: StudyData) -> More:
    """Hours a seed, from what the sweep's stages took, and the command of the sweep. Computed once per `data`."""
    if "more" not in data.derived:
        command = data.sweep.tags.get(schema.TAG_COMMAND, "")
        command = f"python {command}" if command and not command.startswith("python") else command
        seeds = data.trials["seed"].n_unique() if "seed" in data.trials.columns else 0
        seconds = _stage_seconds(data) or data.totals.get("sweep/compute_seconds")
        slots = max(1.0, data.totals.get("sweep/slots", 1.0))
        hours = seconds / slots / seeds / 3600 if seconds and seeds else None
        data.derived["more"] = More(hours=hours, command=command)
    return data.derived["more"]


def _stage_seconds(data: StudyData) -> float:
    """Seconds of computing in all distinct stages, also those that an earlier sweep computed."""
    found: dict[str, float] = {}
    for name in (name for name in data.trials.columns if name.startswith("summary_")):
        stage = f"stage_{name.removeprefix('summary_')}"
        if stage in data.trials.columns:
            for folder, text in data.trials.select(stage, name).drop_nulls().unique().iter_rows():
                found[folder] = json.loads(text).get("seconds_computing") or 0.0
    return sum(found.values())


def _predicted(answer: Answer) -> str:
    verdict, prediction = answer.verdict, answer.question.prediction
    if not prediction or verdict is None or verdict.answer == "undecided" or verdict.interval is None:
        return ""
    sign = "positive" if verdict.interval.estimate > 0 else "negative"
    came = "equivalent" if verdict.answer == "equivalent" else sign
    return " As predicted." if came == prediction else f" The prediction was {prediction}."


_ENDS = ("smallest", "largest")
_NAMES = {"threshold": "the threshold is reached at", "saturation": "it changes little from"}
_NEVER = {"threshold": "the threshold is not reached", "saturation": "it still changes at the largest amount"}


def _further(answer: Answer) -> str:
    texts = [_number(name, value) for name, value in answer.further.items() if name not in _ENDS]
    return f" Also: {'; '.join(texts)}." if texts else ""


def _number(name: str, value: Any) -> str:
    if isinstance(value, Median) and value.low == math.inf:
        return f"{_NEVER.get(name, f'{name} was not reached')} by any of {plural(value.count, 'seed')}"
    name = _NAMES.get(name, name)
    if isinstance(value, Median):
        ends = [short(end) if math.isfinite(end) else "not reached" for end in (value.estimate, value.low, value.high)]
        return f"{name} {ends[0]} [{ends[1]}, {ends[2]}] (median over {plural(value.count, 'seed')})"
    if isinstance(value, Interval):
        return f"{name} {Shown('').interval(value)}"
    return f"{name} {short(value) if isinstance(value, float) else value}"
