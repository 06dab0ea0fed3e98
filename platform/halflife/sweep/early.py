"""A sweep whose first trunks did not learn what its branches are to lose stops before the branches are paid for.

What must be learned is declared (`schema.Declaration.criteria`); `--go-on` computes the rest all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from halflife.store.stage import Stage
from halflife.store.store import Store
from halflife.sweep.state import SweepState
from halflife.sweep.study import Study
from halflife.tracking import schema
from halflife.tracking.criteria import Criterion, Seen, learn

FIRST = 2
"""Seeds of a setting whose phases decide, if it has as many: one of several may be an exception."""
SEED = "seed"


class Stopped(KeyboardInterrupt):
    """Ends a sweep like Ctrl-C, from where no signal comes: what runs is resumed later."""


@dataclass(kw_only=True)
class _Group:
    """Phases that differ in their seed alone."""

    criterion: Criterion
    setting: str
    stages: dict[str, Stage] = field(default_factory=dict)
    after: set[str] = field(default_factory=set)
    """Keys of the stages of the same trials that come after."""


class Early:
    """Call `check` whenever stages may have ended."""

    def __init__(self, state: SweepState, store: Store) -> None:
        self._state, self._store = state, store
        self._ended, self._groups = -1, list[_Group]()
        self._of: Study | None = None

    def check(self) -> None:
        """Raises Stopped, with one line that says what would mend it, when the first phases of a setting miss their
        criterion and what follows them is not computed yet."""
        study, plan = self._state.study, self._state.plan
        if not study.declaration.criteria or (study is self._of and len(plan.outcomes) == self._ended):
            return
        if study is not self._of:
            self._of, self._groups = study, list(_groups(study))
        self._ended = len(plan.outcomes)
        for group in list(self._groups):
            ended = [stage for key, stage in group.stages.items() if key in plan.outcomes]
            if len(ended) >= min(FIRST, len(group.stages)):
                self._groups.remove(group)
                if not group.after <= plan.outcomes.keys() and (text := self._missed(group, ended)):
                    left = f"{len(plan.missing)} of {len(plan.stages)} stages left"
                    raise Stopped(f"{text}; stopped with {left}: --go-on computes them all the same")

    def _missed(self, group: _Group, ended: list[Stage]) -> str:
        criterion, declared = group.criterion, self._state.study.declaration
        curves = [_curve(criterion, self._store, stage) for stage in ended]
        last = [curve[-1] for curve in curves if curve]
        rate = sum(seen.hits for seen in last) / sum(seen.trials for seen in last) if last else criterion.least
        if rate >= criterion.least:
            return ""
        seeds = len(group.stages)
        of = f"{len(last)} of {seeds} seeds" if len(last) < seeds else f"{seeds} seed{'s' * (seeds > 1)}"
        remedy = learn(declared.levers, declared.settings, curves, criterion.least)
        return (
            f"the {criterion.what} was not learned: {group.setting}: success {rate:.3g} at the end of the "
            f"{criterion.phase} over {of}, expected at least {criterion.least:g}. "
            f"Remedy: {remedy}"
        )


def _groups(study: Study) -> Iterator[_Group]:
    for criterion in study.declaration.criteria:
        found: dict[tuple, _Group] = {}
        for trial in study.trials:
            parameters = {name: value for name, value in trial.parameters.items() if name != SEED}
            if trial.role != "treatment" or not criterion.where.items() <= parameters.items():
                continue
            stage = trial.stages.get(criterion.phase)
            if stage is None:
                continue
            setting = str(parameters.get("size", "the reference"))
            group = found.setdefault(tuple(parameters.items()), _Group(criterion=criterion, setting=setting))
            group.stages[stage.key] = stage
            group.after |= {each.key for phase, each in trial.stages.items() if phase != criterion.phase}
        yield from found.values()


def _curve(criterion: Criterion, store: Store, stage: Stage) -> list[Seen]:
    """Success in the phase, in order; empty if it was not measured."""
    by_step: dict[int, dict[str, float]] = {}
    for step, name, value in store.points(stage).iter_rows():
        task, _, measure = name.rpartition("/")
        if task == criterion.task:
            by_step.setdefault(step, {})[measure] = value
    return [
        Seen(
            tokens=step, hits=row[schema.HITS], trials=row[schema.TRIALS],
            logprob=row.get(schema.LOGPROB, float("nan")),
        )
        for step, row in sorted(by_step.items()) if schema.HITS in row and row.get(schema.TRIALS)
    ]  # fmt: skip
