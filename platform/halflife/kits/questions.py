"""Questions that follow from the axes of a study, so that any settings declare only what their trials can answer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from halflife.tracking.names import renamed
from halflife.tracking.questions import Contrast, Quantity, Question, Trend
from halflife.tracking.schema import Axis

LOOKS = (5, 8, 12, 20, 32)
"""Numbers of seeds at which questions are looked at."""
FACTOR = math.log(1.25)
"""The margin of factors of time: a quarter more or less training decides between no two ways to train."""


def declared(quantities: Iterable[Quantity], questions: Iterable[Question]) -> dict[str, Any]:
    """The part of a declaration that asks: the questions, and of the quantities those that they are about."""
    questions = tuple(questions)
    used = {name for question in questions for name in question.quantities}
    return {
        "quantities": tuple(quantity for quantity in quantities if quantity.name in used),
        "questions": questions,
        "looks": LOOKS,
    }


def at_reference(axes: Iterable[Axis], *apart: str) -> dict[str, Any]:
    """A question's `where`: the first value of every axis that varies, without those of these names."""
    return {axis.name: axis.values[0] for axis in axes if len(axis.values) > 1 and axis.name not in apart}


def effects(axes: Iterable[Axis], quantity: Quantity, at: dict[str, Any]) -> list[Question]:
    """How each axis that varies changes the quantity: the trend over a dose where the others are as in `at`; otherwise
    each further value against the first, paired by what else trials are."""
    found: list[Question] = []
    for axis in axes:
        name, label = f"{quantity.name}_by_{axis.name}", f"{axis.label}: does it change {quantity.label}?"
        first, *further = axis.values
        if axis.role == "dose" and further:
            scale = "log" if axis.scale == "log" else "linear"
            where = {key: value for key, value in at.items() if key != axis.name}
            found.append(
                Trend(name=name, label=label, quantity=quantity.name, axis=axis.name, scale=scale, where=where)
            )
        elif axis.role != "replicate":
            found += [
                Contrast(
                    name=f"{name}_{renamed(str(value))}", quantity=quantity.name, axis=axis.name, high=value, low=first,
                    label=f"{axis.label} {value} instead of {first}: does it change {quantity.label}?",
                )
                for value in further
            ]  # fmt: skip
    return found
