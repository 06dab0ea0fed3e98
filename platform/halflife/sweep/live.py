"""The live view of a running sweep: an updating table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
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
from halflife.sweep.estimate import STARTUP_SECONDS
from halflife.sweep.paces import free_share, seconds_of
from halflife.sweep.report import duration

_TERMINAL_SECONDS, _PLAIN_SECONDS = 0.5, 15.0
_ROWS = 16
"""Maximum number of running stages in the table."""
_WINDOW_SECONDS = 300.0
"""Speed is that of the last five minutes: what else the machine does changes."""
_MARK_SECONDS = 5.0
_EXPECTED_SECONDS = 30.0
"""Of work, for which the planned speed counts beside the one seen: one small stage says little."""
_UNSEEN = 0.9
"""Of a stage that reports no progress, what may count as done before it ends."""


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
        self._began, self._first_seen = self._clock(), dict[str, float]()
        self._marks = deque[tuple[float, dict[str, float]]]()
        """Times within the window, and what was done of which stages, from the first progress on: what comes before,
        the start of Ray and imports, is paid once."""

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
        if now - self._shown < self._every:
            return
        self._shown = now
        running = self.running()
        self._mark(now, running)
        if self._live:
            self._live.update(Group(self._head(running), self._table(running)), refresh=True)
        else:
            self._console.print(self.line(running), markup=False, highlight=False)

    def _mark(self, now: float, running: list[tuple[Stage, Progress]]) -> None:
        moves = self._marks or self._ended or any(progress.done for _, progress in running)
        if moves and not (self._marks and now < self._marks[-1][0] + _MARK_SECONDS):
            self._marks.append((now, self._done(running, self._work())))
        while len(self._marks) > 1 and self._marks[1][0] <= now - _WINDOW_SECONDS:
            self._marks.popleft()

    def _work(self) -> Callable[[Stage], float]:
        return seconds_of(self._plan, self._device, self._slots)

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
        left, guess = self.seconds_left(running), " (a guess)" * (not self._ended)
        counts += [f"about {duration(left)} left{guess}"] if left >= 1 else []
        trouble = self._trouble()
        counts += [f"tracking store: {trouble}"] if trouble else []
        search = self._search()
        return " · ".join([search, *counts] if search else counts)

    def seconds_left(self, running: list[tuple[Stage, Progress]]) -> float:
        """At the planned speed, corrected by that of the last minutes. Before a stage of this sweep has ended, what an
        evaluation costs and where stages stop is not known: then it is a guess."""
        work, now = self._work(), self._clock()
        done = self._done(running, work)
        left = sum(work(self._plan.stages[key]) for key in self._to_do) + self._future_work(work)
        left -= sum(work(stage) * done[stage.key] for stage, _ in running)
        if left <= 0:
            return 0.0
        if not self._marks:
            start = STARTUP_SECONDS / free_share(self._device, self._slots)
            return left / self._slots + max(0.0, start - (now - self._began))
        then, before = self._marks[0]
        seen = sum(work(self._plan.stages[key]) * (part - before.get(key, 0.0)) for key, part in done.items())
        return left * (now - then + _EXPECTED_SECONDS / self._slots) / (max(0.0, seen) + _EXPECTED_SECONDS)

    @property
    def _ended(self) -> bool:
        """Whether a stage of this sweep has an outcome."""
        return bool(self._plan.outcomes.keys() - self._plan.cached)

    @property
    def _to_do(self) -> list[str]:
        lost = self._plan.blocked.keys() | self._plan.failures.keys()
        return [stage.key for stage in self._plan.missing if stage.key not in lost]

    def _done(self, running: list[tuple[Stage, Progress]], work: Callable[[Stage], float]) -> dict[str, float]:
        """What is done of the stages that this sweep has begun; of one that does not say, as much as was planned for
        its time."""
        done, now = dict.fromkeys(self._plan.outcomes.keys() - self._plan.cached, 1.0), self._clock()
        for stage, progress in running:
            since = self._first_seen.setdefault(stage.key, now) if self._marks else now
            planned = min(_UNSEEN, (now - since) / work(stage))
            done[stage.key] = _share(progress) if progress.total else planned
        return done

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
