from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from halflife.store.plan import Plan
from halflife.store.stage import Outcome, Progress
from halflife.store.store import Store
from halflife.sweep import machine, paces
from halflife.sweep.estimate import STARTUP_SECONDS
from halflife.sweep.live import View
from halflife.sweep.paces import STAGE_SECONDS, STOPPED_PART, assumed_seconds, seconds_of
from tests.sweep.fakes import Fake
from tests.sweep.helpers import study

PLANNED = 100.0
"""Seconds that each Fake of 0.05 s is assumed to take."""


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which nothing else runs, and stages that take a while."""
    monkeypatch.setattr(machine, "core_share", lambda processes: 1.0)
    monkeypatch.setattr(paces, "assumed_flops", lambda device: 5e4 / (PLANNED - STAGE_SECONDS))


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
    lines = setting.file.getvalue().splitlines()
    assert lines == ["0/6 stages done · 0 running · about 10 min 0 s left (a guess)"] * 4


def test_before_anything_moves_the_start_of_processes_is_still_to_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    setting = Setting(tmp_path)
    assert setting.view.seconds_left([]) == pytest.approx(6 * PLANNED + STARTUP_SECONDS)
    setting.clock.now = 10.0
    assert setting.view.seconds_left([]) == pytest.approx(6 * PLANNED + STARTUP_SECONDS - 10)
    monkeypatch.setattr(machine, "core_share", lambda processes: 0.25)
    assert setting.view.seconds_left([]) == pytest.approx(4 * (6 * PLANNED + STARTUP_SECONDS), rel=0.02)


def test_before_a_stage_has_ended_the_time_left_is_called_a_guess(tmp_path: Path):
    setting = Setting(tmp_path)
    first = setting.plan.take()
    assert first
    assert setting.view.line([(first, Progress(done=1, total=2))]).endswith(" left (a guess)")
    setting.plan.completed(first.key, Outcome(status="complete", attempt="a", summary={}))
    assert setting.view.line([]).endswith(" left")


def test_the_start_of_processes_does_not_count_as_slow_work(tmp_path: Path):
    setting = Setting(tmp_path)
    first = setting.plan.take()
    assert first
    running = [(first, Progress(done=0, total=10))]
    setting.view.running = lambda: running  # type: ignore[method-assign]
    setting.clock.now = 60.0
    setting.view.refresh()
    running[0] = (first, Progress(done=1, total=10))
    setting.clock.now = 76.0
    setting.view.refresh()  # it moves
    running[0] = (first, Progress(done=6, total=10))
    setting.clock.now = 126.0
    assert setting.view.seconds_left(running) == pytest.approx(540.0)  # half a stage in 50 s, 5.4 stages left


def test_a_resumed_stage_of_which_little_was_left_does_not_set_the_speed(tmp_path: Path):
    """Seen: 245 stages were said to take 97 hours, and a moment later 13 minutes."""
    setting = Setting(tmp_path)
    first = setting.plan.take()
    assert first
    running = [(first, Progress(done=999, total=1000))]
    setting.view.running = lambda: running  # type: ignore[method-assign]
    setting.clock.now = 15.0
    setting.view.refresh()
    setting.plan.completed(first.key, Outcome(status="complete", attempt="a", summary={}))
    running.clear()
    setting.clock.now = 30.0
    assert setting.view.seconds_left([]) == pytest.approx(5 * PLANNED, rel=0.5)


def test_a_stage_that_reports_no_progress_is_taken_to_go_as_planned(tmp_path: Path):
    setting = Setting(tmp_path)
    setting.complete_one()
    second = setting.plan.take()
    assert second
    setting.view.running = lambda: [(second, Progress())]  # type: ignore[method-assign]
    for now in (15.0, 30.0, 45.0, 60.0):
        setting.clock.now = now
        setting.view.refresh()
    assert setting.view.seconds_left([(second, Progress())]) == pytest.approx(4 * PLANNED + 55, rel=0.1)


@given(
    pace=st.floats(0.6, 12.0),  # a first stage of at least 20 s
    lengths=st.lists(st.floats(0.1, 3.0), min_size=2, max_size=30),
    first=st.floats(1.0, 3.0),
    slots=st.integers(1, 3),
)
def test_from_the_first_finished_stage_on_the_time_left_is_within_a_factor_of_one_and_a_half(
    tmp_path_factory: pytest.TempPathFactory, pace: float, lengths: list[float], first: float, slots: int
):
    """Whatever the machine: stages of one group, so many times as slow as assumed."""
    root = tmp_path_factory.mktemp("plan")
    plan = Plan([Fake(name=str(n), seconds=0.05 * part) for n, part in enumerate([first, *lengths])], Store(root))
    clock, parts = Clock(), dict(enumerate([first, *lengths]))
    view = View(plan, Store(root), Console(file=io.StringIO()), clock=clock, slots=slots)
    view.running = list  # type: ignore[method-assign]
    total, spent = pace * PLANNED * sum(parts.values()) / slots, 0.0
    for stage in sorted(iter(plan.take, None), key=lambda stage: int(stage.name))[:-1]:  # type: ignore[attr-defined]
        seconds = pace * PLANNED * parts[int(stage.name)]  # type: ignore[attr-defined]
        spent += seconds / slots
        clock.now = spent
        plan.completed(
            stage.key, Outcome(status="complete", attempt="a", summary={"seconds_training": seconds, "tokens": 5})
        )
        assert (total - spent) / 1.5 <= view.seconds_left([]) <= (total - spent) * 1.5
        view.refresh()


@dataclass(frozen=True, kw_only=True)
class Stopping(Fake):
    """May end early."""

    kind: ClassVar[str] = "stopping"
    until: str = "learned"


def test_stages_that_may_stop_early_take_the_part_that_those_like_them_took(tmp_path: Path):
    plan = Plan([Stopping(name=name) for name in "abc"], Store(tmp_path))
    first = plan.take()
    assert first
    work = assumed_seconds(first, "cpu")
    assert seconds_of(plan, "cpu", 1)(first) == pytest.approx(STAGE_SECONDS + STOPPED_PART * work)  # nothing is known
    plan.completed(first.key, Outcome(status="complete", attempt="a", summary={"tokens": 1}))
    assert seconds_of(plan, "cpu", 1)(first) == pytest.approx(STAGE_SECONDS + work / first.cost.tokens)


def test_the_line_counts_what_is_done_failed_blocked_and_troubled(tmp_path: Path):
    setting = Setting(tmp_path)
    setting.complete_one()
    trunk = setting.plan.take()
    assert trunk
    setting.plan.failed(trunk.key, "as asked")
    setting.trouble = "the server is down"
    shown = setting.view.line([]).split(" · ")
    assert shown[:4] == ["1/6 stages done", "0 running", "1 failed", "2 blocked"]
    assert shown[-1] == "tracking store: the server is down"


@dataclass(frozen=True, kw_only=True)
class Slow(Fake):
    """As many FLOPs as a Fake, in ten times the time."""

    kind: ClassVar[str] = "slow"


def test_groups_of_stages_have_paces_of_their_own(tmp_path: Path):
    setting = Setting(tmp_path)
    setting.plan.add([Slow(name="c"), Slow(name="d")], Store(tmp_path))
    while stage := setting.plan.take():
        if not (isinstance(stage, Slow) and stage.name == "d"):
            summary = {"seconds_training": 10 * PLANNED if stage.kind == "slow" else PLANNED, "tokens": 5}
            setting.plan.completed(stage.key, Outcome(status="complete", attempt="a", summary=summary))
    assert seconds_of(setting.plan, "cpu", 1)(Slow(name="d")) == pytest.approx(10 * PLANNED, rel=0.02)
    assert seconds_of(setting.plan, "cpu", 1)(Fake(name="e")) == pytest.approx(PLANNED, rel=0.02)


def test_a_stage_of_a_moment_says_little_of_the_pace_of_its_group(tmp_path: Path):
    plan = Plan([Fake(name="long"), Fake(name="short", seconds=5e-5)], Store(tmp_path))
    short = next(stage for stage in iter(plan.take, None) if stage.cost.flops < 1e3)
    slow = {"seconds_training": 1.0, "tokens": 5}  # ten times what was assumed
    plan.completed(short.key, Outcome(status="complete", attempt="a", summary=slow))
    assert PLANNED < seconds_of(plan, "cpu", 1)(Fake(name="long")) < 4 * PLANNED


def test_blocked_work_is_not_waited_for(tmp_path: Path):
    setting = Setting(tmp_path)
    one, two = setting.plan.take(), setting.plan.take()
    assert one
    assert two
    setting.plan.completed(one.key, Outcome(status="complete", attempt="a", summary={}))
    setting.plan.failed(two.key, "as asked")
    setting.view.refresh()
    assert setting.view.seconds_left([]) == pytest.approx(2 * PLANNED + STARTUP_SECONDS)  # branches of the first trunk


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
