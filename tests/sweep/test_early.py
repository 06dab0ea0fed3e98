"""A sweep whose first trunks miss their criterion stops before its branches, and goes on when told."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from rich.console import Console

from halflife.errors import UserError
from halflife.store.run import run_stage
from halflife.store.stage import Context
from halflife.store.store import Store
from halflife.sweep.early import Early, Stopped
from halflife.sweep.launch import run
from halflife.sweep.site import ExecutionSite
from halflife.sweep.state import SweepState
from halflife.sweep.study import Study
from halflife.tracking import schema
from halflife.tracking.criteria import Criterion, Levers
from tests.sweep.fakes import Fake
from tests.sweep.helpers import study


@dataclass(frozen=True, kw_only=True)
class Learning(Fake):
    """Success rises evenly to `end`."""

    kind: ClassVar[str] = "learning"
    end: float = 1.0

    def run(self, context: Context) -> dict[str, Any]:
        for step in range(1, 10):
            context.record(step, {"skill/hits": round(100 * self.end * step / 9), "skill/trials": 100.0})
        return {"tokens": 9, "seconds_training": 0.1, "seconds_evaluating": 0.0}


def learned(*ends: float, where: dict[str, Any] | None = None) -> Study:
    """A trunk of each seed that ends with this success, and three branches of it."""
    found = study(trunks=len(ends), branches=3)
    trials = []
    for trial in found.trials:
        seed = int(trial.parameters["trunk"])
        trunk = Learning(name=f"trunk{seed}", end=ends[seed])
        branch = replace(trial.stages["branch"], parents_=(trunk,))
        parameters = {"seed": seed, "branch": trial.parameters["branch"], "size": "1k"}
        trials.append(replace(trial, parameters=parameters, stages={"trunk": trunk, "branch": branch}))
    criterion = Criterion(phase="trunk", task="skill", where=where or {})
    settings = {"trunk_tokens": 9}
    declared = replace(found.declaration, criteria=(criterion,), levers=Levers(trunk="trunk_tokens"), settings=settings)
    return Study(declaration=declared, trials=tuple(trials))


class Sweep:
    """Stages run one by one, without Ray."""

    def __init__(self, root: Path, work: Study) -> None:
        self.store = Store(root)
        self.state = SweepState(work, self.store)
        self.early = Early(self.state, self.store)

    def go(self) -> int:
        """How many stages were run until there are none, or it stops."""
        count = 0
        self.early.check()
        while stage := self.state.plan.take():
            self.state.plan.completed(stage.key, run_stage(stage, self.store))
            count += 1
            self.early.check()
        return count


def test_trunks_of_two_seeds_that_miss_it_stop_the_sweep_with_the_remedy(tmp_path: Path):
    sweep = Sweep(tmp_path, learned(0.3, 0.4, 1.0))
    with pytest.raises(Stopped) as stopped:
        sweep.go()
    done = sorted(sweep.state.plan.stages[key].label for key in sweep.state.plan.outcomes)
    assert done == ["trunk0", "trunk1"]
    assert "1k: success 0.35 at the end of the trunk over 2 of 3 seeds, expected at least 0.9" in str(stopped.value)
    assert "still rising at the end: a longer trunk, --trunk-tokens" in str(stopped.value)
    with pytest.raises(Stopped):
        Sweep(tmp_path, learned(0.3, 0.4, 1.0)).go()  # the same command stops before it computes anything


@pytest.mark.parametrize("ends", [(1.0, 1.0, 0.0), (0.89, 0.95, 1.0), (0.95,)])
def test_one_weak_seed_among_others_does_not_stop_it(tmp_path: Path, ends: tuple[float, ...]):
    assert Sweep(tmp_path, learned(*ends)).go() == 4 * len(ends)


def test_a_single_seed_decides_alone(tmp_path: Path):
    with pytest.raises(Stopped):
        Sweep(tmp_path, learned(0.5)).go()


def test_other_settings_than_those_declared_never_stop_it(tmp_path: Path):
    work = learned(1.0, 1.0, 0.0, 0.0)
    trials = tuple(
        replace(trial, parameters={**trial.parameters, "size": "1k" if trial.parameters["seed"] in (0, 1) else "2k"})
        for trial in work.trials
    )
    criterion = replace(work.declaration.criteria[0], where={"size": "1k"})
    declared = replace(work.declaration, criteria=(criterion,))
    assert Sweep(tmp_path, Study(declaration=declared, trials=trials)).go() == 16


def test_a_complete_sweep_is_published_whatever_its_trunks_learned(tmp_path: Path):
    work = learned(0.2, 0.2)
    for stage in work.stages:
        run_stage(stage, Store(tmp_path))
    assert Sweep(tmp_path, work).go() == 0


@pytest.mark.slow
def test_with_go_on_the_same_sweep_computes_the_rest_and_nothing_again(tmp_path: Path):
    site, work = ExecutionSite(results=tmp_path, device="cpu", max_concurrent=1), learned(0.2, 0.2)
    quiet = Console(quiet=True)
    first = run(work, site, quiet)
    assert (first.exit_code, first.run) == (1, 2)
    assert any("was not learned" in line for line in first.lines())
    second = run(work, replace(site, go_on=True), quiet)
    assert (second.exit_code, second.cached, second.run) == (0, 2, 6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"phase": "trnk"}, "no trial has the phase 'trnk': expected one of trunk, branch"),
        ({"where": {"size": "2k"}}, "no treatment has size = '2k'"),
        ({"least": 1.5}, "least 1.5: expected a rate above 0 and at most 1"),
    ],
)
def test_a_criterion_that_no_trial_can_meet_is_refused_in_the_plan(changes: dict[str, Any], said: str):
    work = learned(1.0)
    (criterion,) = work.declaration.criteria
    with pytest.raises(UserError) as refused:
        replace(work, declaration=replace(work.declaration, criteria=(replace(criterion, **changes),)))
    assert said in str(refused.value)


def test_criteria_and_levers_survive_the_declarations_json():
    declared = learned(1.0).declaration
    assert schema.Declaration.from_json(declared.to_json()) == declared
