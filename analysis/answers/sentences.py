"""One sentence in plain English per question: what was found, with its interval and margin, always."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from analysis.answers.questions import Answer
from analysis.stats.format import listed, plural, short
from analysis.stats.intervals import Interval, Median
from analysis.stats.settling import Range
from halflife.tracking.questions import Association, Contrast, Curve, Decay, Frontier, Quantity, Trend
from halflife.tracking.schema import Declaration

WORDS = {"effect": "Effect", "equivalent": "Equivalent", "undecided": "Undecided", "reported": "Reported",
         "not valid": "Not valid"}  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """How a kind of question reads: the text around its number, and the number's scale."""

    before: str
    after: str = ""
    scale: float = 1.0
    factor: bool = False
    """Whether the estimate is the ln of a factor."""

    def at(self, value: float) -> float:
        return (math.exp(value) if value < 700 else math.inf) if self.factor else self.scale * value

    def interval(self, found: Interval) -> str:
        if found.low is None or found.high is None:
            return f"{short(self.at(found.estimate))} (no interval)"
        low, high = sorted((self.at(found.low), self.at(found.high)))
        return f"{short(self.at(found.estimate))} [{short(low)}, {short(high)}]"

    def margin(self, value: float | None) -> str:
        if value is None:
            return "no margin was declared"
        return (
            f"margin: a factor of {short(self.at(value))}" if self.factor else f"margin ±{short(abs(self.at(value)))}"
        )


def sentence(answer: Answer, declaration: Declaration) -> str:
    """The question's label, the verdict and what it rests on."""
    start = f"{answer.question.label} {WORDS[answer.word]}"
    if answer.problem:
        return f"{start}: {answer.problem}."
    if answer.verdict is None:
        return f"{start}: {REPORTED[answer.question.kind](answer, declaration)}{_gaps(answer)}."
    shown = SHOWN[answer.question.kind](answer, declaration, answer.verdict.interval)
    return f"{start}{_rests_on(answer, shown)}{_gaps(answer)}.{_settling(answer)}{_predicted(answer)}{_further(answer)}"


def _rests_on(answer: Answer, shown: Shown) -> str:
    verdict = answer.verdict
    assert verdict is not None
    found, margin = verdict.interval, shown.margin(verdict.margin)
    if found is None:
        about = listed([quantity.label for quantity in answer.quantities]) or "what is kept"
        return f": {about} gives no estimate over seeds ({margin})"
    word = {"equivalent": " within the margin", "effect": ", smaller than the margin" if verdict.small else ""}
    look = "" if verdict.look else f", before the first look at {verdict.looks.seeds[0]}"
    holm = "; by Holm's test, though the simultaneous interval includes no effect" if verdict.only_holm else ""
    number = f"{shown.before} {shown.interval(found)}{shown.after}"
    return f"{word.get(verdict.answer, '')}: {number} over {plural(found.count, 'seed')}{look} ({margin}{holm})"


def _gaps(answer: Answer) -> str:
    parts = [f"{answer.censored} of {answer.trials} values are censored"] if answer.censored else []
    if gone := sum(answer.missing.values()):
        why = "; ".join(f"{reason}: {count}" for reason, count in answer.missing.items())
        parts.append(f"{gone} of {answer.trials} trials have no number ({why})")
    return f"; {listed(parts)}" if parts else ""


def _settling(answer: Answer) -> str:
    verdict = answer.verdict
    if verdict is None or verdict.answer != "undecided" or verdict.settling is None:
        return ""
    effect, none = _seeds(verdict.settling.effect), _seeds(verdict.settling.equivalent)
    return f" To settle it takes {effect} if the true effect equals the margin, and {none} if there is none."


def _seeds(found: Range) -> str:
    ends = ["more than 10,000" if end is None else str(end) for end in found]
    return f"{ends[0]} seeds" if ends[0] == ends[1] else f"{ends[0]} to {ends[1]} seeds"


def _predicted(answer: Answer) -> str:
    verdict, prediction = answer.verdict, answer.question.prediction
    if not prediction or verdict is None or verdict.answer == "undecided" or verdict.interval is None:
        return ""
    sign = "positive" if verdict.interval.estimate > 0 else "negative"
    came = "equivalent" if verdict.answer == "equivalent" else sign
    return " As predicted." if came == prediction else f" The prediction was {prediction}."


_ENDS = ("smallest", "largest")
_NAMES = {"threshold": "the threshold is reached at", "saturation": "it changes little from"}


def _further(answer: Answer) -> str:
    texts = [_number(_NAMES.get(name, name), value) for name, value in answer.further.items() if name not in _ENDS]
    return f" Also: {'; '.join(texts)}." if texts else ""


def _number(name: str, value: Any) -> str:
    if isinstance(value, Median):
        ends = [short(end) if math.isfinite(end) else "not reached" for end in (value.estimate, value.low, value.high)]
        return f"{name} {ends[0]} [{ends[1]}, {ends[2]}] (median over {plural(value.count, 'seed')})"
    if isinstance(value, Interval):
        return f"{name} {Shown('').interval(value)}"
    return f"{name} {short(value) if isinstance(value, float) else value}"


def _label(name: str, declaration: Declaration) -> str:
    labels = {axis.name: axis.label for axis in declaration.axes}
    label = labels.get(name, name.replace("_", " "))
    return label[:1].lower() + label[1:]


def _unit(quantity: Quantity) -> str:
    return f" {quantity.unit}" if quantity.unit else ""


def _trend(answer: Answer, declaration: Declaration, found: Interval | None) -> Shown:
    question, quantity = answer.question, answer.quantities[0]
    assert isinstance(question, Trend)
    axis = _label(question.axis, declaration)
    if question.scale == "log" and quantity.on_log_scale:
        return Shown(f"{quantity.label} goes as {axis} to the power")
    if question.scale == "log":
        return Shown(f"{quantity.label} changes by", f"{_unit(quantity)} per doubling of {axis}", scale=math.log(2))
    if quantity.on_log_scale:
        return Shown(f"{quantity.label} changes by a factor of", f" per unit of {axis}", factor=True)
    return Shown(f"{quantity.label} changes by", f"{_unit(quantity)} per unit of {axis}")


def _pair(quantity: Quantity, high: str, low: str, found: Interval | None) -> Shown:
    if quantity.on_log_scale:
        return Shown(f"{quantity.label} with {high} is", f" times that with {low}", factor=True)
    lower = found is not None and found.estimate < 0
    after = f"{_unit(quantity)} {'lower' if lower else 'higher'} with {high} than with {low}"
    return Shown(f"{quantity.label} is", after, scale=-1.0 if lower else 1.0)


def _contrast(answer: Answer, declaration: Declaration, found: Interval | None) -> Shown:
    question = answer.question
    assert isinstance(question, Contrast)
    axis = _label(question.axis, declaration)
    return _pair(answer.quantities[0], f"{axis} {question.high}", f"{axis} {question.low}", found)


def _curve(answer: Answer, declaration: Declaration, found: Interval | None) -> Shown:
    question = answer.question
    assert isinstance(question, Curve)
    axis = _label(question.axis, declaration)
    ends = [f"{axis} {answer.further[name]}" for name in ("largest", "smallest")]
    return _pair(answer.quantities[0], ends[0], ends[1], found)


def _association(answer: Answer, declaration: Declaration, found: Interval | None) -> Shown:
    question = answer.question
    assert isinstance(question, Association)
    one, other = (quantity.label for quantity in answer.quantities)
    return Shown(
        f"the rank correlation of {one} and {other} over the values of {_label(question.items, declaration)} is"
    )


def _decay(answer: Answer, declaration: Declaration, found: Interval | None) -> Shown:
    question = answer.question
    assert isinstance(question, Decay)
    skill = {outcome.name: outcome.skill for outcome in declaration.outcomes}[question.outcome]
    return Shown(f"what is kept of the {skill} settles at", " of what it was at the drop")


def _frontier(answer: Answer, declaration: Declaration) -> str:
    question = answer.question
    assert isinstance(question, Frontier)
    one, other = (quantity.label for quantity in answer.quantities)
    axis = _label(question.axis, declaration)
    if not answer.further["frontier"]:
        return f"no {axis} has both {one} and {other}"
    return f"none beats {axis} {listed(answer.further['frontier'])} in both {one} and {other}, means over seeds"


SHOWN: dict[str, Callable[[Answer, Declaration, Interval | None], Shown]] = {
    "trend": _trend, "contrast": _contrast, "curve": _curve, "association": _association, "decay": _decay,
}  # fmt: skip
REPORTED: dict[str, Callable[[Answer, Declaration], str]] = {"frontier": _frontier}
"""By kind of question; those of REPORTED have no verdict."""
