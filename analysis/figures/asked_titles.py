"""The title of a question's figure: its number with its interval."""

from __future__ import annotations

import math

from analysis.answers.questions import Answer
from analysis.answers.subjects import Shown
from analysis.stats.format import plural
from halflife.tracking.questions import Association, Curve, Quantity, Trend


def title(answer: Answer) -> str:
    """ "exponent 0.41 [0.33, 0.49], 5 seeds", with a warning where a required check of the sweep fails."""
    found = answer.verdict.interval if answer.verdict else None
    if found is None:
        return "no estimate over seeds"
    before, shown, after = _words(answer)
    number = shown.interval(found).replace("-", "−")
    return f"{before}{number}{after}, {plural(found.count, 'seed')}{'' if answer.valid else '; not valid'}"


def _words(answer: Answer) -> tuple[str, Shown, str]:
    question, log = answer.question, answer.quantities[0].on_log_scale
    unit = difference_unit(answer.quantities[0])
    if isinstance(question, Association):
        return "rank correlation ", Shown(""), ""
    if isinstance(question, Trend):
        if question.scale == "log":
            return ("exponent ", Shown(""), "") if log else ("", Shown("", scale=math.log(2)), f"{unit} per doubling")
        return ("factor " if log else "", Shown("", factor=log), f"{unit} per unit")
    span = f" from {answer.further['smallest']} to {answer.further['largest']}" if isinstance(question, Curve) else ""
    return ("factor " if log else "difference ", Shown("", factor=log), f"{unit}{span}")


def difference_unit(quantity: Quantity) -> str:
    """ " tokens"; nothing for a factor."""
    unit = "" if quantity.on_log_scale else "logits" if quantity.transform == "logit" else quantity.unit
    return f" {unit}" if unit else ""
