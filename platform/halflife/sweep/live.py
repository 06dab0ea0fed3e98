"""The live view of a running sweep: an updating table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from halflife.store.plan import Plan
from halflife.store.stage import Progress, Stage
from halflife.store.store import Store
from halflife.sweep.estimate import seconds_of
from halflife.sweep.report import duration

_TERMINAL_SECONDS, _PLAIN_SECONDS = 0.5, 15.0
_ROWS = 16
"""Maximum number of running stages in the table."""
_MIN_DONE = 0.05
"""Fraction of the first stages that must be done before their speed counts."""


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
        slots: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan, self._store, self._console, self._clock = plan, store, console, clock
        self._title, self._trouble = title, trouble
        self._search, self._future_work, self._device, self._slots = search, future_work, device, slots
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._every = _TERMINAL_SECONDS if self._live else _PLAIN_SECONDS
        self._shown = self._clock()
        self._began: float | None = None
        self._before = 0.0
        """Work that was done when it began."""
        self._moving = False

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
        if not self._moving and self._plan.running:
            self._watch_start(now)
        if now - self._shown < self._every:
            return
        self._shown = now
        running = self.running()
        if self._live:
            self._live.update(Group(self._head(running), self._table(running)), refresh=True)
        else:
            self._console.print(self.line(running), markup=False, highlight=False)

    def _watch_start(self, now: float) -> None:
        """Speed counts from the first progress on: what comes before, the start of Ray and imports, is paid once."""
        running = self.running()
        progress = any(progress.done for _, progress in running)
        if self._began is None or (progress and not self._ended):
            self._began, self._before = now, self._done(running)
        self._moving = progress or self._ended

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
        guess = left is None or not self._ended
        left = self._left(running) / self._slots if left is None else left
        counts += [f"about {duration(left)} left{' (a guess)' if guess else ''}"] if left >= 1 else []
        trouble = self._trouble()
        counts += [f"tracking store: {trouble}"] if trouble else []
        search = self._search()
        return " · ".join([search, *counts] if search else counts)

    def seconds_left(self, running: list[tuple[Stage, Progress]]) -> float | None:
        """From the work done since the first stage moved; None until enough is done. Before a stage of this sweep has
        ended, what an evaluation costs and where stages stop is not known: then it is a guess."""
        done, work = self._done(running) - self._before, seconds_of(self._plan, self._device)
        enough = 0.0 if self._ended else _MIN_DONE * sum(work(stage) for stage, _ in running)
        if self._began is None or done <= 0 or done < enough:
            return None
        return self._left(running) * (self._clock() - self._began) / done

    @property
    def _ended(self) -> bool:
        """Whether a stage of this sweep has an outcome."""
        return bool(self._plan.outcomes.keys() - self._plan.cached)

    def _done(self, running: list[tuple[Stage, Progress]]) -> float:
        """Seconds of work on one slot that this sweep has done."""
        plan, work = self._plan, seconds_of(self._plan, self._device)
        under_way = sum(work(stage) * _share(progress) for stage, progress in running)
        return under_way + sum(work(plan.stages[key]) for key in plan.outcomes.keys() - plan.cached)

    def _left(self, running: list[tuple[Stage, Progress]]) -> float:
        """Seconds of work on one slot that are left."""
        plan, work = self._plan, seconds_of(self._plan, self._device)
        lost = plan.blocked.keys() | plan.failures.keys()
        missing = sum(work(stage) for stage in plan.missing if stage.key not in lost)
        under_way = sum(work(stage) * _share(progress) for stage, progress in running)
        return missing - under_way + self._future_work(work)

    def _head(self, running: list[tuple[Stage, Progress]]) -> Text:
        return Text(self.line(running), style="bold")

    def _table(self, running: list[tuple[Stage, Progress]]) -> Table:
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for stage, progress in running[:_ROWS]:
            share = _share(progress)
            rate = f"{progress.rate:,.0f} tokens/s" if progress.rate else "starting"
            table.add_row(
                Text(self._title(stage)), ProgressBar(total=1.0, completed=share, width=24), f"{share:4.0%}", rate
            )
        if len(running) > _ROWS:
            table.add_row(f"and {len(running) - _ROWS} more")
        return table


def _share(progress: Progress) -> float:
    return progress.done / progress.total if progress.total else 0.0
