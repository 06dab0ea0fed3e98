"""Runs an adaptive search through a plan: requests suggestions for free slots, reports results to the search, and
evaluates the best settings on fresh seeds."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from halflife.errors import UserError
from halflife.store.identity import key_of
from halflife.store.plan import Plan
from halflife.store.stage import Stage
from halflife.store.store import Store
from halflife.sweep.adaptive import Search, Unfinished
from halflife.sweep.findings import Measured, findings, means
from halflife.sweep.journal import Overtaken
from halflife.sweep.publishing import Publishing
from halflife.sweep.state import SweepState
from halflife.sweep.study import Study, Trial
from halflife.sweep.suggestions import Suggestions, examples
from halflife.tracking import schema


@dataclass(frozen=True, kw_only=True)
class _Pending:
    """A setting that is being evaluated."""

    trials: tuple[Trial, ...]
    """One per seed of `seeds`."""
    seeds: tuple[int, ...]
    controls: list[Trial] = field(default_factory=list)
    """Controls that its measures have needed so far."""


@dataclass(frozen=True, kw_only=True)
class _End:
    """The results of a setting, or why there are none."""

    measured: Measured | None = None
    problem: str = ""
    of_control: bool = False
    """The problem is a control's, so the setting has not failed."""


class Campaign(SweepState):
    """The state of a search. Call `feed` whenever a slot may be free."""

    def __init__(self, search: Search, store: Store, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._search, self._store, self._clock = search, store, clock
        self._suggestions = Suggestions(search, store.location / "optuna")
        budget = search.budget
        identity = {
            "search": self._suggestions.name,
            "trials": budget.trials,
            "held out": [search.fresh_seeds, budget.finalists],
        }
        self._controls = search.controls_of(search.seeds)
        study = Study(declaration=search.declaration, trials=self._controls, identity=key_of(identity))
        super().__init__(study, store)
        self._publishing: Publishing | None = None
        self._slots = 1
        self._deadline = math.inf
        self._pending: dict[int, _Pending] = {}
        self._final: dict[int, _Pending] | None = None
        """Evaluations of the finalists on fresh seeds, by number. None until the search is over."""
        self._failed_controls: dict[str, None] = {}
        """Why controls failed that pending settings need (a dict as an ordered set). Those settings stay pending, no
        more are suggested, and running the same command again retries them."""
        self._over = False
        self._done: dict[int, Measured | None] = {}
        """Results by number; None for a setting that failed."""
        self._findings: list[str] = []
        self._examples = [
            stage
            for example in self._suggestions.examples
            for trial in search.unfolded(0, example.setting)
            for stage in trial.stages.values()
        ]
        """Stages of example settings that the search may suggest."""

    @property
    def stages(self) -> Sequence[Stage]:
        return [*self.plan.missing, *self._examples]

    def begin(self, publishing: Publishing, slots: int) -> None:
        """Load the results of earlier runs. From now on `feed` may be called."""
        self._publishing, self._slots = publishing, slots
        self._catch_up()

    def feed(self) -> bool:
        """Report finished settings, and start as many new ones as keep the slots busy. Returns whether more may
        come."""
        self._conclude_ended()
        while self._wants_more():
            if self._deadline == math.inf and self._search.budget.seconds is not None:
                self._deadline = self._clock() + self._search.budget.seconds  # excludes the start of Ray
            suggestion = self._suggestions.ask()
            if suggestion is not None:
                self._begin(*suggestion)
                self._conclude_ended()  # all of it may be cached
            elif (
                self._pending or not self._suggestions.take_over()
            ):  # otherwise another driver's pending settings are next
                break
        if self._failed_controls and self.plan.finished:
            self._over = True
            self._findings = [
                f"{len(self._pending)} pending settings need a control that failed "
                f"({'; '.join(self._failed_controls)}): fix it, then run the same command again to resume"
            ]
        elif self._exhausted and not (self._over or self._pending or self.plan.ready()):
            if self._final is None:
                self._begin_final()
            self._conclude_final()
        return not self._over

    def close(self) -> None:
        """Mark no suggestion as running: the next run requests them again."""
        with contextlib.suppress(Overtaken):  # the other driver takes them over
            self._suggestions.give_back()

    def findings(self) -> list[str]:
        return self._findings

    def future_work(self, work: Callable[[Stage], float]) -> float:
        """Of the settings not suggested yet, and of the best ones on fresh seeds."""
        if self._final is not None:
            return 0.0
        budget, search = self._search.budget, self._search
        each = sum({stage.key: work(stage) for stage in self._examples}.values()) / len(self._suggestions.examples)
        left = 0 if self._clock() > self._deadline else max(0, budget.trials - self._suggestions.started)
        again = min(budget.finalists, budget.trials) * len(search.fresh_seeds) / len(search.seeds)
        return each * (left + again)

    def line(self) -> str:
        failed = sum(measured is None for measured in self._done.values())
        parts = [f"{len(self._done)} of {self._search.budget.trials} settings evaluated"]
        parts += [f"{failed} failed"] if failed else []
        parts += [f"{len(self._pending)} pending"] if self._pending else []
        best = self._suggestions.best()
        if best:
            found = [means(measured) for number in best if (measured := self._done.get(number))]
            for objective in self._search.declaration.objectives if found else ():
                chosen = max if objective.direction == "maximize" else min
                parts.append(f"best {objective.label.lower()} {chosen(each[objective.name] for each in found):.4g}")
        if self._final is not None:
            parts.append("evaluating the best on fresh seeds")
        return " · ".join(parts)

    def numbers(self) -> dict[str, float]:
        failed = sum(measured is None for measured in self._done.values())
        return {"suggestions": len(self._done), "suggestions_failed": failed}

    # Suggestions.

    def _catch_up(self) -> None:
        """Add the results of earlier runs and of other drivers. Nothing is computed for settings that failed."""
        found = []
        for result in self._suggestions.results():
            if result.number in self._done:
                continue
            self._done[result.number] = None
            try:
                trials = self._search.unfolded(result.number, result.setting)
            except UserError:
                continue  # the reason why it failed
            stages = [stage for trial in trials for stage in trial.stages.values()]
            if result.measured or not Plan(stages, self._store).ready():
                found.append((result, trials))
        self._grow([trial for _, trials in found for trial in trials])
        for result, trials in found:
            self._conclude(trials, result.number, result.measured, result.failed)

    @property
    def _exhausted(self) -> bool:
        """Whether no more settings will be suggested."""
        return self._clock() > self._deadline or self._suggestions.started >= self._search.budget.trials

    def _wants_more(self) -> bool:
        """Whether to request a suggestion now. Ready stages come first: fewer pending settings make better
        suggestions."""
        if self._over or self._failed_controls or self._final is not None or self._clock() > self._deadline:
            return False
        at_once = self._search.budget.at_once
        if at_once is not None and len(self._pending) >= at_once:
            return False
        return at_once is not None or (len(self.plan.running) < self._slots and not self.plan.ready())

    def _begin(self, number: int, setting: Any) -> None:
        if number in self._pending:
            return  # it is ours again after another driver took it over
        try:
            trials = self._search.unfolded(number, setting)
        except UserError as error:
            self._done[number] = None
            self._suggestions.fail(number, str(error))
            return
        self._pending[number] = _Pending(trials=trials, seeds=self._search.seeds)
        self._grow(trials)

    def _conclude_ended(self) -> None:
        """Report every pending setting whose stages, and the controls that it needs, have ended."""
        for number, entry in list(self._pending.items()):
            end = self._end(entry)
            if end is None:
                continue
            if end.of_control:
                self._failed_controls[end.problem] = None
                continue
            del self._pending[number]
            search = self._suggestions
            problem = search.fail(number, end.problem) if end.problem else search.tell(number, end.measured or [])
            self._conclude(entry.trials, number, None if problem else end.measured, problem)

    def _end(self, entry: _Pending) -> _End | None:
        """How a setting has ended; None while a stage that its measures need is unfinished."""
        for trial in (*entry.trials, *entry.controls):
            problem = self._problem(trial)
            if problem is None:
                return None
            if problem:
                return _End(problem=problem, of_control=trial in entry.controls)
        pairs = zip(entry.trials, entry.seeds, strict=True)
        try:
            return _End(measured=[self._search.measured(*pair, self._store, self._complete) for pair in pairs])
        except Unfinished as unfinished:
            entry.controls.append(unfinished.control)
            return self._end(entry)

    def _problem(self, trial: Trial) -> str | None:
        """Why a trial cannot complete; "" if it is complete, None while a stage is unfinished."""
        plan = self.plan
        for phase, stage in trial.stages.items():
            outcome = plan.outcomes.get(stage.key)
            if outcome is not None and outcome.status == "complete":
                continue
            why = outcome.status if outcome else plan.failures.get(stage.key) or plan.blocked.get(stage.key)
            return f"{phase} of {trial.name}: {why}" if why else None
        return ""

    def _complete(self, trial: Trial) -> bool:
        return self._problem(trial) == ""

    # The best, on fresh seeds.

    def _begin_final(self) -> None:
        search = self._search
        self._catch_up()
        finalists = self._finalists() if search.fresh_seeds else []
        self._final = {}
        if finalists:
            self._grow(search.controls_of(search.fresh_seeds))
        for result in self._suggestions.results(set(finalists)):
            trials = search.unfolded(result.number, result.setting, held_out=True)
            self._final[result.number] = _Pending(trials=trials, seeds=search.fresh_seeds)
            self._grow(trials)

    def _finalists(self) -> list[int]:
        """The best distinct settings, spread evenly along the Pareto front if there are too many, and the first
        settings."""
        best = _distinct(self._suggestions.best(), self._stages_of)
        most = self._search.budget.finalists
        if len(best) > most and len(self._search.directions) > 1:
            indices = [round(index * (len(best) - 1) / max(1, most - 1)) for index in range(most)]
            best = [best[index] for index in dict.fromkeys(indices)]
        return _distinct([*best[:most], *self._suggestions.first()], self._stages_of) if best[:most] else []

    def _stages_of(self, number: int) -> tuple[str, ...]:
        setting = self._suggestions.results({number})[0].setting
        trials = self._search.unfolded(number, setting)
        return tuple(stage.key for trial in trials for stage in trial.stages.values())

    def _conclude_final(self) -> None:
        """Once all held-out trials have ended: publish their results and make the findings."""
        search, final = self._search, self._final or {}
        found: dict[int, tuple[str, Measured | None]] = {}
        for number, entry in final.items():
            end = self._end(entry)
            if end is None:
                return
            found[number] = end.problem, end.measured
        held_out: dict[str, Any] = {}
        for number, (problem, measured) in found.items():
            self._publish(final[number].trials, measured, problem)
            held_out[f"#{number}"] = measured or problem
        if held_out:
            self._suggestions.note(held_out)
        self._over = True
        settings = {result.number: result.parameters for result in self._suggestions.results(set(final))}
        self._findings = findings(search, settings, self._done, found)
        left = search.budget.trials - self._suggestions.started
        if left > 0:
            self._findings.append(
                f"the timeout was reached with {left} settings left: run the same command again to continue"
            )

    # The plan and the tracking store.

    def _grow(self, trials: Sequence[Trial]) -> None:
        names = {there.name for there in self.study.trials}
        new = [trial for trial in trials if trial.name not in names]
        self.study = replace(self.study, trials=(*self.study.trials, *new))
        self.plan.add([stage for trial in new for stage in trial.stages.values()], self._store)
        if self._publishing:
            held = [trial for trial in new if schema.SUGGESTION in trial.parameters]
            self._publishing.grow(self.study, new, held=held)

    def _conclude(self, trials: Sequence[Trial], number: int, measured: Measured | None, problem: str) -> None:
        self._done[number] = measured
        self._publish(trials, measured, problem)

    def _publish(self, trials: Sequence[Trial], measured: Measured | None, problem: str) -> None:
        if self._publishing is None:
            return
        self._publishing.update()
        constraints = {constraint.name for constraint in self._search.declaration.constraints}
        for index, trial in enumerate(trials):
            values = {
                f"{schema.CONSTRAINT_PHASE if name in constraints else schema.OBJECTIVE_PHASE}/{name}": value
                for name, value in (measured[index] if measured else {}).items()
            }
            self._publishing.conclude(trial, values, f"failed: {problem}" if problem else "complete")


def example_study(search: Search) -> Study:
    """For --dry-run: the controls, and settings drawn at random in place of those that the search will suggest."""
    budget = search.budget
    drawn = [example.setting for example in examples(search, budget.trials)]
    trials = [trial for number, setting in enumerate(drawn) for trial in search.unfolded(number, setting)]
    seeds = search.seeds
    if search.fresh_seeds:
        seeds = (*seeds, *search.fresh_seeds)
        again = min(budget.finalists + len(search.first), len(drawn))
        for number, setting in enumerate(drawn[:again]):
            trials += search.unfolded(number, setting, held_out=True)
    every = (*search.controls_of(seeds), *trials)
    return Study(declaration=search.declaration, trials=every, identity="of examples")  # as questions cannot know them


def _distinct(numbers: Iterable[int], key: Callable[[int], Any]) -> list[int]:
    """The first number of each key."""
    seen: dict[Any, int] = {}
    for number in numbers:
        seen.setdefault(key(number), number)
    return list(seen.values())
