from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halflife.store.plan import Plan
from halflife.store.run import run_stage
from halflife.store.stage import Outcome
from halflife.store.store import Store
from tests.store.fakes import Walk, computed

DONE = Outcome(status="complete", attempt="x", summary={})
DIVERGED = Outcome(status="diverged", attempt="x", summary={})


def _names(stages: object) -> list[str]:
    return [stage.name for stage in stages]  # type: ignore[attr-defined]


def test_a_shared_trunk_occurs_once_and_before_its_branches(store: Store) -> None:
    branches = [Walk(name=name, starts=(Walk(name="trunk"),)) for name in "abc"]
    plan = Plan(branches, store)
    assert _names(plan.missing) == ["trunk", "a", "b", "c"]
    assert _names(plan.ready()) == ["trunk"]


def test_the_longest_remaining_path_comes_first(store: Store) -> None:
    short = Walk(name="short", flops=5)
    long = Walk(name="end", flops=4, starts=(Walk(name="begin", flops=2),))
    plan = Plan([short, long], store)
    assert _names(plan.ready()) == ["begin", "short"]
    begin = plan.take()
    assert begin
    plan.completed(begin.key, DONE)
    assert _names(plan.ready()) == ["short", "end"]


def test_of_equal_stages_the_first_requested_comes_first(store: Store) -> None:
    assert _names(Plan([Walk(name=name) for name in "cab"], store).ready()) == ["c", "a", "b"]


def test_a_complete_stage_is_cached_and_does_not_need_its_parents(store: Store) -> None:
    trunk = Walk(name="trunk")
    branch = Walk(name="branch", starts=(trunk,))
    run_stage(branch, store)
    (store.folder(trunk) / "DONE").unlink()
    plan = Plan([branch], store)
    assert plan.cached == {branch.key}
    assert plan.missing == []
    assert plan.finished


def test_a_missing_parent_of_a_missing_stage_is_planned_and_a_complete_one_is_not(store: Store) -> None:
    trunk = Walk(name="trunk")
    run_stage(trunk, store)
    plan = Plan([Walk(name="branch", starts=(trunk,))], store)
    assert _names(plan.ready()) == ["branch"]
    assert set(plan.outcomes) == {trunk.key}


def test_descendants_of_a_diverged_stage_are_blocked_with_the_reason_and_the_rest_runs(store: Store) -> None:
    trunk = Walk(name="trunk")
    branch = Walk(name="branch", starts=(trunk,))
    leaf = Walk(name="leaf", starts=(branch,))
    plan = Plan([leaf, Walk(name="other")], store)
    plan.completed(trunk.key, DIVERGED)
    assert plan.blocked == dict.fromkeys((branch.key, leaf.key), f"parent {trunk.folder_name} ended as diverged")
    assert _names(plan.ready()) == ["other"]


def test_a_cached_divergence_blocks_from_the_start(store: Store) -> None:
    trunk = Walk(name="trunk", diverges=True)
    run_stage(trunk, store)
    plan = Plan([Walk(name="branch", starts=(trunk,))], store)
    assert plan.finished
    assert len(plan.blocked) == 1


def test_an_unavailable_stage_is_blocked(store: Store) -> None:
    trunk = Walk(name="trunk")
    plan = Plan([Walk(name="branch", starts=(trunk,), needs="snapshot")], store)
    plan.completed(trunk.key, DONE)
    assert list(plan.blocked.values()) == ["the start never reached snapshot"]


def test_a_failure_blocks_its_descendants(store: Store) -> None:
    trunk = Walk(name="trunk")
    one = Walk(name="one", starts=(trunk,))
    both = Walk(name="both", starts=(trunk, Walk(name="other")))
    plan = Plan([one, both], store)
    plan.failed(trunk.key, "out of memory")
    assert plan.failures == {trunk.key: "out of memory"}
    assert set(plan.blocked) == {one.key, both.key}
    other = plan.take()
    assert other
    plan.completed(other.key, DONE)
    assert plan.take() is None
    assert plan.finished


def test_a_stage_that_is_put_back_is_ready_again(store: Store) -> None:
    plan = Plan([Walk(name="a")], store)
    stage = plan.take()
    assert stage
    assert plan.take() is None
    assert not plan.finished
    plan.put_back(stage.key)
    assert plan.running == []
    assert plan.take() == stage


@given(st.lists(st.tuples(st.lists(st.integers(0, 30), max_size=3), st.floats(0, 9)), min_size=1, max_size=30))
def test_any_plan_can_be_walked_to_its_end_with_parents_always_before_children(
    tmp_path_factory: pytest.TempPathFactory, shape: list[tuple[list[int], float]]
) -> None:
    stages: list[Walk] = []
    for number, (starts, flops) in enumerate(shape):
        chosen = tuple(stages[start % number] for start in starts) if number else ()
        stages.append(Walk(name=str(number), starts=chosen, flops=flops))
    plan = Plan(stages, Store(tmp_path_factory.mktemp("plan")))
    ended: list[str] = []
    while stage := plan.take():
        assert {parent.key for parent in stage.parents} <= set(ended)
        plan.completed(stage.key, DONE)
        ended.append(stage.key)
    assert len(ended) == len(stages) == len(set(ended))
    assert plan.finished


def test_a_chain_longer_than_pythons_stack_can_be_planned(store: Store) -> None:
    stage = Walk(name="0")
    for number in range(2 * sys.getrecursionlimit()):
        stage = Walk(name=str(number + 1), starts=(stage,))
    plan = Plan([stage], store)
    assert _names(plan.ready()) == ["0"]
    assert plan.stages[stage.key] is stage


def test_running_a_plan_twice_computes_once(store: Store) -> None:
    stages = [Walk(name=name, starts=(Walk(name="trunk"),)) for name in "ab"]
    for _ in range(2):
        plan = Plan(stages, store)
        while stage := plan.take():
            plan.completed(stage.key, run_stage(stage, store))
    assert len(computed(store.root)) == 3 * 4


def test_planning_imports_neither_torch_nor_ray_nor_mlflow_nor_polars() -> None:
    root = Path(__file__).parents[2]
    heavy = "{'torch', 'ray', 'mlflow', 'polars', 'transformers'}"
    code = (
        "import sys; from halflife.stages import train, treatments; from halflife.store import plan, run, store; "
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=root / "platform", capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "trunks", [pytest.param(100, marks=pytest.mark.slow), pytest.param(1000, marks=pytest.mark.nightly)]
)
def test_a_hundred_thousand_stages_are_planned_within_a_minute_and_a_tenth_in_a_tenth(
    store: Store, trunks: int
) -> None:
    from dataclasses import replace

    from halflife.stages.train import Checkpoint, Train
    from tests.stages.test_golden_keys import BRANCH, TRUNK

    stages: list[Train] = []
    for seed in range(trunks):
        trunk = replace(TRUNK, seed=seed)
        stages.append(trunk)
        stages.extend(replace(BRANCH, start=Checkpoint(stage=trunk), tokens=500_000 + number) for number in range(99))
    began = time.process_time()
    plan = Plan(stages, store)
    seconds = time.process_time() - began
    assert len(plan.missing) == 100 * trunks
    assert seconds < 0.06 * trunks


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12),
    st.lists(st.integers(0, 9), min_size=1, max_size=8),
    st.integers(0, 8),
)
def test_a_plan_that_grew_is_the_plan_of_all_at_once(
    tmp_path_factory: pytest.TempPathFactory, edges: list[tuple[int, int]], wanted: list[int], cut: int
) -> None:
    stages: list[Walk] = []
    for number in range(10):
        starts = tuple(stages[low] for low in sorted({low for low, high in edges if high == number and low < number}))
        stages.append(Walk(name=str(number), starts=starts))
    store = Store(tmp_path_factory.getbasetemp() / "nothing-is-there")
    whole, grown = (Plan([stages[number] for number in some], store) for some in (wanted, wanted[:cut]))
    grown.add([stages[number] for number in wanted[cut:]], store)
    assert list(grown.stages) == list(whole.stages)
    assert grown.ready() == whole.ready()
    ends: list[list[str]] = [[], []]
    for plan, names in zip((whole, grown), ends, strict=True):
        while stage := plan.take():
            names.append(_names([stage])[0])
            plan.completed(stage.key, DONE)
    assert ends[0] == ends[1]


def test_added_stages_wait_for_running_parents_and_fork_from_complete_ones(store: Store) -> None:
    trunk = Walk(name="trunk")
    plan = Plan([trunk], store)
    plan.take()
    plan.add([Walk(name="a", starts=(trunk,))], store)
    assert plan.ready() == []
    assert _names(plan.running) == ["trunk"]
    plan.completed(trunk.key, DONE)
    plan.add([Walk(name="b", starts=(trunk,))], store)
    assert sorted(_names(plan.ready())) == ["a", "b"]
    assert plan.cached == frozenset()


def test_added_descendants_of_a_failure_or_a_divergence_are_blocked(store: Store) -> None:
    broken, diverged = Walk(name="broken"), Walk(name="diverged")
    plan = Plan([broken, diverged], store)
    for _ in range(2):
        plan.take()
    plan.failed(broken.key, "as asked")
    plan.completed(diverged.key, DIVERGED)
    children = [Walk(name=f"after {each.name}", starts=(each,)) for each in (broken, diverged)]
    plan.add([Walk(name=f"after {each.name}", starts=(each,)) for each in children], store)
    assert len(plan.blocked) == 4
    assert plan.finished


def test_an_added_complete_stage_is_cached(store: Store) -> None:
    plan = Plan([Walk(name="a")], store)
    run_stage(Walk(name="b"), store)
    plan.add([Walk(name="b")], store)
    assert plan.cached == {Walk(name="b").key}
    assert _names(plan.missing) == ["a"]
