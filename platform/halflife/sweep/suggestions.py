"""A search's Optuna study, in a journal that optuna-dashboard opens. Imported only where a search runs.

Whoever writes to the journal is alone (sweep/journal.py): whoever finds a setting half suggested knows that its
driver is gone. Suggestion i is drawn by (search seed, i) and what has been told before it, so that a search one
setting at a time is the same however often it is interrupted.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from halflife.errors import UserError
from halflife.rng import seed_of
from halflife.store.files import Where
from halflife.store.identity import key_of
from halflife.sweep.adaptive import Budget, Search
from halflife.sweep.journal import journal

PROBES = 16
"""Settings drawn to tell searches apart and to estimate what one takes."""
MEASURED, FAILED, HELD_OUT = "measured by seed", "failed", "held out"
"""User attributes: of a trial what each seed measured, or why it failed; of the study what fresh seeds measured."""

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True, kw_only=True)
class Told:
    """What the search knows of a suggestion that has ended."""

    number: int
    parameters: dict[str, Any]
    setting: Any
    measured: list[dict[str, float]] | None
    """A seed each, in the order of the search's seeds; None of one that failed."""
    failed: str = ""


class Suggestions:
    """The suggestions of one search. `folder` holds the journals of all searches."""

    def __init__(self, search: Search, folder: Where) -> None:
        self._search = search
        self.examples = examples(search, PROBES)
        self.name = f"{search.declaration.study}-{search.declaration.preset}-{_digest(search, self.examples)[:12]}"
        self._journal = journal(folder, self.name)
        self._open: dict[int, optuna.trial.Trial] = {}
        try:
            self._connect()
        except (ValueError, KeyError, AssertionError) as error:
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(
                f"the search's journal {self._journal} cannot be read ({cause[:200]}): move it away; what was computed "
                "stays in the store and is found again"
            ) from error
        self.take_over()

    def _connect(self) -> None:
        """Open the study, or make it."""
        search = self._search
        with self._journal:
            self._storage = JournalStorage(self._journal.backend())
            make: Any = optuna.create_study
            how: dict[str, Any] = {"directions": search.directions}
            if self.name in optuna.get_all_study_names(self._storage):  # to open it writes nothing
                make, how = optuna.load_study, {}
            sampler = _ByNumber(search.budget)
            self._study: optuna.Study = make(storage=self._storage, study_name=self.name, sampler=sampler, **how)
            if not self._trials():
                with _experimental():
                    self._study.set_metric_names([objective.name for objective in search.declaration.objectives])
            for parameters in search.first[len(self._trials()) :]:  # the rest, if a driver was killed at this
                self._study.enqueue_trial(parameters)

    def take_over(self) -> bool:
        """Put back what drivers before us, or beside us, have under way, so that it is asked for again.

        Their stages have leases: what another computes now is waited for. Returns whether there was any.
        """
        if not self._not_ours():  # seen without a way to the bucket: this is asked often
            return False
        with self._journal:
            numbers = self._not_ours()
            for number in numbers:
                self._set(number, TrialState.WAITING)
        return bool(numbers)

    def _not_ours(self) -> list[int]:
        return [trial.number for trial in self._trials(TrialState.RUNNING) if trial.number not in self._open]

    @property
    def begun(self) -> int:
        """Settings that have been suggested, by whomever."""
        return sum(trial.state != TrialState.WAITING for trial in self._trials())

    def ask(self) -> tuple[int, Any] | None:
        """The next setting and its number; None when all of the budget's trials have been asked for.

        What was put back comes first. A setting that cannot be (UserError) is told as failed, and the next one asked.
        """
        while self.begun < self._search.budget.trials:  # here we may not know yet what others have begun
            with self._journal:
                if self.begun >= self._search.budget.trials:
                    return None
                trial = self._study.ask()
                self._open[trial.number] = trial
                try:
                    return trial.number, self._search.suggest(trial)
                except UserError as error:
                    problem = str(error)
                except BaseException:
                    self.give_back()
                    raise
            self.fail(trial.number, problem)
        return None

    def tell(self, number: int, measured: Sequence[Mapping[str, float]]) -> str:
        """What each seed measured. Returns "" or, of what is told as failed, why: a number that is not finite."""
        names = list(measured[0])
        means = {name: sum(each[name] for each in measured) / len(measured) for name in names}
        for name in names:
            if not math.isfinite(means[name]):
                pairs = zip(self._search.seeds, measured, strict=True)
                seeds = ", ".join(str(seed) for seed, each in pairs if not math.isfinite(each[name]))
                return self.fail(number, f"{name} is not finite (seed {seeds})")
        with self._still_open(number) as trial:
            if trial is not None:
                seeds = [self._search.violations(each) for each in measured]
                for name in seeds[0]:
                    if name not in trial.constraints:  # of a driver killed between this line and the last
                        trial.set_constraint(name, max(each[name] for each in seeds))
                trial.set_user_attr(MEASURED, [dict(each) for each in measured])
                self._study.tell(trial, [means[each.name] for each in self._search.declaration.objectives])
        return ""

    def fail(self, number: int, why: str) -> str:
        """The setting could not be measured. Returns `why`."""
        with self._still_open(number) as trial:
            if trial is not None:
                trial.set_user_attr(FAILED, why)
                self._study.tell(trial, state=TrialState.FAIL)
        return why

    def give_back(self) -> None:
        """Put back what we have under way: nothing is left running behind us."""
        with self._journal:
            for number in self._open:
                if self._trial(number).state == TrialState.RUNNING:
                    self._set(number, TrialState.WAITING)
            self._open.clear()

    def told(self, numbers: set[int] | None = None) -> list[Told]:
        """Every suggestion that has ended (of `numbers`), in the order of numbers."""
        found = []
        for trial in self._trials(TrialState.COMPLETE, TrialState.FAIL):
            if numbers is None or trial.number in numbers:
                try:
                    setting = self._search.suggest(FixedTrial(trial.params, number=trial.number))
                except UserError:
                    continue  # one that cannot be
                measured = trial.user_attrs.get(MEASURED) if trial.state == TrialState.COMPLETE else None
                found.append(
                    Told(
                        number=trial.number,
                        parameters=trial.params,
                        setting=setting,
                        measured=measured,
                        failed=trial.user_attrs.get(FAILED, ""),
                    )
                )
        return found

    def best(self) -> list[int]:
        """Numbers of the settings that meet the constraints and that no other beats: the front, in the order of the
        first objective; with one objective all of them, the best first."""
        complete = self._trials(TrialState.COMPLETE)
        feasible = [trial for trial in complete if all(value <= 0 for value in trial.constraints.values())]
        sign = -1.0 if self._search.directions[0] == "maximize" else 1.0
        if len(self._search.directions) > 1:
            front = {trial.number for trial in self._study.best_trials}
            feasible = [trial for trial in feasible if trial.number in front]
        return [trial.number for trial in sorted(feasible, key=lambda trial: (sign * trial.values[0], trial.number))]

    def first(self) -> list[int]:
        """Numbers of the settings that were tried first because the search says so, those that could be measured."""
        return [trial.number for trial in self._trials(TrialState.COMPLETE) if trial.number < len(self._search.first)]

    def note(self, held_out: dict[str, Any]) -> None:
        """Keep what fresh seeds measured where optuna-dashboard shows it."""
        with self._journal:
            if self._study.user_attrs.get(HELD_OUT) != held_out:
                self._study.set_user_attr(HELD_OUT, held_out)

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states or None)

    def _trial(self, number: int) -> FrozenTrial:
        return next(trial for trial in self._trials() if trial.number == number)

    def _set(self, number: int, state: TrialState) -> None:
        study = self._storage.get_study_id_from_name(self.name)
        self._storage.set_trial_state_values(
            self._storage.get_trial_id_from_study_id_trial_number(study, number), state
        )

    @contextlib.contextmanager
    def _still_open(self, number: int) -> Iterator[optuna.trial.Trial | None]:
        """The trial to tell; None when another driver has told it. One that another has put back runs again."""
        with self._journal:
            state, trial = self._trial(number).state, self._open.pop(number)
            if state == TrialState.WAITING:
                self._set(number, TrialState.RUNNING)
            yield None if state.is_finished() else trial


class _ByNumber(BaseSampler):
    """The budget's sampler, seeded anew for each trial by its number: a resumed search does not draw again what it
    drew before. What is drawn by itself is seeded by its name as well: a setting half suggested ends as it would
    have."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    def _seeded(self, *key: int | str) -> BaseSampler:
        seed = seed_of(self._budget.search_seed, "suggestion", *key) % 2**32
        if self._budget.sampler == "random":
            return RandomSampler(seed=seed)
        with _experimental():
            return TPESampler(
                multivariate=True, group=True, constant_liar=True, n_startup_trials=self._budget.startup, seed=seed
            )

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        self._joint = self._seeded(trial.number)  # asked next for the sample
        return self._joint.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._joint.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        alone = self._seeded(trial.number, param_name)
        return alone.sample_independent(study, trial, param_name, param_distribution)


@dataclass(frozen=True, kw_only=True)
class Example:
    setting: Any
    parameters: dict[str, Any]
    distributions: dict[str, str]


def examples(search: Search, count: int) -> list[Example]:
    """What the search may come to: its first settings, and others drawn at random. Raises UserError where one cannot
    be, before any compute."""
    study = optuna.create_study(sampler=RandomSampler(seed=search.budget.search_seed % 2**32))
    for parameters in search.first:
        study.enqueue_trial(parameters)
    found = []
    for _ in range(count):
        trial = study.ask()
        setting = search.suggest(trial)
        kinds = {name: distribution_to_json(kind) for name, kind in trial.distributions.items()}
        found.append(Example(setting=setting, parameters=trial.params, distributions=kinds))
    return found


def _digest(search: Search, probes: list[Example]) -> str:
    """What a search is: its space and what settings become (seen by examples), how it draws, what it seeks."""
    budget, declared = search.budget, search.declaration

    def unfolded(probe: Example) -> list[str]:
        return [search.unfold(probe.setting, seed).key for seed in search.seeds]

    return key_of(
        {
            "settings": [[probe.parameters, probe.distributions, unfolded(probe)] for probe in probes],
            "controls": [control.key for control in search.controls_of(search.seeds)],
            "objectives": [[each.name, each.direction, each.formula] for each in declared.objectives],
            "constraints": [[each.name, each.at_least, each.at_most, "every seed"] for each in declared.constraints],
            "draws": [budget.sampler, budget.startup if budget.sampler == "tpe" else 0, budget.search_seed],
        }
    )


@contextlib.contextmanager
def _experimental() -> Iterator[None]:
    """We use what Optuna calls experimental: groups (for conditional spaces) and names of objectives."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
