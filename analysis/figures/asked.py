"""One figure per kind of question: `table(answer, data)`, `draw(table, answer, declaration)`, and a caption.

`asked_KIND.py` draws the kind of its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from types import ModuleType

    import polars as pl
    from matplotlib.figure import Figure

    from analysis.answers.questions import Answer
    from analysis.runs.study import StudyData
    from halflife.tracking.schema import Declaration


def _module(answer: Answer) -> ModuleType:
    return import_module(f"{__name__}_{answer.question.kind}")


def table(answer: Answer, data: StudyData) -> pl.DataFrame:
    """What the figure shows; empty if no seed has a number."""
    import polars as pl

    return pl.DataFrame() if answer.used.is_empty() else _module(answer).table(answer, data)


def draw(table: pl.DataFrame, answer: Answer, declaration: Declaration) -> Figure:
    return _module(answer).draw(table, answer, declaration)


def caption(answer: Answer, declaration: Declaration) -> str:
    """What the figure shows, with the study's own labels."""
    from analysis.figures.scale import axis_of, capital

    question = answer.question
    labels = [quantity.label for quantity in answer.quantities]
    axes = [axis_of(name, declaration).label for name in (*question.axes, *question.values)]
    words = {
        "quantity": labels[0] if labels else "", "other": labels[-1] if labels else "",
        "axis": axes[0][:1].lower() + axes[0][1:] if axes else "",
    }  # fmt: skip
    for outcome in declaration.outcomes:
        if outcome.name in question.outcomes:
            words |= {
                "skill": outcome.skill,
                "answer": outcome.answer,
                "success": outcome.label[:1].lower() + outcome.label[1:],
            }
    return capital(_module(answer).CAPTION.format(**words))


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question's figure, to be drawn as any other: it has what `figures.Recipe` has."""

    answer: Answer
    declaration: Declaration
    outcome: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return self.answer.question.name

    @property
    def title(self) -> str:
        return _braces(self.answer.question.label)

    @property
    def nothing(self) -> str:
        return _braces(self.answer.problem or "no trial has a number")

    @property
    def caption(self) -> str:
        return _braces(caption(self.answer, self.declaration))

    def table(self, data: StudyData) -> pl.DataFrame:
        return table(self.answer, data)

    def draw(self, table: pl.DataFrame) -> Figure:
        return draw(table, self.answer, self.declaration)


def _braces(text: str) -> str:
    """For texts that are formatted with the study's vocabulary."""
    return text.replace("{", "{{").replace("}", "}}")
