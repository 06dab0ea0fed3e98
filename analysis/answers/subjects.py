"""How each kind of question reads: the words around its number, and the number's scale."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from analysis.answers.questions import Answer
from analysis.stats.format import bracket, listed, short
from analysis.stats.intervals import Interval
from analysis.stats.scaling import DECADES, SIZES
from halflife.tracking.questions import Association, Contrast, Curve, Decay, Frontier, Quantity, Trend
from halflife.tracking.schema import Declaration


@dataclass(frozen=True)
class Shown:
    """How a number reads: the text around it, and its scale."""

    before: str
    after: str = ""
    scale: float = 1.0
    factor: bool = False
    """Whether the estimate is the ln of a factor."""
    what: str = "what was asked"
    """The number's name, where there is none."""
    note: str = ""
    """On what the number rests besides seeds."""

    def at(self, value: float) -> float:
        return (math.exp(value) if value < 700 else math.inf) if self.factor else self.scale * value

    def interval(self, found: Interval) -> str:
        if found.low is None or found.high is None:
            why = "no interval from one seed" if found.count == 1 else "no interval"
            return f"{short(self.at(found.estimate))} ({why})"
        if math.isinf(found.low) or math.isinf(found.high):
            return self._bound(found.estimate, found.low, found.high)
        low, high = sorted((self.at(found.low), self.at(found.high)))
        ends = bracket(low, high) if self.factor else f"[{short(low)}, {short(high)}]"
        return f"{short(self.at(found.estimate))} {ends}"

    def _bound(self, estimate: float, low: float, high: float) -> str:
        """Where most values are bounds: their mean, and the end of the interval that they have."""
        above = math.isinf(low)
        end = short(self.at(high if above else low))
        side, verb = ("most", "ends") if above == (self.scale > 0) else ("least", "begins")
        return f"at {side} {short(self.at(estimate))} (its interval {verb} at {end})"

    def margin(self, value: float | None, reason: str = "") -> str:
        if value is None:
            return "no margin was declared"
        number = f"{abs(self.at(value)):.3g}"
        shown = f"a factor of {number}" if self.factor else f"±{number}"
        return f"margin {shown}{f': {reason}' if reason else ''}"


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
    shown = partial(Shown, what=f"the slope of {quantity.label} over {axis}", note=_span(answer, question))
    if question.scale == "log" and quantity.on_log_scale:
        return shown(f"{quantity.label} goes as {axis} to the power")
    if question.scale == "log":
        after = f"{_unit(quantity)} per doubling of {axis}"
        return shown(f"{quantity.label} changes by", after, scale=math.log(2))
    if quantity.on_log_scale:
        return shown(f"{quantity.label} changes by a factor of", f" per unit of {axis}", factor=True)
    return shown(f"{quantity.label} changes by", f"{_unit(quantity)} per unit of {axis}")


def _span(answer: Answer, question: Trend) -> str:
    """The values of the axis; of few sizes, or of sizes close together, that they are no scaling law."""
    levels = answer.used[question.axis].drop_nulls().unique().sort().cast(float).to_list()
    text = f"{len(levels)} values from {short(levels[0])} to {short(levels[-1])}"
    few = len(levels) < SIZES or math.log10(levels[-1] / levels[0]) < DECADES - 1e-3 if levels[0] > 0 else False
    return f"{text}, too few or too close together for a scaling law" if question.axis == "parameters" and few else text


def _pair(quantity: Quantity, high: str, low: str, found: Interval | None) -> Shown:
    """`high` and `low` with their prepositions."""
    what = f"the difference in {quantity.label} between that {high} and that {low}"
    if quantity.on_log_scale:
        return Shown(f"{quantity.label} {high} is", f" times that {low}", factor=True, what=what)
    lower = found is not None and found.estimate < 0
    after = f"{_unit(quantity)} {'lower' if lower else 'higher'} {high} than {low}"
    return Shown(f"{quantity.label} is", after, scale=-1.0 if lower else 1.0, what=what)


def _contrast(answer: Answer, declaration: Declaration, found: Interval | None) -> Shown:
    question = answer.question
    assert isinstance(question, Contrast)
    if question.axis == "role":
        named = {control.role: f"in the control “{control.label}”" for control in declaration.controls}
        high, low = (named.get(role, f"in the {role}") for role in (question.high, question.low))
    else:
        axis = _label(question.axis, declaration)
        high, low = (f"with {axis} {value}" for value in (question.high, question.low))
    return _pair(answer.quantities[0], high, low, found)


def _curve(answer: Answer, declaration: Declaration, found: Interval | None) -> Shown:
    question = answer.question
    assert isinstance(question, Curve)
    axis = _label(question.axis, declaration)
    ends = [f"with {axis} {answer.further[name]}" for name in ("largest", "smallest")]
    return _pair(answer.quantities[0], ends[0], ends[1], found)


def _association(answer: Answer, declaration: Declaration, found: Interval | None) -> Shown:
    question = answer.question
    assert isinstance(question, Association)
    one, other = (quantity.label for quantity in answer.quantities)
    what = f"the rank correlation of {one} and {other} over the values of {_label(question.items, declaration)}"
    return Shown(f"{what} is", what=what)


def _decay(answer: Answer, declaration: Declaration, found: Interval | None) -> Shown:
    question = answer.question
    assert isinstance(question, Decay)
    skill = {outcome.name: outcome.skill for outcome in declaration.outcomes}[question.outcome]
    return Shown(f"the {skill} settles at", " of its level at the drop", what=f"the level at which the {skill} settles")


def _frontier(answer: Answer, declaration: Declaration) -> str:
    question = answer.question
    assert isinstance(question, Frontier)
    one, other = (quantity.label for quantity in answer.quantities)
    axis = _label(question.axis, declaration)
    if not answer.further["frontier"]:
        return f"no {axis} has both {one} and {other}"
    best = listed(answer.further["frontier"])
    return f"no other setting beats {axis} {best} in both {one} and {other} (means over seeds)"


SHOWN: dict[str, Callable[[Answer, Declaration, Interval | None], Shown]] = {
    "trend": _trend, "contrast": _contrast, "curve": _curve, "association": _association, "decay": _decay,
}  # fmt: skip
REPORTED: dict[str, Callable[[Answer, Declaration], str]] = {"frontier": _frontier}
"""By kind of question; those of REPORTED have no verdict."""
