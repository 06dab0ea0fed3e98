"""Runs a plan's missing stages on Ray Tune. Imported only when something is missing: importing Ray takes seconds.

A Tune trial is one stage. Actors are long-lived (`reuse_actors`): start-up is paid once a slot, not once a stage.
Nothing that Tune writes is needed afterwards; the stage folders are the truth.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ray import tune
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from halflife.errors import UserError
from halflife.secrets import masked
from halflife.stages.train import Train
from halflife.store import files, leases, provenance
from halflife.store.attempt import Attempt
from halflife.store.execution import Execution
from halflife.store.plan import Plan
from halflife.store.run import Held, Unavailable, run_stage
from halflife.store.stage import Stage
from halflife.store.store import Store
from halflife.sweep import session
from halflife.sweep.resources import ResourceRequest

if TYPE_CHECKING:
    from halflife.sweep.worker_group import WorkerGroup

RETRIES = 2
"""How often a stage is tried again after its process died or raised."""
CHECKPOINT_SECONDS = 20.0
HEAD = "node:__internal_head__"
"""A resource that every Ray has, on the node that the driver runs on."""


OTHER_CODE = "host {host} has other code than the driver: run `ray up` again, or submit the sweep with --cluster"


@dataclass(frozen=True, kw_only=True)
class Task:
    """What an actor is sent. Tune copies and prints a trial's settings often: copying is free and printing short."""

    stage: Stage
    results: str
    device: str
    share: ResourceRequest
    origin: dict[str, Any]
    wait: bool
    execution: Execution = Execution()
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    keep: bool = True
    """Whether workers started for the stage are kept for the next; they keep their cores or GPUs."""

    def __deepcopy__(self, memory: dict[int, Any]) -> Task:
        return self

    def __repr__(self) -> str:
        return self.stage.folder_name


class StageActor(tune.Trainable):
    """Runs one stage after another."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        share: ResourceRequest = config["task"].share
        if share.workers > 1:  # Ray Train reserves what the workers take; their actor needs a place and nothing else
            return PlacementGroupFactory([{HEAD: 0.001}])
        bundle = {"CPU": share.cpus, **({"GPU": share.gpus} if share.gpus else {})}
        return PlacementGroupFactory([bundle])

    def setup(self, config: dict[str, Any]) -> None:
        self._task: Task = config["task"]
        self._crew: WorkerGroup | None = None

    def cleanup(self) -> None:
        if self._crew is not None:
            self._crew.close()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._task = new_config["task"]
        return True

    def step(self) -> dict[str, Any]:
        task, store = self._task, Store(self._task.results)
        if task.origin.get("code", provenance.code()) != provenance.code():
            return {"done": True, "refused": OTHER_CODE.format(host=socket.gethostname())}
        before = set(files.names(store.home(task.stage) / "attempts"))
        try:
            outcome = run_stage(
                task.stage,
                store,
                device=task.device,
                execution=task.execution,
                compute=self._by_crew if task.execution.workers > 1 else None,
                checkpoint_seconds=task.checkpoint_seconds,
                wait=task.wait,
                origin=task.origin,
            )
        except Held:
            return {"done": True, "held": True}
        except (UserError, Unavailable) as error:  # trying again would end the same way
            return {"done": True, "refused": masked(str(error))}
        return {"done": True, "here": outcome.attempt not in before}  # else another sweep's attempt came first

    def _by_crew(self, stage: Stage, context: Attempt) -> dict[str, Any]:
        """Run a stage on several workers: those that are there, or new ones."""
        if not isinstance(stage, Train):  # a parent of another kind
            return stage.run(context)
        from halflife.sweep.worker_group import WorkerGroup  # Ray Train takes seconds to import

        workers = context.execution.workers
        if self._crew is not None and self._crew.workers != workers:
            self._crew.close()
            self._crew = None
        if self._crew is None:
            self._crew = WorkerGroup(workers, context.device, str(self.logdir))
        crew = self._crew
        try:
            return crew.compute(stage, context)
        finally:
            if crew.broken or not self._task.keep:
                crew.close()
                self._crew = None


class PlanSearcher(Searcher):
    """Suggests the next ready stage of a plan. Stages that another sweep computes now come last.

    `feed` lets a plan grow: it is called before each look at it, and says whether more may come.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        make_task: Callable[[Stage, bool], Task],
        ran: set[str],
        feed: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__()
        self._plan, self._store, self._make_task = plan, store, make_task
        self._ran, self._feed = ran, feed
        self._running: dict[str, Stage] = {}
        self._watches: dict[str, leases.Watch] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        more = self._feed()
        stage, wait = self._next()
        if stage is None:
            return cast(None, Searcher.FINISHED) if self._plan.finished and not more else None
        self._running[trial_id] = stage
        return {"task": self._make_task(stage, wait)}

    def _next(self) -> tuple[Stage | None, bool]:
        """The stage to run, and whether to wait for another holder's result."""
        held: list[Stage] = []
        chosen = None
        while chosen is None and (stage := self._plan.take()):
            if outcome := self._store.outcome(stage):
                self._plan.completed(stage.key, outcome)  # by another sweep, meanwhile
            elif self._held(stage):
                held.append(stage)
            else:
                chosen = stage
        wait = chosen is None and bool(held) and not self._running
        if wait:
            chosen = held.pop(0)  # nothing else to do: be there when it ends, or when its holder does
        for stage in held:
            self._plan.put_back(stage.key)
        return chosen, wait

    def _held(self, stage: Stage) -> bool:
        lease = self._store.holder(stage)
        if lease is None:
            return False
        return not self._watches.setdefault(stage.key, leases.Watch(leases.Pulse())).abandoned(lease)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if error:
            return  # `gave_up` follows, and knows why
        stage = self._running.pop(trial_id)
        outcome = self._store.outcome(stage)
        if outcome:
            self._plan.completed(stage.key, outcome)
            if result and result.get("here"):
                self._ran.add(stage.key)
        elif result and result.get("refused"):
            self._plan.failed(stage.key, result["refused"])
        else:  # held by another, or found corrupt the moment it was done
            self._plan.put_back(stage.key)

    def gave_up(self, trial_id: str, reason: str) -> None:
        """The stage's last attempt has failed."""
        self._plan.failed(self._running.pop(trial_id).key, reason)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store remembers."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the store remembers."""


class _Watcher(tune.Callback):
    """Tells the searcher why a stage failed, and the live view that time has passed. Frees what nobody reads again."""

    def __init__(
        self, searcher: PlanSearcher, refresh: Callable[[], None], retried: Callable[[Stage, str], None]
    ) -> None:
        self._searcher, self._refresh, self._retried = searcher, refresh, retried

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._refresh()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tune keeps each trial to the end, with its result and statistics of it: most of what a stage leaves here."""
        kept = trial.run_metadata
        kept.last_result = {}
        kept.metric_analysis.clear()
        kept.metric_n_steps.clear()
        kept.invalidate_cache()

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._retried(trial.config["task"].stage, _reason(trial))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._searcher.gave_up(trial.trial_id, _reason(trial))


class _KeepActors(FIFOScheduler):
    """First in, first out, with idle actors kept for the next stage.

    Tune keeps one idle actor at most when no trial is pending. A plan that narrows to a trunk and widens again would
    pay the start-up of the others anew. Only for plans whose stages all need the same share: an idle actor
    holds its resources. (ray.tune.execution.tune_controller, `_actor_cache`; a test counts the starts.)
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if self._count:
            tune_controller._actor_cache.increase_max(trial.placement_group_factory, by=self._count)
            self._count = 0


def run_plan(
    plan: Plan,
    store: Store,
    *,
    make_task: Callable[[Stage, bool], Task],
    slots: int,
    cpus: int,
    gpus: int,
    same_share: bool,
    ran: set[str],
    refresh: Callable[[], None],
    retried: Callable[[Stage, str], None],
    feed: Callable[[], bool] = lambda: False,
) -> None:
    """Runs what is missing until every stage is complete, failed or blocked, and `feed` has no more.

    KeyboardInterrupt passes through.
    """
    searcher = PlanSearcher(plan, store, make_task, ran, feed)
    with session.running(cpus, gpus) as scratch:
        tune.run(  # not Tuner, which pickles the searcher and the callbacks first
            StageActor,
            name="sweep",
            storage_path=str(scratch / "tune"),
            search_alg=searcher,
            scheduler=_KeepActors(slots if same_share else 0),
            num_samples=-1,
            max_concurrent_trials=slots,
            reuse_actors=True,
            max_failures=RETRIES,
            raise_on_failed_trial=False,
            callbacks=[_Watcher(searcher, refresh, retried)],
            trial_name_creator=_name,
            trial_dirname_creator=_name,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        )


def _name(trial: Any) -> str:
    return trial.trial_id


def _reason(trial: Any) -> str:
    """The last line of the traceback, or that the process is gone."""
    lines = [line.strip() for line in Path(trial.error_file).read_text().splitlines() if line.strip()]
    newest = max(place for place, line in enumerate(lines) if line.startswith("Failure # "))
    if any("actor died" in line.lower() for line in lines[newest:]):
        return "its process died (killed, or out of memory)"
    return masked(lines[-1])
