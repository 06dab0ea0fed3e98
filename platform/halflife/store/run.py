"""run_stage: compute a stage once, whoever asks, and however often it is interrupted."""

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
from halflife.store.files import Where
from halflife.store.stage import Outcome, Progress, Stage
from halflife.store.store import Store

LONGEST_PAUSE = 1.0
"""Seconds between looks at a stage that another computes."""
RETRACTIONS = 5
"""Completions found corrupt after which a stage is not computed again: what is written there does not keep."""


class Held(Exception):
    """Another process computes the stage now, and the caller did not want to wait."""


class Unavailable(Exception):
    """The stage can never run, given how its parents ended or that its results do not keep; the message says why."""


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
    pulse: leases.Pulse = leases.PULSE,
) -> Outcome:
    """The stage's outcome: read when it is there, computed when not, waited for when another computes it.

    A parent that is missing or corrupt is computed first, here. An earlier attempt's newest checkpoint is
    resumed. Whatever the stage raises is passed on after its lease is released, its checkpoint left for the
    next attempt; only Diverged is a result. `origin` is `provenance.gather()` of the driver, this process's if None.
    `compute` runs the stage elsewhere than in this process, for its summary.

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

    how: dict[str, Any] = {"device": device, "execution": execution, "checkpoint_seconds": checkpoint_seconds}

    def told(progress: Progress) -> None:
        holding.progress = progress
        if on_progress:
            on_progress(progress)

    with _terminated_cleanly(), holding:
        outcome = store.outcome(stage)  # the last holder may have completed it while we took its place
        if outcome:
            return outcome
        if store.retracted(stage) >= RETRACTIONS:
            raise Unavailable(
                f"its results were found corrupt {RETRACTIONS} times: what is written to {store.address} does not "
                f"keep; mend that, then remove {folder}"
            )
        parents = {
            parent.key: _standing_parent(parent, store, **how, compute=compute, origin=origin, pulse=pulse)
            for parent in stage.parents
        }
        if reason := stage.unavailable(parents):
            raise Unavailable(reason)
        inputs.bring(stage, store)
        attempt = Attempt(
            stage,
            store,
            **how,
            provenance={**(origin or provenance.gather()), **provenance.of_this_process()},
            on_progress=told,
        )
        return _compute(stage, store, attempt, compute or _here)


def _standing_parent(parent: Stage, store: Store, **how: Any) -> Outcome:
    """A parent's outcome with every file verified; computed again when one is corrupt."""
    while True:
        outcome = run_stage(parent, store, **how)
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
        # Another holder completed the stage meanwhile and freed this attempt's checkpoints under it.
    _tidy(store, earlier, attempt, outcome)
    return outcome


def _tidy(store: Store, earlier: list[Where], attempt: Attempt, outcome: Outcome) -> None:
    """Free what the completed stage makes useless: checkpoints of earlier attempts, our own work if another won."""
    for other in earlier:
        checkpoint = checkpoint_of(other)
        if checkpoint and other != attempt.folder:
            files.remove(checkpoint.attempt / RESUME)
            files.remove(checkpoint.folder)
            files.remove(store.local(checkpoint.folder))
    if outcome.attempt != attempt.id:
        files.remove(attempt.folder)
        files.remove(attempt.kept)


@contextlib.contextmanager
def _terminated_cleanly() -> Iterator[None]:
    """While a stage runs, SIGTERM unwinds like an exit, so that the lease is released.

    Only where nobody else handles the signal, and only in the main thread (Python allows no other).
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
