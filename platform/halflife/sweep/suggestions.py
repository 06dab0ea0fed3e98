"""A search's Optuna study, in a journal that optuna-dashboard can open. Imported only if a search runs.

Writers hold an exclusive lock (sweep/journal.py), so a half-suggested setting belongs to a driver that died. Suggestion
i depends on (search seed, i) and the earlier results: a search with one setting at a time gives the same suggestions
however often it is interrupted.
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
from halflife.store.files import AnyPath
from halflife.store.identity import key_of
from halflife.sweep.adaptive import Budget, Search
from halflife.sweep.journal import journal

PROBES = 16
"""Example settings: part of the search's identity, and the basis of cost estimates."""
MEASURED, FAILED, HELD_OUT = "measured by seed", "failed", "held out"
"""User attributes. Of a trial: the results per seed, or why it failed. Of the study: the results on fresh seeds."""

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True, kw_only=True)
class Result:
    """A suggestion that has ended."""

    number: int
    parameters: dict[str, Any]
    setting: Any
    measured: list[dict[str, float]] | None
    """Per seed, in the order of the search's seeds; None if it failed."""
    failed: str = ""


class Suggestions:
    """The suggestions of one search. `folder` contains the journals of all searches.

    Raises UserError when the journal cannot be read."""

    def __init__(self, search: Search, folder: AnyPath) -> None:
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
                f"the search's journal {self._journal} cannot be read ({cause[:200]}): move it away; what is computed "
                "stays in the store and will be reused"
            ) from error
        self.take_over()

    def _connect(self) -> None:
        """Open or create the study."""
        search = self._search
        with self._journal:
            self._storage = JournalStorage(self._journal.backend())
            open_study: Any = optuna.create_study
            how: dict[str, Any] = {"directions": search.directions}
            if self.name in optuna.get_all_study_names(self._storage):  # opening writes nothing
                open_study, how = optuna.load_study, {}
            sampler = _ByNumber(search.budget)
            self._study: optuna.Study = open_study(storage=self._storage, study_name=self.name, sampler=sampler, **how)
            if not self._trials():
                with _experimental():
                    self._study.set_metric_names([objective.name for objective in search.declaration.objectives])
            for parameters in search.first[len(self._trials()) :]:  # the rest, if a driver was killed in this loop
                self._study.enqueue_trial(parameters)

    def take_over(self) -> bool:
        """Return other drivers' running suggestions to the queue, so that `ask` gives them out again.

        Stages have leases, so a stage that another driver is computing is waited for, not repeated. Returns whether
        there were any.
        """
        if not self._not_ours():  # without a request to the bucket, as this is called often
            return False
        with self._journal:
            numbers = self._not_ours()
            for number in numbers:
                self._set(number, TrialState.WAITING)
        return bool(numbers)

    def _not_ours(self) -> list[int]:
        return [trial.number for trial in self._trials(TrialState.RUNNING) if trial.number not in self._open]

    @property
    def started(self) -> int:
        """Number of settings that have been suggested, by any driver."""
        return sum(trial.state != TrialState.WAITING for trial in self._trials())

    def ask(self) -> tuple[int, Any] | None:
        """The next number and setting; None when the budget's trials are used up.

        Queued ones come first. An invalid setting (UserError) is recorded as failed, and the next one is suggested.
        """
        while self.started < self._search.budget.trials:  # may be out of date outside the lock
            with self._journal:
                if self.started >= self._search.budget.trials:
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
        """Record the results per seed. Returns "", or why the setting fails: a number is not finite."""
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
                    if name not in trial.constraints:  # a driver may have been killed after this line
                        trial.set_constraint(name, max(each[name] for each in seeds))
                trial.set_user_attr(MEASURED, [dict(each) for each in measured])
                self._study.tell(trial, [means[each.name] for each in self._search.declaration.objectives])
        return ""

    def fail(self, number: int, why: str) -> str:
        """Record that the setting failed. Returns `why`."""
        with self._still_open(number) as trial:
            if trial is not None:
                trial.set_user_attr(FAILED, why)
                self._study.tell(trial, state=TrialState.FAIL)
        return why

    def give_back(self) -> None:
        """Return our running suggestions to the queue."""
        with self._journal:
            for number in self._open:
                if self._trial(number).state == TrialState.RUNNING:
                    self._set(number, TrialState.WAITING)
            self._open.clear()

    def results(self, numbers: set[int] | None = None) -> list[Result]:
        """Every suggestion that has ended (among `numbers`, if given), in the order of numbers."""
        found = []
        for trial in self._trials(TrialState.COMPLETE, TrialState.FAIL):
            if numbers is None or trial.number in numbers:
                try:
                    setting = self._search.suggest(FixedTrial(trial.params, number=trial.number))
                except UserError:
                    continue  # an invalid one
                measured = trial.user_attrs.get(MEASURED) if trial.state == TrialState.COMPLETE else None
                found.append(
                    Result(
                        number=trial.number,
                        parameters=trial.params,
                        setting=setting,
                        measured=measured,
                        failed=trial.user_attrs.get(FAILED, ""),
                    )
                )
        return found

    def best(self) -> list[int]:
        """Numbers of the best settings among those that meet the constraints. With one objective: all of them, best
        first. With several: the Pareto front, ordered by the first objective."""
        complete = self._trials(TrialState.COMPLETE)
        feasible = [trial for trial in complete if all(value <= 0 for value in trial.constraints.values())]
        sign = -1.0 if self._search.directions[0] == "maximize" else 1.0
        if len(self._search.directions) > 1:
            front = {trial.number for trial in self._study.best_trials}
            feasible = [trial for trial in feasible if trial.number in front]
        return [trial.number for trial in sorted(feasible, key=lambda trial: (sign * trial.values[0], trial.number))]

    def first(self) -> list[int]:
        """Numbers of the search's `first` settings that were evaluated."""
        return [trial.number for trial in self._trials(TrialState.COMPLETE) if trial.number < len(self._search.first)]

    def note(self, held_out: dict[str, Any]) -> None:
        """Store the results on fresh seeds where optuna-dashboard shows them."""
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
        """The trial to report to; None if another driver has reported it. A queued one is set to running again."""
        with self._journal:
            state, trial = self._trial(number).state, self._open.pop(number)
            if state == TrialState.WAITING:
                self._set(number, TrialState.RUNNING)
            yield None if state.is_finished() else trial


class _ByNumber(BaseSampler):
    """The budget's sampler, reseeded for each trial by its number, so that a resumed search does not repeat draws.
    Independent parameters are also seeded by name, so that a half-suggested setting is completed the same way."""

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
        self._joint = self._seeded(trial.number)  # used next, in sample_relative
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
    """Example settings of the search: its first ones, and others drawn at random. Raises UserError if one is invalid,
    before any compute."""
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
    """The search's identity: its space and trials (by examples), its sampler, objectives and constraints."""
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
    """Silence Optuna's warnings on experimental features: groups (for conditional spaces) and metric names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
