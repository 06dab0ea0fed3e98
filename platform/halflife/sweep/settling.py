"""--settle: seeds are added, from each declared look to the next, until every primary question is answered."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from halflife.errors import UserError
from halflife.store.identity import key_of
from halflife.store.stage import Stage
from halflife.store.store import Store
from halflife.sweep import report
from halflife.sweep.estimate import estimate
from halflife.sweep.placement import Placements
from halflife.sweep.publishing import Publishing
from halflife.sweep.report import duration
from halflife.sweep.reporting import Answered
from halflife.sweep.state import SweepState
from halflife.sweep.study import Study


@dataclass(frozen=True, kw_only=True)
class Settle:
    """A study whose number of seeds grows. Raises UserError when it declares nothing that could be settled."""

    study_of: Callable[[int], Study]
    """The study with this many seeds. More seeds keep the trials of fewer."""
    looks: tuple[int, ...]
    """Declared numbers of seeds at which the questions are looked at."""
    answers: Callable[[str], tuple[Answered, ...]]
    """Of the published runs, by the sweep's digest."""
    most: int | None = None
    """Seeds at most; by default those of the last look."""
    seconds: float | None = None
    """Wall time of this command within which a further look has to be done."""

    def __post_init__(self) -> None:
        if not self.looks:
            raise UserError(
                "--settle: the study declares no looks, the numbers of seeds at which it may stop: expected `looks` in "
                "its declaration, such as (5, 8, 12)"
            )
        if self.most is not None and self.most < self.looks[0]:
            raise UserError(f"--max-seeds {self.most}: expected at least the {self.looks[0]} seeds of the first look")
        if not any(question.primary for question in self.first.declaration.questions):
            raise UserError("--settle: the study declares no primary question: expected one with primary=True")

    @property
    def planned(self) -> tuple[int, ...]:
        """The looks that may be reached."""
        return tuple(seeds for seeds in self.looks if self.most is None or seeds <= self.most)

    def named(self, seeds: int) -> str:
        """ "look 2 of 3, at 8 seeds"."""
        return f"look {self.looks.index(seeds) + 1} of {len(self.looks)}, at {seeds} seeds"

    @property
    def first(self) -> Study:
        return self.at(self.looks[0])

    def at(self, seeds: int) -> Study:
        """The study at a look, with the same identity at every one: one sweep that grows."""
        return replace(self.study_of(seeds), identity=key_of({"settle": self.study_of(self.looks[0]).key}))


def costs(settle: Settle, store: Store, placements: Placements) -> list[str]:
    """What each look adds, for a dry run, and what stops it."""
    primary = [question.label for question in settle.first.declaration.questions if question.primary]
    lines, stages, seconds = [], 0, 0.0
    for seeds in settle.planned:
        study = settle.at(seeds)
        found = estimate(study, SweepState(study, store).plan, placements)
        own, took = found.total.missing - stages, duration(max(0.0, found.seconds - seconds))
        cost = f"{own} more stages, about {took} more, {duration(found.seconds)} in all"
        lines.append(f"{settle.named(seeds)}: {cost if lines else f'{own} stages, about {took}'}")
        stages, seconds = found.total.missing, found.seconds
    return [*lines, f"it stops at the first look that answers {' and '.join(f'“{label}”' for label in primary)}"]


class Settling(SweepState):
    """Looks when all seeds of a look are complete. A question that an earlier look answered stays answered, so the
    same command takes the same decisions again."""

    def __init__(
        self,
        settle: Settle,
        store: Store,
        *,
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(settle.first, store)
        self._settle, self._tell, self._clock = settle, tell, clock
        self._began = clock()
        self._ahead = list(settle.planned)
        self._publishing: Publishing | None = None
        self._slots = 1
        self._over = False
        self._findings: list[str] = []
        self.complete = False

    @property
    def stages(self) -> Sequence[Stage]:
        """Also those that are complete: a later look has the same for other seeds."""
        return self.study.stages

    def begin(self, publishing: Publishing, slots: int) -> None:
        self._publishing, self._slots = publishing, slots

    def feed(self) -> bool:
        while not self._over and self.plan.finished:
            self._look()
        return not self._over

    def line(self) -> str:
        return f"{self._ahead[0]} seeds" if self._ahead else ""

    def findings(self) -> list[str]:
        return self._findings

    def _look(self) -> None:
        """Answer the questions, and stop or add the seeds of the next look."""
        assert self._publishing is not None, "feed before begin"
        seeds = self._ahead.pop(0)
        if failures := len(self.plan.failures):
            self._stop(f"no look at {seeds} seeds: {failures} stage{'s' * (failures != 1)} failed")
            return
        self._publishing.update()
        self._publishing.drain()
        primary = [answer for answer in self._settle.answers(self.study.key) if answer.primary]
        for answer in primary:
            self._tell(f"{self._settle.named(seeds)}: {answer.sentence}")
        undecided = [answer for answer in primary if answer.verdict == "undecided"]
        if not all(answer.valid for answer in primary):
            self._stop(f"not settled at {seeds} seeds: a required check fails, and more seeds would not mend it")
        elif not undecided:
            self.complete = True
            self._stop(f"settled at {seeds} seeds: every primary question is answered")
        elif not self._ahead:
            within = f" within --max-seeds {self._settle.most}" * (self._settle.planned != self._settle.looks)
            self._stop(
                f"not settled at {seeds} seeds, the last look{within}: {len(undecided)} of {len(primary)} primary "
                f"question{'s' * (len(primary) != 1)} undecided"
            )
        elif (text := self._beyond_budget(seeds)) is not None:
            self._stop(text)
        else:
            self._grow()

    def _stop(self, finding: str) -> None:
        self._over = True
        self._findings.append(finding)

    def _beyond_budget(self, seeds: int) -> str | None:
        """Why the next look would take too long, by what the seeds so far took."""
        if self._settle.seconds is None:
            return None
        each = report.compute_seconds(self.plan, set(self.plan.outcomes)) / seeds
        needed = each * (self._ahead[0] - seeds) / self._slots
        left = self._settle.seconds - (self._clock() - self._began)
        if needed <= left:
            return None
        return (
            f"not settled at {seeds} seeds: the next look, at {self._ahead[0]}, takes about {duration(needed)} more, "
            f"and {duration(max(0.0, left))} of the budget are left; run the same command again to go on"
        )

    def _grow(self) -> None:
        known = {trial.name for trial in self.study.trials}
        self.study = self._settle.at(self._ahead[0])
        new = [trial for trial in self.study.trials if trial.name not in known]
        self.plan.add([stage for trial in new for stage in trial.stages.values()], self._store)
        if self._publishing:
            self._publishing.grow(self.study, new)
