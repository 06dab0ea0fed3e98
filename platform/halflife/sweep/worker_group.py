"""Several processes that train one stage together, started by Ray Train and kept for the actor's next stages.

Starting a group of workers takes 13 to 28 s, so a group lives as long as its actor and runs stage after stage. Every
rank runs the stage (`Stage.run`). Rank 0 sends the attempt what it records, through the mailbox, a small Ray actor.
When a worker dies, the group ends and the stage fails; its retry resumes from the last checkpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import traceback
import uuid
from typing import Any, cast

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.placement_group import PlacementGroup, get_current_placement_group, remove_placement_group

from halflife.errors import Diverged, UserError
from halflife.store.attempt import Attempt
from halflife.store.stage import Stage
from halflife.sweep.rank_context import Job, context_of

PATIENCE_SECONDS = 600
"""Timeout of collective operations."""
ENDING_SECONDS = 30.0
"""How long `close` waits for the workers to end."""
ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # a dead worker is noticed this soon
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # saves starting an actor
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}


class WorkersEnded(Exception):
    """A worker died or raised; the message says which."""


class Mailbox:
    """Carries jobs to the ranks, and the ranks' messages back. A Ray actor with async methods, so that waiting does not
    block it. A message is a method of Attempt with its arguments; or `ended` or `failed`."""

    def __init__(self, workers: int) -> None:
        self._jobs: list[asyncio.Queue[Job | None]] = [asyncio.Queue() for _ in range(workers)]
        self._messages: asyncio.Queue[tuple[str, tuple[Any, ...]]] = asyncio.Queue()
        self._applied = asyncio.Event()
        self._reserved: PlacementGroup | None = None

    async def put_job(self, job: Job | None) -> None:
        for queue in self._jobs:
            queue.put_nowait(job)

    async def next_job(self, rank: int) -> Job | None:
        return await self._jobs[rank].get()

    async def send(self, verb: str, *arguments: Any) -> None:
        self._messages.put_nowait((verb, arguments))

    async def send_and_wait(self, verb: str, *arguments: Any) -> None:
        """Returns once the message has been applied."""
        self._applied.clear()
        self._messages.put_nowait((verb, arguments))
        await self._applied.wait()

    async def applied(self) -> None:
        self._applied.set()

    async def reserve(self, reserved: PlacementGroup | None) -> None:
        self._reserved = reserved

    async def reserved(self) -> PlacementGroup | None:
        return self._reserved

    async def messages(self, patience: float) -> list[tuple[str, tuple[Any, ...]]]:
        """New messages, in order; empty if none arrives within `patience` seconds."""
        with contextlib.suppress(asyncio.TimeoutError):
            found = [await asyncio.wait_for(self._messages.get(), patience)]
            while not self._messages.empty():
                found.append(self._messages.get_nowait())
            return found
        return []


class WorkerGroup:
    """A group of workers, from the first stage until `close`. After a failure it is `broken` and must be closed."""

    def __init__(self, workers: int, device: str, scratch: str) -> None:
        os.environ.update(ENVIRONMENT)  # Ray Train passes them to the processes that it starts
        self.workers, self.broken = workers, False
        self._failure = ""
        self._mailbox: Any = ray.remote(num_cpus=0)(Mailbox).remote(workers)
        self._trainer = TorchTrainer(
            work,
            train_loop_config={"mailbox": self._mailbox},
            torch_config=TorchConfig(backend="nccl" if device == "cuda" else "gloo", timeout_s=PATIENCE_SECONDS),
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers, use_gpu=device == "cuda", resources_per_worker={"CPU": 1}
            ),
            # a unique name, as Ray Train would restore an earlier run of the same name
            run_config=ray.train.RunConfig(name=f"workers-{uuid.uuid4().hex}", storage_path=scratch),
        )
        # not in the main thread, where Ray Train would take over Ctrl-C; a daemon, so that the process can exit
        self._thread = threading.Thread(target=self._fit, name="halflife-workers", daemon=True)
        self._thread.start()

    def _fit(self) -> None:
        try:
            self._trainer.fit()
        except Exception as error:
            self._failure = " ".join(str(error).split())[:500] or type(error).__name__

    def compute(self, stage: Stage, attempt: Attempt) -> dict[str, Any]:
        """Run the stage on every rank; returns rank 0's summary, with the ranks' hosts.

        Raises Diverged and UserError as the stage does, and WorkersEnded for every other failure.
        """
        job = Job.of(stage, attempt)
        ended: dict[int, Any] = {}  # by rank: status, summary or message, host
        try:
            ray.get(self._mailbox.put_job.remote(job))
            while len(ended) < self.workers:
                messages = ray.get(self._mailbox.messages.remote(0.5))
                for verb, arguments in messages:
                    if verb == "ended":
                        ended[arguments[0]] = arguments[1:]
                    elif verb == "failed":
                        raise arguments[0]
                    else:
                        getattr(attempt, verb)(*arguments)
                    if verb == "checkpointed":
                        ray.get(self._mailbox.applied.remote())
                if not messages and not self._thread.is_alive():
                    raise WorkersEnded(self._failure or "the group of workers ended")
        except BaseException:
            self.broken = True
            raise
        status, value, _ = ended[0]
        if status == "diverged":
            raise Diverged(value)
        return {**value, "hosts": [ended[rank][2] for rank in range(self.workers)]}

    def close(self) -> None:
        """End the workers. Killing the mailbox ends those that do not end by themselves."""
        if not self.broken:
            ray.get(self._mailbox.put_job.remote(None))
            self._thread.join(ENDING_SECONDS)
        reserved = ray.get(self._mailbox.reserved.remote())
        ray.kill(self._mailbox)
        self._thread.join(ENDING_SECONDS)
        if self.broken and reserved is not None:
            # A dead controller leaves its reservation behind: Ray's own cleaner needs the dashboard, which is off.
            remove_placement_group(cast(PlacementGroup, reserved))


def work(config: dict[str, Any]) -> None:
    """The loop of a worker: one job after another, until the job is None."""
    mailbox, rank = config["mailbox"], ray.train.get_context().get_world_rank()
    if rank == 0:
        ray.get(mailbox.reserve.remote(get_current_placement_group()))
    while True:
        job: Job | None = ray.get(mailbox.next_job.remote(rank))
        if job is None:
            return
        try:
            ended = _run(job, rank, mailbox)
        except UserError as error:
            ray.get(mailbox.send.remote("failed", UserError(str(error))))
            raise
        except BaseException as error:
            line = traceback.format_exception_only(error)[-1].strip()
            ray.get(mailbox.send.remote("failed", WorkersEnded(f"rank {rank}: {line}")))
            raise
        ray.get(mailbox.send.remote("ended", rank, *ended, socket.gethostname()))


def _run(job: Job, rank: int, mailbox: Any) -> tuple[str, Any]:
    """Run the job's stage on this rank. Returns the status, and the summary or the message."""
    stage = job.packed.stage()
    context = context_of(job, stage, rank, mailbox)
    try:
        try:
            ended = ("complete", stage.run(context))
        except Diverged as error:  # every rank sees the same loss
            ended = ("diverged", str(error))
        context.complete()
        return ended
    finally:
        context.close()
