"""Searches over stages that cost nothing, and a driver of them without Ray."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from halflife.errors import Diverged
from halflife.store.run import run_stage
from halflife.store.stage import Context, Cost, Stage
from halflife.store.store import Store
from halflife.sweep.adaptive import Budget, Finished, Search
from halflife.sweep.campaign import Campaign
from halflife.sweep.publishing import Publishing
from halflife.sweep.study import Trial
from halflife.tracking import schema
from halflife.tracking.publisher import Publisher
from tests.sweep.helpers import CONTROLS, declaration
from tests.tracking.fake_store import FakeStore

OBJECTIVE = schema.Objective(name="height", label="Height", direction="maximize", formula="last value")
COST = schema.Objective(name="cost", label="Cost", direction="minimize", formula="x")


@dataclass(frozen=True, kw_only=True)
class Point(Stage):
    """Records `score/value` and `score/cost`, and notes each run in `<results>/points.log`."""

    kind: ClassVar[str] = "point"

    value: float
    cost_: float = 0.0
    name: str = ""
    parent: Point | None = None
    seed: int = 0
    deed: str = ""
    """"" | diverge | raise | raise-once | nan | sleep"""

    @property
    def cost(self) -> Cost:
        return Cost(tokens=1, flops=1e6, memory_bytes=1.0, disk_bytes=1.0)

    @property
    def label(self) -> str:
        return self.name

    def run(self, context: Context) -> dict[str, Any]:
        with open(context.results / "points.log", "a") as log:
            log.write(f"{self.key}\n")
        if self.deed == "sleep":
            import time

            time.sleep(0.4)
        if self.deed == "diverge":
            raise Diverged("loss is nan at step 1")
        if self.deed == "raise" or (self.deed == "raise-once" and computed(context.results).count(self.key) == 1):
            raise RuntimeError("as asked")
        value = math.nan if self.deed == "nan" else self.value
        context.record(1, {"score/value": value, "score/cost": self.cost_})
        return {"tokens": 1}


def computed(results: Path) -> list[str]:
    """Keys of the points that any process has started to compute, in order."""
    log = results / "points.log"
    return log.read_text().splitlines() if log.exists() else []


@dataclass(frozen=True)
class Setting:
    """A point in the plane, reached from a trunk at x."""

    x: float
    y: float = 0.0
    kind: str = "plain"
    deed: str = ""


def height(x: float, y: float) -> float:
    """A narrow peak of height 1 at (0.7, 0.2) in the unit square."""
    return math.exp(-(((x - 0.7) / 0.15) ** 2) - ((y - 0.2) / 0.15) ** 2)


def plane(trial: Any) -> Setting:
    return Setting(trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1))


def unfold(setting: Setting, seed: int) -> Trial:
    trunk = Point(name="trunk", value=0.0, seed=seed, cost_=round(setting.x, 3))
    end = Point(
        name="end",
        value=height(setting.x, setting.y) + 1e-3 * seed,
        cost_=setting.x,
        parent=trunk,
        seed=seed,
        deed=setting.deed,
    )
    return Trial(
        name=f"seed {seed} · x {setting.x} y {setting.y} {setting.kind} {setting.deed}",
        parameters={"branch": 0, "seed": seed, "x": setting.x, "y": setting.y},
        stages={"trunk": trunk, "branch": end},
    )


def controls(seed: int, deeds: Mapping[str, str] = {}) -> tuple[Trial, ...]:
    """`deeds` by role."""
    return tuple(
        Trial(
            name=f"seed {seed} · {role}",
            parameters={"branch": 0, "seed": seed},
            stages={"branch": Point(name=role, value=value, seed=seed, deed=deeds.get(role, ""))},
            role=role,
        )
        for role, value in (("absent", 0.0), ("positive", 1.0))
    )


def last(name: str) -> Callable[[Finished], float]:
    return lambda finished: finished.curve("branch", name)[1][-1]


def above_absent(finished: Finished) -> float:
    """A measure that reads one of the two controls."""
    return last("score/value")(finished) - last("score/value")(finished.control("absent"))


def search(**changes: Any) -> Search:
    """Climb the peak, with one seed; `declared` replaces fields of the declaration."""
    declared = changes.pop("declared", {})
    budget = changes.pop("budget", {})
    given: dict[str, Any] = {
        "declaration": declaration(controls=CONTROLS, objectives=(OBJECTIVE,), **declared)
        if "objectives" not in declared
        else declaration(controls=CONTROLS, **declared),
        "suggest": plane,
        "unfold": unfold,
        "measures": {"height": last("score/value")},
        "controls": controls,
        "budget": Budget(**{"trials": 6, "startup": 4, "at_once": 1, **budget}),
        "seeds": (0,),
    }
    return Search(**{**given, **changes})


@dataclass
class Carried:
    """A search run without Ray, by one process, one stage after another."""

    search: Search
    results: Path
    tracking: FakeStore = field(default_factory=FakeStore)
    clock: Callable[[], float] = lambda: 0.0
    slots: int = 1
    before: Callable[[], None] = lambda: None
    """Called when the search is open, and nothing has been suggested or resumed."""

    def __post_init__(self) -> None:
        store = Store(self.results)
        store.prepare()
        self.store, self.campaign = store, Campaign(self.search, store, clock=self.clock)
        made = self.campaign.study
        self.publisher = Publisher(
            "", experiment=made.declaration.study, description="?", sweep=made.key, client=self.tracking, pause=0.01
        )
        self.publishing = Publishing(made, self.campaign.plan, store, self.publisher, {})
        self.publishing.update()
        self.before()
        self.campaign.begin(self.publishing, self.slots)

    def run(self, stages: int | None = None) -> Carried:
        """Run to the end, or until this many stages have run, as if killed then."""
        while self.campaign.feed() or not self.campaign.plan.finished:
            while stage := self.campaign.plan.take():
                if stages is not None and (stages := stages - 1) < 0:
                    return self
                try:
                    self.campaign.plan.completed(stage.key, run_stage(stage, self.store))
                except RuntimeError as error:
                    self.campaign.plan.failed(stage.key, str(error))
                self.campaign.feed()
        return self.end()

    def end(self, status: Any = "FINISHED") -> Carried:
        self.campaign.close()
        self.publishing.update()
        self.publishing.finish(status, {})
        unpublished = self.publisher.close(patience=60.0)
        assert unpublished == [], unpublished
        return self

    @property
    def journal(self) -> Path:
        (path,) = (self.results / "optuna").glob("*.journal")
        return path

    @property
    def study(self) -> Any:
        """The Optuna study, opened by another process."""
        import optuna
        from optuna.storages.journal import JournalFileBackend

        storage = optuna.storages.JournalStorage(JournalFileBackend(str(self.journal)))
        (name,) = optuna.get_all_study_names(storage)
        return optuna.load_study(study_name=name, storage=storage)


def states(carried: Carried) -> list[str]:
    return [trial.state.name for trial in carried.study.trials]


def conditional(trial: Any) -> Setting:
    kind = trial.suggest_categorical("kind", ["plain", "bent"])
    y = trial.suggest_float("bend", 0, 1) if kind == "bent" else 0.0
    return Setting(trial.suggest_float("x", 0, 1), y, kind)


def two_objectives(**changes: Any) -> Any:
    measures = {"height": last("score/value"), "cost": last("score/cost")}
    return search(measures=measures, declared={"objectives": (OBJECTIVE, COST)}, **changes)
