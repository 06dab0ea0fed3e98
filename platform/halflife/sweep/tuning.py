"""Runs a plan's missing stages on Ray Tune. Imported only if something is missing: importing Ray takes seconds.

A Tune trial is one stage. Actors are long-lived (`reuse_actors`): start-up is paid once per slot, not per stage.
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
from halflife.store import files, leases, provenance
from halflife.store.attempt import Attempt
from halflife.store.execution import Execution
from halflife.store.plan import Plan
from halflife.store.run import Held, Unavailable, run_stage
from halflife.store.stage import EngineStage, Stage
from halflife.store.store import Store
from halflife.sweep import session
from halflife.sweep.packing import Packed
from halflife.sweep.placement import ResourceRequest

if TYPE_CHECKING:
    from halflife.sweep.worker_group import WorkerGroup

RETRIES = 2
"""How often a stage is retried after its process died or raised."""
CHECKPOINT_SECONDS = 20.0
HEAD = "node:__internal_head__"
"""A resource of the head node, on which the driver runs."""
OTHER_CODE = "host {host} runs different code from the driver: run `ray up` again, or submit the sweep with --cluster"


@dataclass(frozen=True, kw_only=True)
class Task:
    """What an actor gets. Tune copies and prints a trial's settings often, so copying is free and the repr is short."""

    packed: Packed
    results: str
    device: str
    request: ResourceRequest
    origin: dict[str, Any]
    wait: bool
    execution: Execution = Execution()
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    keep: bool = True
    """Whether workers started for this stage stay for the next one, and keep their cores or GPUs."""
    title: str = ""
    """What the study calls the stage"""

    def __deepcopy__(self, memory: dict[int, Any]) -> Task:
        return self

    def __repr__(self) -> str:
        return self.packed.name


class StageActor(tune.Trainable):
    """Runs one stage after another."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        request: ResourceRequest = config["task"].request
        if request.workers > 1:  # Ray Train reserves resources for the workers; their actor needs none
            return PlacementGroupFactory([{HEAD: 0.001}])
        bundle = {"CPU": request.cpus, **({"GPU": request.gpus} if request.gpus else {})}
        return PlacementGroupFactory([bundle])

    def setup(self, config: dict[str, Any]) -> None:
        self._task: Task = config["task"]
        self._group: WorkerGroup | None = None

    def cleanup(self) -> None:
        if self._group is not None:
            self._group.close()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._task = new_config["task"]
        return True

    def step(self) -> dict[str, Any]:
        task, store = self._task, Store(self._task.results)
        if task.origin.get("code", provenance.code()) != provenance.code():
            return {"done": True, "refused": OTHER_CODE.format(host=socket.gethostname())}
        try:
            stage = task.packed.stage()
            before = set(files.names(store.home(stage) / "attempts"))
            outcome = run_stage(
                stage,
                store,
                device=task.device,
                execution=task.execution,
                compute=self._by_group if task.execution.workers > 1 else None,
                checkpoint_seconds=task.checkpoint_seconds,
                wait=task.wait,
                origin=task.origin,
                title=task.title,
            )
        except Held:
            return {"done": True, "held": True}
        except (UserError, Unavailable) as error:  # a retry would end the same way
            return {"done": True, "refused": masked(str(error))}
        return {"done": True, "here": outcome.attempt not in before}  # otherwise another sweep's attempt came first

    def _by_group(self, stage: Stage, context: Attempt) -> dict[str, Any]:
        """Run a stage on several workers: the existing group, or a new one."""
        if not isinstance(stage, EngineStage):  # a parent of another kind
            return stage.run(context)
        from halflife.sweep.worker_group import WorkerGroup  # imports Ray Train, which takes seconds

        workers = context.execution.workers
        if self._group is not None and self._group.workers != workers:
            self._group.close()
            self._group = None
        if self._group is None:
            self._group = WorkerGroup(workers, context.device, str(self.logdir))
        group = self._group
        try:
            return group.compute(stage, context)
        finally:
            if group.broken or not self._task.keep:
                group.close()
                self._group = None


class PlanSearcher(Searcher):
    """Suggests the next ready stage of a plan. Stages that another sweep is computing come last.

    `feed` is called before each suggestion. It may add stages to the plan, and returns whether more may come.
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
        self.running: dict[str, Stage] = {}
        """By trial"""
        self._waiting: set[str] = set()
        """Keys of running stages that another process computes"""
        self._watches: dict[str, leases.Watch] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        more = self._feed()
        stage, wait = self._next()
        if stage is None:
            return cast(None, Searcher.FINISHED) if self._plan.finished and not more else None
        self.running[trial_id] = stage
        if wait:
            self._waiting.add(stage.key)
        return {"task": self._make_task(stage, wait)}

    def _next(self) -> tuple[Stage | None, bool]:
        """The stage to run, and whether to wait for the result of another process that holds it."""
        held: list[Stage] = []
        chosen = None
        while chosen is None and (stage := self._plan.take()):
            if outcome := self._store.outcome(stage):
                self._plan.completed(stage.key, outcome)  # by another sweep in the meantime
            elif self._held(stage):
                held.append(stage)
            else:
                chosen = stage
        wait = chosen is None and bool(held) and not self.running
        if wait:
            chosen = held.pop(0)  # nothing else to do: take its result, or take over if its holder dies
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
            return  # `gave_up` is called next, with the reason
        stage = self.running.pop(trial_id)
        outcome = self._store.outcome(stage)
        if outcome:
            self._plan.completed(stage.key, outcome)
            if result and result.get("here"):
                self._ran.add(stage.key)
        elif result and result.get("refused"):
            self._plan.failed(stage.key, result["refused"])
        else:  # held by another process, or found corrupt right after completion
            self._plan.put_back(stage.key)

    def settle(self) -> None:
        """After the workers were stopped: what they had just completed is complete."""
        for stage in self.running.values():
            if outcome := self._store.outcome(stage):
                self._plan.completed(stage.key, outcome)
                if stage.key not in self._waiting:
                    self._ran.add(stage.key)

    def gave_up(self, trial_id: str, reason: str) -> None:
        """The stage has failed after its last retry."""
        self._plan.failed(self.running.pop(trial_id).key, reason)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to do: the store has the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to do: the store has the state."""


class _Watcher(tune.Callback):
    """Reports failures to the searcher, refreshes the live view, and frees what Tune keeps of finished trials."""

    def __init__(
        self, searcher: PlanSearcher, refresh: Callable[[], None], retried: Callable[[Stage, str], None]
    ) -> None:
        self._searcher, self._refresh, self._retried = searcher, refresh, retried

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._refresh()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tune keeps every trial until the end, with its result and statistics: most of the memory that a stage
        costs."""
        kept = trial.run_metadata
        kept.last_result = {}
        kept.metric_analysis.clear()
        kept.metric_n_steps.clear()
        kept.invalidate_cache()

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._retried(self._searcher.running[trial.trial_id], _reason(trial))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._searcher.gave_up(trial.trial_id, _reason(trial))


class _KeepActors(FIFOScheduler):
    """First in, first out, with idle actors kept for the next stage.

    Tune keeps at most one idle actor when no trial is pending, so a plan that narrows to a trunk and widens again would
    pay the start-up of the others again. Only for plans whose stages all have the same resource request: an idle
    actor holds its resources. (ray.tune.execution.tune_controller, `_actor_cache`; a test counts the starts.)
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
    same_request: bool,
    ran: set[str],
    refresh: Callable[[], None],
    retried: Callable[[Stage, str], None],
    feed: Callable[[], bool] = lambda: False,
) -> None:
    """Run what is missing until every stage is complete, failed or blocked, and `feed` has no more.

    KeyboardInterrupt passes through.
    """
    searcher = PlanSearcher(plan, store, make_task, ran, feed)
    try:
        with session.running(cpus, gpus) as scratch:
            tune.run(  # not Tuner, which first pickles the searcher and the callbacks
                StageActor,
                name="sweep",
                storage_path=str(scratch / "tune"),
                search_alg=searcher,
                scheduler=_KeepActors(slots if same_request else 0),
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
    except KeyboardInterrupt:
        searcher.settle()
        raise


def _name(trial: Any) -> str:
    return trial.trial_id


def _reason(trial: Any) -> str:
    """The last line of the traceback, or that the process died."""
    lines = [line.strip() for line in Path(trial.error_file).read_text().splitlines() if line.strip()]
    newest = max(index for index, line in enumerate(lines) if line.startswith("Failure # "))
    if any("actor died" in line.lower() for line in lines[newest:]):
        return "its process died (killed, or out of memory)"
    return masked(lines[-1])
