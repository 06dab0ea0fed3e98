"""Carries a search through a plan: asks where a slot is free, tells what has ended, tries the best on fresh seeds."""

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
class _Open:
    """A setting under way."""

    trials: tuple[Trial, ...]
    """One for each of `seeds`."""
    seeds: tuple[int, ...]
    controls: list[Trial] = field(default_factory=list)
    """Those that its measures have asked for so far."""


@dataclass(frozen=True, kw_only=True)
class _End:
    """What a setting's seeds measured, or why they could not."""

    measured: Measured | None = None
    problem: str = ""
    of_control: bool = False
    """The problem is that of a control, which says nothing of the setting."""


class Campaign(SweepState):
    """The course of a search. `feed` is to be called whenever a slot may be free."""

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
        self._open: dict[int, _Open] = {}
        self._final: dict[int, _Open] | None = None
        """By number of the finalist, on fresh seeds. None until the search is over."""
        self._lost: dict[str, None] = {}
        """Why controls failed without which open settings cannot be measured. They stay open: no more are asked for,
        and the same command takes them up again."""
        self._over = False
        self._done: dict[int, Measured | None] = {}
        """By number: what each seed measured; None of a setting that failed."""
        self._findings: list[str] = []
        self._examples = [
            stage
            for example in self._suggestions.examples
            for trial in search.unfolded(0, example.setting)
            for stage in trial.stages.values()
        ]
        """Stages of settings such as the search may suggest."""

    @property
    def stages(self) -> Sequence[Stage]:
        return [*self.plan.missing, *self._examples]

    def begin(self, publishing: Publishing, slots: int) -> None:
        """Take up what earlier commands have found; from now on `feed` may be called."""
        self._publishing, self._slots = publishing, slots
        self._catch_up()

    def feed(self) -> bool:
        """Tell what has ended, and ask for as much as keeps the slots busy. Whether there is more to tell or to ask."""
        self._conclude_ended()
        while self._wants_more():
            if self._deadline == math.inf and self._search.budget.seconds is not None:
                self._deadline = self._clock() + self._search.budget.seconds  # Ray's start is not counted
            asked = self._suggestions.ask()
            if asked is not None:
                self._begin(*asked)
                self._conclude_ended()  # all of it may have been computed before
            elif self._open or not self._suggestions.take_over():  # else there is what another driver has under way
                break
        if self._lost and self.plan.finished:
            self._over = True
            self._findings = [
                f"the measures need a control that failed ({'; '.join(self._lost)}): once it works, the same command "
                f"goes on with what is under way (settings: {len(self._open)})"
            ]
        elif self._exhausted and not (self._over or self._open or self.plan.ready()):
            if self._final is None:
                self._begin_final()
            self._conclude_final()
        return not self._over

    def leave(self) -> None:
        """Leave no suggestion running behind us: the same command asks for them again."""
        with contextlib.suppress(Overtaken):  # who overtook us takes them up
            self._suggestions.give_back()

    def findings(self) -> list[str]:
        return self._findings

    def ahead(self, work: Callable[[Stage], float]) -> float:
        """Of the settings that are yet to be suggested, and of the best on fresh seeds."""
        if self._final is not None:
            return 0.0
        budget, search = self._search.budget, self._search
        each = sum({stage.key: work(stage) for stage in self._examples}.values()) / len(self._suggestions.examples)
        left = 0 if self._clock() > self._deadline else max(0, budget.trials - self._suggestions.begun)
        again = min(budget.finalists, budget.trials) * len(search.fresh_seeds) / len(search.seeds)
        return each * (left + again)

    def line(self) -> str:
        failed = sum(measured is None for measured in self._done.values())
        words = [f"{len(self._done)} of {self._search.budget.trials} settings told"]
        words += [f"{failed} failed"] if failed else []
        words += [f"{len(self._open)} under way"] if self._open else []
        best = self._suggestions.best()
        if best:
            found = [means(measured) for number in best if (measured := self._done.get(number))]
            for objective in self._search.declaration.objectives if found else ():
                chosen = max if objective.direction == "maximize" else min
                words.append(f"best {objective.label.lower()} {chosen(each[objective.name] for each in found):.4g}")
        if self._final is not None:
            words.append("the best on fresh seeds")
        return " · ".join(words)

    def numbers(self) -> dict[str, float]:
        failed = sum(measured is None for measured in self._done.values())
        return {"suggestions": len(self._done), "suggestions_failed": failed}

    # Suggestions.

    def _catch_up(self) -> None:
        """What earlier commands, or other drivers, were told. Of what failed, nothing is computed for it."""
        found = []
        for told in self._suggestions.told():
            if told.number in self._done:
                continue
            self._done[told.number] = None
            try:
                trials = self._search.unfolded(told.number, told.setting)
            except UserError:
                continue  # it failed for this
            stages = [stage for trial in trials for stage in trial.stages.values()]
            if told.measured or not Plan(stages, self._store).ready():
                found.append((told, trials))
        self._grow([trial for _, trials in found for trial in trials])
        for told, trials in found:
            self._tell_publishing(trials, told.number, told.measured, told.failed)

    @property
    def _exhausted(self) -> bool:
        """Whether nothing more will be asked for."""
        return self._clock() > self._deadline or self._suggestions.begun >= self._search.budget.trials

    def _wants_more(self) -> bool:
        """While a slot is free, and time is left. Ready stages come first: fewer at once means better suggestions."""
        if self._over or self._lost or self._final is not None or self._clock() > self._deadline:
            return False
        at_once = self._search.budget.at_once
        if at_once is not None and len(self._open) >= at_once:
            return False
        return at_once is not None or (len(self.plan.running) < self._slots and not self.plan.ready())

    def _begin(self, number: int, setting: Any) -> None:
        if number in self._open:
            return  # another driver took it over and was asked for it by us
        try:
            trials = self._search.unfolded(number, setting)
        except UserError as error:
            self._done[number] = None
            self._suggestions.fail(number, str(error))
            return
        self._open[number] = _Open(trials=trials, seeds=self._search.seeds)
        self._grow(trials)

    def _conclude_ended(self) -> None:
        """Tell the search of every open suggestion whose stages, and the controls it needs, have come to an end."""
        for number, entry in list(self._open.items()):
            end = self._end(entry)
            if end is None:
                continue
            if end.of_control:
                self._lost[end.problem] = None
                continue
            del self._open[number]
            told = self._suggestions
            problem = told.fail(number, end.problem) if end.problem else told.tell(number, end.measured or [])
            self._tell_publishing(entry.trials, number, None if problem else end.measured, problem)

    def _end(self, entry: _Open) -> _End | None:
        """How a setting has ended; None while a stage has not that its measures need."""
        for trial in (*entry.trials, *entry.controls):
            problem = self._problem(trial)
            if problem is None:
                return None
            if problem:
                return _End(problem=problem, of_control=trial in entry.controls)
        pairs = zip(entry.trials, entry.seeds, strict=True)
        try:
            return _End(measured=[self._search.measured(*pair, self._store, self._complete) for pair in pairs])
        except Unfinished as asked:
            entry.controls.append(asked.control)
            return self._end(entry)

    def _problem(self, trial: Trial) -> str | None:
        """Why a trial cannot be complete; "" of one that is, None while a stage has not ended."""
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
        for told in self._suggestions.told(set(finalists)):
            trials = search.unfolded(told.number, told.setting, held_out=True)
            self._final[told.number] = _Open(trials=trials, seeds=search.fresh_seeds)
            self._grow(trials)

    def _finalists(self) -> list[int]:
        """The best settings that differ, spread evenly along the front if they are too many, and the first ones."""
        best = _different(self._suggestions.best(), self._stages_of)
        most = self._search.budget.finalists
        if len(best) > most and len(self._search.directions) > 1:
            places = [round(place * (len(best) - 1) / max(1, most - 1)) for place in range(most)]
            best = [best[place] for place in dict.fromkeys(places)]
        return _different([*best[:most], *self._suggestions.first()], self._stages_of) if best[:most] else []

    def _stages_of(self, number: int) -> tuple[str, ...]:
        told = self._suggestions.told({number})[0]
        trials = self._search.unfolded(number, told.setting)
        return tuple(stage.key for trial in trials for stage in trial.stages.values())

    def _conclude_final(self) -> None:
        """When all held-out trials have ended: publish what they measured, and say the result."""
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
        settings = {told.number: told.parameters for told in self._suggestions.told(set(final))}
        self._findings = findings(search, settings, self._done, found)
        left = search.budget.trials - self._suggestions.begun
        if left > 0:
            self._findings.append(f"the time was up with {left} settings to go: the same command goes on")

    # Towards the plan and the tracking store.

    def _grow(self, trials: Sequence[Trial]) -> None:
        names = {there.name for there in self.study.trials}
        new = [trial for trial in trials if trial.name not in names]
        self.study = replace(self.study, trials=(*self.study.trials, *new))
        self.plan.add([stage for trial in new for stage in trial.stages.values()], self._store)
        if self._publishing:
            held = [trial for trial in new if schema.SUGGESTION in trial.parameters]
            self._publishing.grow(self.study, new, held=held)

    def _tell_publishing(self, trials: Sequence[Trial], number: int, measured: Measured | None, problem: str) -> None:
        self._done[number] = measured
        self._publish(trials, measured, problem)

    def _publish(self, trials: Sequence[Trial], measured: Measured | None, problem: str) -> None:
        if self._publishing is None:
            return
        self._publishing.update()
        constraints = {constraint.name for constraint in self._search.declaration.constraints}
        for place, trial in enumerate(trials):
            values = {
                f"{schema.CONSTRAINT_PHASE if name in constraints else schema.OBJECTIVE_PHASE}/{name}": value
                for name, value in (measured[place] if measured else {}).items()
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
    return Study(declaration=search.declaration, trials=(*search.controls_of(seeds), *trials))


def _different(numbers: Iterable[int], what: Callable[[int], Any]) -> list[int]:
    """The numbers whose `what` no earlier one has."""
    seen: dict[Any, int] = {}
    for number in numbers:
        seen.setdefault(what(number), number)
    return list(seen.values())
