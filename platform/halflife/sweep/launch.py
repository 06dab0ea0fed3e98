"""run(study, place): plan, publish what is there, compute what is missing, say how it went."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from rich.console import Console

from halflife.store import inputs, leases, provenance
from halflife.store.plan import Plan
from halflife.store.stage import Stage
from halflife.store.store import Store
from halflife.sweep import estimate, report, session
from halflife.sweep.adaptive import Search
from halflife.sweep.live import View
from halflife.sweep.publishing import Publishing
from halflife.sweep.report import SweepReport
from halflife.sweep.site import ExecutionSite
from halflife.sweep.state import SweepState
from halflife.sweep.study import Study
from halflife.tracking.publisher import Publisher


def run(work: Study | Search, place: ExecutionSite, console: Console | None = None) -> SweepReport:
    """Computes what the study lacks at this place, and publishes all of it; a search also decides what it has.

    Ctrl-C stops it, a second one at once; the report then says `interrupted`. Raises UserError for bad input, before
    any compute.
    """
    console = console or Console(highlight=False)
    place.check()
    store = place.store()
    if place.dry_run:
        return _dry_run(work, store, place, console)
    course = _course(work, store)
    study, plan = course.study, course.plan
    place.check_stages(course.stages)
    place.check_fits(stage for stage in course.stages if stage.key not in plan.outcomes)
    place.check_disk(sum(stage.cost.disk_bytes for stage in plan.missing))
    store.prepare()
    inputs.share(store)

    origin = provenance.gather()
    publisher = Publisher(
        place.actual_tracking_uri,
        experiment=study.declaration.study,
        description=study.declaration.question,
        sweep=study.key,
        artifacts=place.artifacts,
        alone=leases.Alone(store.place / f".publishing-{study.key}"),
    )
    publishing = Publishing(study, plan, store, publisher, origin)
    ran: set[str] = set()
    interrupted = False
    try:
        publishing.update()
        course.begin(publishing, place.slots(place.shares(course.stages).values()))
        if course.feed() or not plan.finished:
            with View(
                plan,
                store,
                console,
                title=lambda stage: course.study.title(stage),
                trouble=lambda: publisher.troubled,
                search=course.line,
                ahead=lambda work: course.ahead(work),
                device=place.actual_device,
            ) as view:
                view.note(view.line([]))

                def refresh() -> None:
                    publishing.update()
                    view.refresh()

                _compute(
                    course,
                    store,
                    place,
                    origin,
                    ran,
                    refresh=refresh,
                    retried=lambda stage, why: view.note(f"{course.study.title(stage)} is tried again: {why}"),
                )
        publishing.update()
        publisher.drain()  # the time that publishing takes is part of the sweep's
    except KeyboardInterrupt:
        interrupted = True
        console.print("stopped: running stages go on from their last checkpoint, at most 20 s back")
    except Exception:
        course.leave()
        publishing.finish("FAILED", {})
        publisher.close(patience=10.0)
        raise
    course.leave()
    result = _report(course, place, ran=ran, interrupted=interrupted)
    publishing.finish("KILLED" if interrupted else "FAILED" if result.failed else "FINISHED", result.numbers())
    unpublished = publisher.close(patience=10.0 if interrupted or publisher.troubled else 30.0)
    result = dataclasses.replace(result, unpublished=tuple(unpublished))
    for line in result.lines():
        console.print(line, markup=False)
    return result


def _course(work: Study | Search, store: Store) -> SweepState:
    if isinstance(work, Study):
        return SweepState(work, store)
    from halflife.sweep.campaign import Campaign  # imports Optuna: only for a search

    store.prepare()  # the search's journal goes there
    return Campaign(work, store)


def _dry_run(work: Study | Search, store: Store, place: ExecutionSite, console: Console) -> SweepReport:
    """Prints the plan; of a search, one of settings drawn at random."""
    study = work
    if isinstance(study, Search):
        from halflife.sweep.campaign import example_study

        study = example_study(study)
    course = SweepState(study, store)
    place.check_stages(course.plan.missing)
    estimate.show(study, course.plan, place, console)
    if isinstance(work, Search):
        console.print(
            f"{work.budget.trials} settings drawn at random stand for those that the search will suggest", markup=False
        )
    place.check_fits(course.plan.missing)
    return _report(course, place, ran=set(), dry_run=True)


def _compute(
    course: SweepState,
    store: Store,
    place: ExecutionSite,
    origin: dict[str, Any],
    ran: set[str],
    *,
    refresh: Callable[[], None],
    retried: Callable[[Stage, str], None],
) -> None:
    """Runs what is missing on Ray Tune; the keys of the stages run here are added to `ran`."""
    session.set_environment()
    with _stoppable():
        from halflife.sweep import tuning  # takes seconds, so only where there is something to run

        device, shares = place.actual_device, place.shares(course.stages)
        slots, alike = place.slots(shares.values()), len(set(shares.values())) == 1

        def make_task(stage: Stage, wait: bool) -> tuning.Task:
            share = shares.get(stage.key) or place.shares([stage])[stage.key]
            return tuning.Task(
                stage=stage,
                results=store.address,
                device=device,
                execution=place.execution(stage),
                share=share,
                origin=origin,
                wait=wait,
                keep=alike,
            )

        tuning.run_plan(
            course.plan,
            store,
            make_task=make_task,
            slots=slots,
            cpus=slots * max((share.workers for share in shares.values()), default=1),
            gpus=place.machine.gpus.count if device == "cuda" else 0,
            same_share=alike,
            ran=ran,
            refresh=refresh,
            retried=retried,
            feed=course.feed,
        )


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise KeyboardInterrupt; the next one ends the process on the spot."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, at_once)
        raise KeyboardInterrupt

    def at_once(number: int, frame: FrameType | None) -> None:
        os._exit(128 + number)  # Ray's processes end with ours

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _report(
    course: SweepState, place: ExecutionSite, *, ran: set[str], interrupted: bool = False, dry_run: bool = False
) -> SweepReport:
    study, plan = course.study, course.plan
    trained, unshared = report.tokens(plan, study)
    return SweepReport(
        study=study.declaration.study,
        sweep=study.key,
        tracking_uri=place.actual_tracking_uri,
        results=place.results.absolute(),
        stages=len(plan.stages),
        cached=len(plan.cached),
        run=len(ran),
        elsewhere=len(plan.outcomes.keys() - plan.cached - ran),
        failed={_name(study, plan, key): why for key, why in plan.failures.items()},
        blocked={_name(study, plan, key): why for key, why in plan.blocked.items()},
        interrupted=interrupted,
        dry_run=dry_run,
        slots=place.slots(place.shares(plan.stages.values()).values()),
        wall_seconds=report.seconds_since_start(),
        compute_seconds=report.compute_seconds(plan, ran),
        tokens_trained=trained,
        tokens_unshared=unshared,
        search=course.numbers(),
        findings=tuple(course.findings()),
    )


def _name(study: Study, plan: Plan, key: str) -> str:
    """A stage for people who want to find its folder."""
    return f"{study.title(plan.stages[key])} ({plan.stages[key].folder_name})"
