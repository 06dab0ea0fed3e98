"""run(study, site): plan, publish what is complete, compute what is missing, report."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from halflife.store import inputs, leases, provenance
from halflife.store.plan import Plan
from halflife.store.stage import Stage
from halflife.store.store import Store
from halflife.sweep import estimate, interrupts, machine, notes, report, session
from halflife.sweep.adaptive import Search
from halflife.sweep.early import Early, Stopped
from halflife.sweep.live import View
from halflife.sweep.placement import Placements
from halflife.sweep.publishing import Publishing
from halflife.sweep.redrawing import Redrawing
from halflife.sweep.report import SweepReport
from halflife.sweep.reporting import Reporting
from halflife.sweep.settling import Settle, Settling, costs
from halflife.sweep.site import ExecutionSite
from halflife.sweep.state import SweepState
from halflife.sweep.study import Study
from halflife.tracking import page
from halflife.tracking.publisher import Publisher

UNWRAPPED = 10_000
"""Columns where the output is a file: no line is wrapped"""


Work = Study | Search | Settle


def run(
    work: Work, site: ExecutionSite, console: Console | None = None, *, reporting: Reporting | None = None
) -> SweepReport:
    """Compute and publish what the study is missing; for a search, also choose the settings to try. `reporting` redraws
    the report meanwhile.

    Ctrl-C stops it and the report is marked `interrupted`; a second Ctrl-C exits at once. Raises UserError for bad
    input, before any compute.
    """
    console = console or Console(highlight=False, width=None if sys.stdout.isatty() else UNWRAPPED)
    site.check()
    store = site.store()
    if site.dry_run:
        return _dry_run(work, store, site, console)
    state, placements = _state(work, store, console), site.placements()
    study, plan = state.study, state.plan
    placements.check(state.stages)
    placements.check_memory(stage for stage in state.stages if stage.key not in plan.outcomes)
    site.check_disk(sum(stage.cost.disk_bytes for stage in plan.missing))
    store.prepare()
    inputs.upload(store)

    origin = provenance.gather()
    publisher = Publisher(
        site.actual_tracking_uri,
        experiment=study.declaration.study,
        description=study.declaration.question,
        page=page.experiment_tags(study.declaration),
        sweep=study.key,
        artifacts=site.artifacts,
        lock=leases.Mutex(store.location / f".publishing-{study.key}"),
    )
    publishing = Publishing(study, plan, store, publisher, origin)
    notes.show(state, Path(site.results), console)
    redrawing = _redrawing(study, site, reporting, lambda text: console.print(text, style="dim", markup=False))
    early = None if site.go_on else Early(state, store)
    ran: set[str] = set()
    interrupted, stopped = False, ""
    try:
        with interrupts.handled() as signals:
            publishing.update()
            signals.whole(state.begin)(publishing, placements.slots(state.stages))
            feed = signals.whole(state.feed)
            if early:
                early.check()
            if feed() or not plan.finished:
                with View(
                    plan,
                    store,
                    console,
                    title=lambda stage: state.study.title(stage),
                    trouble=lambda: publisher.troubled,
                    search=state.line,
                    future_work=lambda work: state.future_work(work),
                    device=placements.budget.device,
                    slots=placements.slots(state.stages),
                ) as view:
                    if reporting:
                        declared = study.declaration
                        place = reporting.begin(declared.study, declared.preset, site, study.key)
                        view.note(f"report: {place.absolute().as_uri()}, redrawn while the sweep runs")
                    view.note(view.line([]))

                    def refresh() -> None:
                        publishing.update()
                        view.refresh()
                        if redrawing:
                            redrawing.update(len(plan.outcomes))
                        if early:
                            early.check()

                    _compute(
                        state,
                        store,
                        placements,
                        origin,
                        ran,
                        feed=feed,
                        refresh=refresh,
                        retried=lambda stage, why: view.note(f"retrying {state.study.title(stage)}: {why}"),
                    )
            publishing.update()
            publisher.drain()  # the time that publishing takes is part of the sweep's
    except Stopped as end:
        interrupted, stopped = True, str(end)
    except KeyboardInterrupt:
        interrupted = True
        console.print("stopped: running stages will resume from their last checkpoint, at most 20 s back")
    except Exception:
        state.close()
        publishing.finish("FAILED", {})
        publisher.close(patience=10.0)
        raise
    state.close()
    result = _report(state, site, placements, ran=ran, interrupted=interrupted, stopped=stopped)
    status = "KILLED" if interrupted else "FAILED" if result.failed else "FINISHED"
    publishing.finish(status, result.numbers(), complete=state.complete)
    unpublished = publisher.close(patience=10.0 if interrupted or publisher.troubled else 30.0)
    if redrawing:
        redrawing.close(again=interrupted)  # it says then that the sweep is unfinished
    result = dataclasses.replace(result, unpublished=tuple(unpublished))
    for line in result.lines():
        console.print(line, markup=False)
    return result


def _redrawing(
    study: Study, site: ExecutionSite, reporting: Reporting | None, told: Callable[[str], None]
) -> Redrawing | None:
    if reporting is None:
        return None
    return Redrawing(lambda: reporting.redraw(study.declaration.study, site, study.key), told)


def _state(work: Work, store: Store, console: Console) -> SweepState:
    if isinstance(work, Study):
        return SweepState(work, store)
    if isinstance(work, Settle):
        return Settling(work, store, tell=lambda text: console.print(text, markup=False, highlight=False))
    from halflife.sweep.campaign import Campaign  # imports Optuna: only for a search

    store.prepare()  # the search's journal goes there
    return Campaign(work, store)


def _dry_run(work: Work, store: Store, site: ExecutionSite, console: Console) -> SweepReport:
    """Print the plan; for a search, that of settings drawn at random; to settle, that of the first look."""
    study = work.first if isinstance(work, Settle) else work
    if isinstance(study, Search):
        from halflife.sweep.campaign import example_study

        study = example_study(study)
    state, placements = SweepState(study, store), site.placements()
    placements.check(state.plan.missing)
    estimate.show(study, state.plan, placements, console)
    notes.show(state, Path(site.results), console)
    if isinstance(work, Search):
        console.print(
            f"{work.budget.trials} settings drawn at random stand in for those that the search will suggest",
            markup=False,
        )
    if isinstance(work, Settle):
        for line in costs(work, store, placements):
            console.print(line, markup=False)
    placements.check_memory(state.plan.missing)
    return _report(state, site, placements, ran=set(), dry_run=True)


def _compute(
    state: SweepState,
    store: Store,
    placements: Placements,
    origin: dict[str, Any],
    ran: set[str],
    *,
    feed: Callable[[], bool],
    refresh: Callable[[], None],
    retried: Callable[[Stage, str], None],
) -> None:
    """Run what is missing on Ray Tune; the keys of the stages that ran here are added to `ran`."""
    session.set_environment()
    from halflife.sweep import tuning  # takes seconds, so only if there is something to run
    from halflife.sweep.packing import Packed

    budget, requests = placements.budget, placements.requests(state.stages)
    slots, uniform = placements.slots(state.stages), len(set(requests)) == 1

    def make_task(stage: Stage, wait: bool) -> tuning.Task:
        return tuning.Task(
            packed=Packed.of(stage),
            results=store.address,
            device=budget.device,
            execution=placements[stage].execution,
            request=placements[stage].request,
            origin=origin,
            wait=wait,
            keep=uniform,
            title=f"{state.study.declaration.study}: {state.study.title(stage)}",
        )

    tuning.run_plan(
        state.plan,
        store,
        make_task=make_task,
        slots=slots,
        cpus=slots * max((request.workers for request in requests), default=1),
        gpus=budget.devices if budget.device == "cuda" else 0,
        same_request=uniform,
        ran=ran,
        refresh=refresh,
        retried=retried,
        feed=feed,
    )


def _report(
    state: SweepState,
    site: ExecutionSite,
    placements: Placements,
    *,
    ran: set[str],
    interrupted: bool = False,
    stopped: str = "",
    dry_run: bool = False,
) -> SweepReport:
    study, plan = state.study, state.plan
    trained, unshared = report.tokens(plan, study)
    return SweepReport(
        study=study.declaration.study,
        sweep=study.key,
        tracking_uri=site.actual_tracking_uri,
        results=site.results.absolute(),
        stages=len(plan.stages),
        cached=len(plan.cached),
        run=len(ran),
        elsewhere=len(plan.outcomes.keys() - plan.cached - ran),
        failed={_name(study, plan, key): why for key, why in plan.failures.items()},
        blocked={_name(study, plan, key): why for key, why in plan.blocked.items()},
        interrupted=interrupted,
        stopped=stopped,
        dry_run=dry_run,
        slots=placements.slots(plan.stages.values()),
        wall_seconds=report.seconds_since_start(),
        core_flops=machine.core_flops() if ran and placements.budget.device == "cpu" else None,
        compute_seconds=report.compute_seconds(plan, ran),
        tokens_trained=trained,
        tokens_unshared=unshared,
        search=state.numbers(),
        findings=tuple(state.findings()),
    )


def _name(study: Study, plan: Plan, key: str) -> str:
    """A stage's title and folder."""
    return f"{study.title(plan.stages[key])} ({plan.stages[key].folder_name})"
