from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
from rich.console import Console

from halflife.store.plan import Plan
from halflife.store.run import run_stage
from halflife.store.stage import Cost
from halflife.store.store import Store
from halflife.sweep import estimate as estimating
from halflife.sweep import launch, machine, paces
from halflife.sweep.estimate import STARTUP_SECONDS, estimate
from halflife.sweep.paces import STAGE_SECONDS, STEP_SECONDS, assumed_flops, assumed_seconds
from halflife.sweep.site import ExecutionSite
from tests.sweep.fakes import Fake
from tests.sweep.helpers import study


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which nothing else runs."""
    monkeypatch.setattr(machine, "core_share", lambda processes: 1.0)


def prepared(tmp_path: Path, completed: int = 0, **settings):
    made, store = study(trunks=2, branches=3, seconds=0.02, **settings), Store(tmp_path)
    for stage in made.stages[:completed]:
        run_stage(stage, store)
    site = ExecutionSite(results=tmp_path, device="cpu", max_concurrent=2)
    return made, Plan(made.stages, store), site.placements()


def test_the_table_counts_stages_by_phase(tmp_path: Path):
    found = estimate(*prepared(tmp_path, completed=2))
    assert (found.phases["trunk"].stages, found.phases["trunk"].cached) == (2, 1)
    assert (found.phases["branch"].stages, found.phases["branch"].cached) == (6, 1)
    assert found.total.stages == 8
    assert found.total.tokens == 6 * 5


def test_time_is_the_work_over_the_slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(paces, "assumed_flops", lambda device: 1e6 * 0.02)  # one stage per second
    assert estimate(*prepared(tmp_path)).seconds == pytest.approx(8 * (1 + STAGE_SECONDS) / 2 + STARTUP_SECONDS)


def test_time_is_never_below_the_longest_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(paces, "assumed_flops", lambda device: 1e6 * 0.02)
    made, plan, _ = prepared(tmp_path)
    wide = ExecutionSite(results=tmp_path, device="cpu", max_concurrent=100)
    assert estimate(made, plan, wide.placements()).seconds == pytest.approx(2 * (1 + STAGE_SECONDS) + STARTUP_SECONDS)


def test_speed_is_measured_on_complete_stages(tmp_path: Path):
    found = estimate(*prepared(tmp_path, completed=2))
    assert found.measured == 6


def test_what_other_work_leaves_of_a_core_makes_everything_longer_that_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Seen: the smoke preset was said to take 29 seconds on a loaded machine, and took 3 minutes 23."""
    monkeypatch.setattr(paces, "assumed_flops", lambda device: 1e6 * 0.02)
    monkeypatch.setattr(machine, "core_share", lambda processes: 0.25)
    expected = 8 * (4 + STAGE_SECONDS) / 2 + 4 * STARTUP_SECONDS
    made, plan, placements = prepared(tmp_path)
    assert estimate(made, plan, placements).seconds == pytest.approx(expected)
    console = Console(record=True, width=120, file=io.StringIO())
    estimating.show(made, plan, placements, console)
    assert "other work leaves 25% of a core" in " ".join(console.export_text().split())


def test_the_share_of_a_core_is_above_zero_and_at_most_one():
    assert 0 < machine._products(1)[0][1] <= 1


@dataclass(frozen=True, kw_only=True)
class Tokenless(Fake):
    kind: ClassVar[str] = "tokenless"

    @property
    def cost(self) -> Cost:
        return replace(super().cost, tokens=0)


def test_complete_stages_that_train_no_tokens_have_a_pace_too(tmp_path: Path):
    store, stage = Store(tmp_path), Tokenless(name="a")
    run_stage(stage, store)
    plan = Plan([stage], store)
    spent = plan.outcomes[stage.key].summary["seconds_training"]
    assert spent > 0
    assert list(paces.measured(plan, "cpu").values()) == [(assumed_seconds(stage, "cpu"), spent)]


@dataclass(frozen=True, kw_only=True)
class Recount(Fake):
    kind: ClassVar[str] = "recount"

    @property
    def cost(self) -> Cost:
        return replace(super().cost, tokens=1000 * super().cost.tokens)


def test_a_stage_that_reports_fewer_tokens_than_it_costs_has_not_stopped_early_unless_it_may(tmp_path: Path):
    """Seen: a sweep of a quarter of an hour was said to take 344 hours."""
    store, stage = Store(tmp_path), Recount(name="a")
    run_stage(stage, store)
    plan = Plan([stage], store)
    spent = plan.outcomes[stage.key].summary["seconds_training"]
    assert spent > 0
    assert list(paces.measured(plan, "cpu").values()) == [(assumed_seconds(stage, "cpu"), spent)]


@dataclass(frozen=True, kw_only=True)
class Stepwise(Fake):
    kind: ClassVar[str] = "stepwise"

    @property
    def cost(self) -> Cost:
        return replace(super().cost, flops=assumed_flops("cpu"), steps=500)


def test_each_step_takes_time_in_addition_to_its_flops(tmp_path: Path):
    assert assumed_seconds(Stepwise(name="a"), "cpu") == pytest.approx(1 + 500 * STEP_SECONDS)
    assert Stepwise(name="a").cost.times(3) == replace(
        Stepwise(name="a").cost, tokens=15, flops=3 * assumed_flops("cpu"), steps=1500
    )


def test_a_complete_study_takes_no_time(tmp_path: Path):
    found = estimate(*prepared(tmp_path, completed=8))
    assert (found.seconds, found.disk_bytes, found.memory_bytes) == (0.0, 0.0, 0.0)


def test_no_line_of_a_file_is_wrapped(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    launch.run(study(), ExecutionSite(results=tmp_path / "none", device="cpu", dry_run=True))
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("about "))
    assert line.endswith(" GB of disk")


def test_blocked_stages_cost_nothing_and_are_told(tmp_path: Path):
    made, store = study(trunks=1, branches=3, deeds={"trunk0": "diverge"}), Store(tmp_path)
    run_stage(made.stages[0], store)
    site, console = ExecutionSite(results=tmp_path, device="cpu"), Console(record=True, width=120, file=io.StringIO())
    plan, placements = Plan(made.stages, store), site.placements()
    assert estimate(made, plan, placements).total.missing == 0
    estimating.show(made, plan, placements, console)
    text = console.export_text()
    assert "3 trials; 0 of 4 stages missing" in text
    assert "blocked: 3 stages: parent fake-" in text
    assert "memory on each device" not in text


def test_the_table_is_printed(tmp_path: Path):
    made, plan, placements = prepared(tmp_path)
    console = Console(record=True, width=120, file=io.StringIO())
    estimating.show(made, plan, placements, console)
    text = console.export_text()
    assert "nothing is run" in text
    assert "6 trials; 8 of 8 stages missing, 2 at once on cpu" in text
    speed = f"{assumed_flops('cpu') / 1e9:.3g} GFLOP/s per slot, 70% of a core's in matrix products"
    assert f"assuming {speed}, and 10 ms overhead per step" in " ".join(text.split())
