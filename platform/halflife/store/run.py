"""run_stage: compute a stage once, however many processes need it and however often they are interrupted."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from halflife.errors import Diverged
from halflife.store import files, inputs, leases, provenance
from halflife.store.attempt import RESUME, Attempt, checkpoint_of
from halflife.store.execution import Execution
from halflife.store.files import AnyPath
from halflife.store.stage import Outcome, Progress, Stage
from halflife.store.store import Store

LONGEST_PAUSE = 1.0
"""Seconds between polls of a stage that another process is computing."""
RETRACTIONS = 5
"""Number of corrupt completions after which a stage is not computed again: the storage is unreliable."""


class Held(Exception):
    """Another process is computing the stage, and the caller did not want to wait."""


class Unavailable(Exception):
    """The stage can never run: because of how its parents ended, or because its results keep getting corrupt."""


def run_stage(
    stage: Stage,
    store: Store,
    *,
    device: str = "cpu",
    execution: Execution = Execution(),
    compute: Callable[[Stage, Attempt], dict[str, Any]] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    checkpoint_seconds: float = 20.0,
    wait: bool = True,
    origin: dict[str, Any] | None = None,
    title: str = "",
    pulse: leases.Pulse = leases.PULSE,
) -> Outcome:
    """The stage's outcome: from the store, or computed here, or waited for while another process computes it.

    Missing or corrupt parents are computed first, here. The newest checkpoint of earlier attempts is resumed. An
    exception of the stage propagates after the lease is released, with the checkpoint left for the next attempt; only
    Diverged is a result. `origin` is the driver's `provenance.gather()`, by default this process's; `title` is what its
    study calls the stage, for readers. `compute` replaces `stage.run` to run the stage in other processes; it returns
    the summary.

    Raises Held (with `wait=False`), Unavailable, UserError (the results folder cannot be written), and what the
    stage raises.
    """
    store.prepare()
    folder = store.home(stage)
    watch, pause = leases.Watch(pulse), 0.02
    while True:
        outcome = store.outcome(stage)
        if outcome:
            return outcome
        files.make_folder(folder)
        holding = leases.acquire(folder, watch, pulse)
        if holding:
            break
        if not wait:
            raise Held(f"{stage.folder_name} is being computed by another process")
        time.sleep(pause)
        pause = min(LONGEST_PAUSE, 1.5 * pause)

    options: dict[str, Any] = {"device": device, "execution": execution, "checkpoint_seconds": checkpoint_seconds}

    def update(progress: Progress) -> None:
        holding.progress = progress
        if on_progress:
            on_progress(progress)

    with _terminated_cleanly(), holding:
        outcome = store.outcome(stage)  # the previous holder may have completed it just before
        if outcome:
            return outcome
        if store.retracted(stage) >= RETRACTIONS:
            raise Unavailable(
                f"its results were found corrupt {RETRACTIONS} times: check the storage at {store.address}, then "
                f"remove {folder}"
            )
        parents = {
            parent.key: _completed_parent(parent, store, **options, compute=compute, origin=origin, pulse=pulse)
            for parent in stage.parents
        }
        if reason := stage.unavailable(parents):
            raise Unavailable(reason)
        inputs.fetch(stage, store)
        attempt = Attempt(
            stage,
            store,
            **options,
            provenance={**(origin or provenance.gather()), **provenance.of_this_process(), "title": title},
            on_progress=update,
        )
        return _compute(stage, store, attempt, compute or _here)


def _completed_parent(parent: Stage, store: Store, **options: Any) -> Outcome:
    """A parent's outcome with every file verified; computed again when one is corrupt."""
    while True:
        outcome = run_stage(parent, store, **options)
        if store.verified(parent):
            return outcome


def _here(stage: Stage, attempt: Attempt) -> dict[str, Any]:
    return stage.run(attempt)


def _compute(
    stage: Stage, store: Store, attempt: Attempt, compute: Callable[[Stage, Attempt], dict[str, Any]]
) -> Outcome:
    attempts = store.home(stage) / "attempts"
    earlier = [attempts / name for name in files.names(attempts)]
    try:
        try:
            status, summary = "complete", compute(stage, attempt)
        except Diverged as error:
            status, summary = "diverged", {"message": str(error)}
        summary = {**summary, "seconds_computing": attempt.seconds_computing}
        attempt.finish()
        outcome = store.complete(stage, Outcome(status=status, attempt=attempt.id, summary=summary), sent=attempt.sent)
    except BaseException as error:
        with contextlib.suppress(OSError):  # a full disk must not hide the error that it caused
            attempt.fail(error)
        outcome = store.outcome(stage)
        if not isinstance(error, Exception) or outcome is None:
            raise
        # Another process has completed the stage and removed this attempt's checkpoints.
    _tidy(store, earlier, attempt, outcome)
    return outcome


def _tidy(store: Store, earlier: list[AnyPath], attempt: Attempt, outcome: Outcome) -> None:
    """Remove what is not needed any more: earlier attempts' checkpoints, and this attempt if another one won."""
    for other in earlier:
        checkpoint = checkpoint_of(other)
        if checkpoint and other != attempt.folder:
            files.remove(checkpoint.attempt / RESUME)
            files.remove(checkpoint.folder)
            files.remove(store.local(checkpoint.folder))
    if outcome.attempt != attempt.id:
        files.remove(attempt.folder)
        files.remove(attempt.stored)


@contextlib.contextmanager
def _terminated_cleanly() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, so that the lease is released.

    Only if there is no other handler, and only in the main thread, as Python requires.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def terminate(_number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
