from __future__ import annotations

import threading
from pathlib import Path

from halflife.errors import UserError
from halflife.sweep.redrawing import Redrawing


class Drawing:
    """A report that takes `seconds`, on a clock that is set."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.now, self.seconds, self.count = 0.0, seconds, 0
        self.told: list[str] = []
        self.error: Exception | None = None
        self.redrawing = Redrawing(self.draw, self.told.append, lambda: self.now)

    def draw(self) -> Path:
        self.count += 1
        self.now += self.seconds
        if self.error:
            raise self.error
        return Path("/results/report.html")

    def at(self, now: float, ended: int) -> int:
        self.now = max(now, self.now)
        self.redrawing.update(ended)
        self.redrawing.close()
        return self.count


def test_it_draws_when_the_first_stage_has_ended_then_at_most_every_20_s_and_only_what_is_new():
    drawing = Drawing()
    moments = ((5, 0), (6, 1), (7, 2), (25, 2), (26, 2), (80, 2), (81, 3))
    assert [drawing.at(now, ended) for now, ended in moments] == [0, 1, 1, 1, 2, 2, 3]
    assert drawing.told == []


def test_it_takes_at_most_two_percent_of_the_time():
    drawing = Drawing(seconds=3.0)
    counts = [drawing.at(float(second), second) for second in range(150 * 4)]
    assert counts[-1] - 1 == 4  # the first, which imports, apart


def test_update_returns_while_a_report_is_drawn():
    go, drawing = threading.Event(), Drawing()

    def draw() -> Path:
        go.wait(10)
        return drawing.draw()

    redrawing = Redrawing(draw, drawing.told.append, lambda: drawing.now)
    drawing.now = 20.0
    redrawing.update(1)
    redrawing.update(2)  # one at a time
    assert drawing.count == 0
    go.set()
    redrawing.close()
    assert drawing.count == 1


def test_what_keeps_it_from_drawing_is_told_once_and_ends_nothing():
    drawing = Drawing()
    drawing.error = UserError("no measured points")
    drawing.at(20, 1)
    drawing.at(60, 2)
    drawing.error = KeyError("column")
    drawing.at(100, 3)
    assert drawing.told == ["no report yet: no measured points", "the report cannot be drawn: KeyError: 'column'"]
    drawing.redrawing.close(again=True)
    assert drawing.count == 3  # none was drawn, so none is left behind


def test_a_stopped_sweep_is_drawn_once_more():
    drawing = Drawing()
    drawing.at(20, 1)
    drawing.redrawing.close(again=True)
    assert drawing.count == 2
