"""The live view of a running sweep: an updating table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import fmean
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from halflife.store.plan import Plan
from halflife.store.stage import Progress, Stage
from halflife.store.store import Store
from halflife.sweep.estimate import assumed_seconds, measured_paces, pace_group
from halflife.sweep.report import duration

_TERMINAL_SECONDS, _PLAIN_SECONDS = 0.5, 15.0
_ROWS = 16
"""Maximum number of running stages in the table."""
_MIN_DONE = 0.05
"""Fraction of the first stages that must be done before their speed counts: before that, imports dominate."""


class View:
    """Follows a plan. A context manager; `refresh` is cheap and may be called at any rate."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        console: Console,
        *,
        title: Callable[[Stage], str] = lambda stage: stage.label,
        trouble: Callable[[], str | None] = lambda: None,
        search: Callable[[], str] = lambda: "",
        future_work: Callable[[Callable[[Stage], float]], float] = lambda work: 0.0,
        device: str = "cpu",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan, self._store, self._console, self._clock = plan, store, console, clock
        self._title, self._trouble = title, trouble
        self._search, self._future_work, self._device = search, future_work, device
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._every = _TERMINAL_SECONDS if self._live else _PLAIN_SECONDS
        self._shown = self._clock()
        self._began: float | None = None

    def __enter__(self) -> View:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def note(self, text: str) -> None:
        """Print a permanent line."""
        self._console.print(text, style="dim", markup=False, highlight=False)

    def refresh(self) -> None:
        """Show the current state, if the last refresh is long enough ago."""
        now = self._clock()
        if self._began is None and self._plan.running:
            self._began = now
        if now - self._shown < self._every:
            return
        self._shown = now
        running = self.running()
        if self._live:
            self._live.update(Group(self._head(running), self._table(running)), refresh=True)
        else:
            self._console.print(self.line(running), markup=False, highlight=False)

    def running(self) -> list[tuple[Stage, Progress]]:
        """Running stages, and the progress of each from its lease."""
        found = []
        for stage in self._plan.running:
            lease = self._store.holder(stage)
            found.append((stage, lease.progress if lease else Progress()))
        return sorted(found, key=lambda item: self._title(item[0]))

    def line(self, running: list[tuple[Stage, Progress]]) -> str:
        """The current state in one line."""
        plan = self._plan
        counts = [f"{len(plan.outcomes)}/{len(plan.stages)} stages done", f"{len(running)} running"]
        counts += [f"{len(plan.cached)} cached"] if plan.cached else []
        counts += [f"{len(plan.failures)} failed"] if plan.failures else []
        counts += [f"{len(plan.blocked)} blocked"] if plan.blocked else []
        rate = sum(progress.rate for _, progress in running)
        counts += [f"{rate:,.0f} tokens/s"] if rate else []
        left = self.seconds_left(running)
        counts += [f"about {duration(left)} left"] if left is not None else []
        trouble = self._trouble()
        counts += [f"tracking store: {trouble}"] if trouble else []
        search = self._search()
        return " · ".join([search, *counts] if search else counts)

    def seconds_left(self, running: list[tuple[Stage, Progress]]) -> float | None:
        """Estimated from the work done since the first stage started; None until enough is done.

        The work of a stage is its assumed time, scaled by the measured pace of complete stages of its group."""
        plan, paces = self._plan, measured_paces(self._plan, self._device)
        usual = fmean(paces.values()) if paces else 1.0

        def work(stage: Stage) -> float:
            return assumed_seconds(stage, self._device) * paces.get(pace_group(stage), usual)

        left = sum(
            work(stage) for stage in plan.missing if stage.key not in plan.blocked and stage.key not in plan.failures
        )
        under_way = sum(work(stage) * progress.done / progress.total for stage, progress in running if progress.total)
        done = under_way + sum(work(plan.stages[key]) for key in plan.outcomes.keys() - plan.cached)
        started = sum(work(stage) for stage, _ in running)
        if self._began is None or done <= 0 or (done == under_way and done < _MIN_DONE * started):
            return None
        return (left - under_way + self._future_work(work)) * (self._clock() - self._began) / done

    def _head(self, running: list[tuple[Stage, Progress]]) -> Text:
        return Text(self.line(running), style="bold")

    def _table(self, running: list[tuple[Stage, Progress]]) -> Table:
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for stage, progress in running[:_ROWS]:
            share = progress.done / progress.total if progress.total else 0.0
            rate = f"{progress.rate:,.0f} tokens/s" if progress.rate else "starting"
            table.add_row(
                Text(self._title(stage)), ProgressBar(total=1.0, completed=share, width=24), f"{share:4.0%}", rate
            )
        if len(running) > _ROWS:
            table.add_row(f"and {len(running) - _ROWS} more")
        return table
