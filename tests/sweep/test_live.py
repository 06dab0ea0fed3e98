from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from rich.console import Console

from halflife.store.plan import Plan
from halflife.store.stage import Outcome, Progress
from halflife.store.store import Store
from halflife.sweep.estimate import assumed_seconds, seconds_of
from halflife.sweep.live import View
from tests.sweep.fakes import Fake
from tests.sweep.helpers import study


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Setting:
    """A plan of 2 trunks with 2 branches each, a view of it, and what the view has printed."""

    def __init__(self, root: Path, *, terminal: bool = False) -> None:
        self.plan = Plan(study(trunks=2, branches=2).stages, Store(root))
        self.file, self.clock = io.StringIO(), Clock()
        self.trouble: str | None = None
        console = Console(file=self.file, force_terminal=terminal, width=200, color_system=None)
        self.view = View(self.plan, Store(root), console, trouble=lambda: self.trouble, clock=self.clock)

    def complete_one(self) -> None:
        stage = self.plan.take()
        assert stage
        self.plan.completed(stage.key, Outcome(status="complete", attempt="a", summary={}))


def test_plain_lines_come_every_quarter_minute(tmp_path: Path):
    setting = Setting(tmp_path)
    with setting.view:
        for second in range(61):
            setting.clock.now = float(second)
            setting.view.refresh()
    assert setting.file.getvalue().splitlines() == ["0/6 stages done · 0 running"] * 4  # of no work


def test_before_a_stage_has_ended_the_time_left_is_called_a_guess(tmp_path: Path):
    setting = Setting(tmp_path)
    first, other = setting.plan.take(), setting.plan.take()
    assert first
    assert other
    setting.view.refresh()
    setting.clock.now = 10.0
    half = [(first, Progress(done=1, total=2)), (other, Progress(done=1, total=2))]
    assert setting.view.line(half).endswith("about 50 s left (a guess)")
    setting.plan.completed(first.key, Outcome(status="complete", attempt="a", summary={}))
    assert setting.view.line([]).endswith("about 50 s left")


def test_the_start_of_processes_does_not_count_as_slow_work(tmp_path: Path):
    setting = Setting(tmp_path)
    first = setting.plan.take()
    assert first
    setting.view.refresh()
    running = [(first, Progress(done=0, total=10))]
    setting.view.running = lambda: running  # type: ignore[method-assign]
    setting.clock.now = 60.0
    setting.view.refresh()
    running[0] = (first, Progress(done=1, total=10))
    setting.clock.now = 61.0
    setting.view.refresh()  # it moves
    running[0] = (first, Progress(done=6, total=10))
    setting.clock.now = 66.0
    assert setting.view.seconds_left(running) == pytest.approx(54.0)  # half a stage in 5 s, 5.4 stages left


@dataclass(frozen=True, kw_only=True)
class Stopping(Fake):
    """May end early."""

    kind: ClassVar[str] = "stopping"
    until: str = "learned"


def test_stages_that_may_stop_early_take_the_part_that_those_like_them_took(tmp_path: Path):
    setting = Setting(tmp_path)
    plan = Plan([Stopping(name=name) for name in "abc"], Store(tmp_path))
    view = View(plan, Store(tmp_path), Console(file=setting.file), clock=setting.clock)
    first = plan.take()
    assert first
    view.refresh()
    setting.clock.now = 10.0
    plan.completed(first.key, Outcome(status="complete", attempt="a", summary={"tokens": 1}))
    assert view.seconds_left([]) == pytest.approx(20.0)
    assert seconds_of(plan, "cpu")(first) == pytest.approx(assumed_seconds(first, "cpu") / first.cost.tokens)


def test_the_line_counts_what_is_done_failed_blocked_and_troubled(tmp_path: Path):
    setting = Setting(tmp_path)
    setting.complete_one()
    trunk = setting.plan.take()
    assert trunk
    setting.plan.failed(trunk.key, "as asked")
    setting.trouble = "the server is down"
    expected = "1/6 stages done · 0 running · 1 failed · 2 blocked · tracking store: the server is down"
    assert setting.view.line([]) == expected


def test_the_end_is_estimated_from_the_work_done_so_far(tmp_path: Path):
    setting = Setting(tmp_path)
    assert setting.view.seconds_left([]) is None
    first = setting.plan.take()
    assert first
    setting.view.refresh()  # sees the first stage start
    setting.clock.now = 10.0
    assert setting.view.seconds_left([(first, Progress(done=1, total=100, rate=7.0))]) is None  # mostly imports
    half = [(first, Progress(done=1, total=2, rate=7.0))]
    assert setting.view.seconds_left(half) == pytest.approx(110.0)  # half a stage of six in 10 s
    setting.plan.completed(first.key, Outcome(status="complete", attempt="a", summary={}))
    assert setting.view.seconds_left([]) == pytest.approx(50.0)


@dataclass(frozen=True, kw_only=True)
class Slow(Fake):
    """As many FLOPs as a Fake, in ten times the time."""

    kind: ClassVar[str] = "slow"


def test_groups_of_stages_are_weighted_by_their_measured_pace(tmp_path: Path):
    setting = Setting(tmp_path)
    setting.plan.add([Slow(name="c"), Slow(name="d")], Store(tmp_path))
    while stage := setting.plan.take():
        setting.view.refresh()
        setting.clock.now += 10.0 if stage.kind == "slow" else 1.0
        if not (isinstance(stage, Slow) and stage.name == "d"):
            summary = {"seconds_training": 10.0 if stage.kind == "slow" else 1.0, "tokens": 5}
            setting.plan.completed(stage.key, Outcome(status="complete", attempt="a", summary=summary))
    setting.clock.now = 16.0  # as long as the six others and one slow stage took
    assert setting.view.seconds_left([]) == pytest.approx(10.0)


def test_blocked_work_is_not_waited_for(tmp_path: Path):
    setting = Setting(tmp_path)
    one, two = setting.plan.take(), setting.plan.take()
    assert one
    assert two
    setting.view.refresh()
    setting.clock.now = 10.0
    setting.plan.completed(one.key, Outcome(status="complete", attempt="a", summary={}))
    setting.plan.failed(two.key, "as asked")
    assert setting.view.seconds_left([]) == pytest.approx(20.0)  # two branches of the first trunk


def test_a_terminal_shows_the_running_stages_by_name(tmp_path: Path):
    setting = Setting(tmp_path, terminal=True)
    with setting.view:
        stage = setting.plan.take()
        assert stage
        setting.clock.now = 1.0
        setting.view.refresh()
        shown = setting.file.getvalue()
    assert stage.label in shown
    assert "1 running" in shown
