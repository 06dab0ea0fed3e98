"""Several processes that train one stage together: started by Ray Train once an actor, and kept for its next stages.

Starting a group of workers takes 13 to 28 s, so a group lives as long as its actor and is handed stage after stage.
Every rank runs the stage (`Stage.run`); rank 0 alone tells the attempt what it has, through a small Ray actor. When a
worker dies the group ends, the stage fails, and whoever tries it again resumes it from its last checkpoint.
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
from halflife.sweep.rank_context import Job, apply_message, context_of

PATIENCE_SECONDS = 600
"""How long ranks wait for one another in a collective operation."""
ENDING_SECONDS = 30.0
"""How long to wait for a group that is told to end."""
ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how soon a dead worker is noticed
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # an actor less to start
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}


class WorkersEnded(Exception):
    """A worker died or raised; the message says which."""


class Mailbox:
    """Carries jobs to the ranks and rank 0's words back. A Ray actor; its methods wait without blocking it."""

    def __init__(self, workers: int) -> None:
        self._jobs: list[asyncio.Queue[Job | None]] = [asyncio.Queue() for _ in range(workers)]
        self._letters: asyncio.Queue[tuple[str, tuple[Any, ...]]] = asyncio.Queue()
        self._heard = asyncio.Event()
        self._reserved: PlacementGroup | None = None

    async def give(self, job: Job | None) -> None:
        for queue in self._jobs:
            queue.put_nowait(job)

    async def job(self, rank: int) -> Job | None:
        return await self._jobs[rank].get()

    async def tell(self, verb: str, *arguments: Any) -> None:
        self._letters.put_nowait((verb, arguments))

    async def tell_and_wait(self, verb: str, *arguments: Any) -> None:
        """Returns once the reader has acted on it (`heard`)."""
        self._heard.clear()
        self._letters.put_nowait((verb, arguments))
        await self._heard.wait()

    async def heard(self) -> None:
        self._heard.set()

    async def reserve(self, reserved: PlacementGroup | None) -> None:
        self._reserved = reserved

    async def reserved(self) -> PlacementGroup | None:
        return self._reserved

    async def messages(self, patience: float) -> list[tuple[str, tuple[Any, ...]]]:
        """What has been told since, in order; none after `patience` seconds of silence."""
        with contextlib.suppress(asyncio.TimeoutError):
            found = [await asyncio.wait_for(self._letters.get(), patience)]
            while not self._letters.empty():
                found.append(self._letters.get_nowait())
            return found
        return []


class WorkerGroup:
    """A group of workers, from the first stage until `close`."""

    def __init__(self, workers: int, device: str, scratch: str) -> None:
        os.environ.update(ENVIRONMENT)  # Ray Train hands them on to the processes that it starts
        self.workers, self.broken = workers, False
        self._failure = ""
        self._post: Any = ray.remote(num_cpus=0)(Mailbox).remote(workers)
        self._trainer = TorchTrainer(
            work,
            train_loop_config={"post": self._post},
            torch_config=TorchConfig(backend="nccl" if device == "cuda" else "gloo", timeout_s=PATIENCE_SECONDS),
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers, use_gpu=device == "cuda", resources_per_worker={"CPU": 1}
            ),
            # a name of its own: a name that was there before would be restored
            run_config=ray.train.RunConfig(name=f"crew-{uuid.uuid4().hex}", storage_path=scratch),
        )
        # not in the main thread, where Ray Train would take over Ctrl-C; a daemon, as the process must be able to end
        self._thread = threading.Thread(target=self._fit, name="halflife-crew", daemon=True)
        self._thread.start()

    def _fit(self) -> None:
        try:
            self._trainer.fit()
        except Exception as error:
            self._failure = " ".join(str(error).split())[:500] or type(error).__name__

    def compute(self, stage: Stage, attempt: Attempt) -> dict[str, Any]:
        """Run the stage on every rank; returns rank 0's summary, with the ranks' hosts.

        Raises what the stage raises where every rank agrees on it (Diverged), UserError, and WorkersEnded.
        """
        job = Job.of(stage, attempt)
        ended: dict[int, tuple[str, Any, str]] = {}
        try:
            ray.get(self._post.give.remote(job))
            while len(ended) < self.workers:
                messages = ray.get(self._post.messages.remote(0.5))
                for verb, arguments in messages:
                    self._hear(verb, arguments, attempt, ended)
                if not messages and not self._thread.is_alive():
                    raise WorkersEnded(self._failure or "the group of workers ended")
        except BaseException:
            self.broken = True
            raise
        status, value, _ = ended[0]
        if status == "diverged":
            raise Diverged(value)
        return {**value, "hosts": [ended[rank][2] for rank in range(self.workers)]}

    def _hear(
        self, verb: str, arguments: tuple[Any, ...], attempt: Attempt, ended: dict[int, tuple[str, Any, str]]
    ) -> None:
        if verb == "ended":
            rank, *how = arguments
            ended[rank] = tuple(how)
        elif verb == "refused":
            raise UserError(*arguments)
        elif verb == "raised":
            raise WorkersEnded(*arguments)
        else:
            apply_message(attempt, verb, arguments)
            if verb == "checkpointed":
                ray.get(self._post.heard.remote())

    def close(self) -> None:
        """End the workers. A group that does not end by itself loses its post, and with it all that it waits for."""
        if not self.broken:
            ray.get(self._post.give.remote(None))
            self._thread.join(ENDING_SECONDS)
        reserved = ray.get(self._post.reserved.remote())
        ray.kill(self._post)
        self._thread.join(ENDING_SECONDS)
        if self.broken and reserved is not None:
            # What a dead controller had reserved stays so: Ray's own cleaner asks the dashboard, and there is none.
            remove_placement_group(cast(PlacementGroup, reserved))


def work(config: dict[str, Any]) -> None:
    """What a worker does: one job after another, until there is none."""
    post, rank = config["post"], ray.train.get_context().get_world_rank()
    if rank == 0:
        ray.get(post.reserve.remote(get_current_placement_group()))
    while True:
        job: Job | None = ray.get(post.job.remote(rank))
        if job is None:
            return
        try:
            ended = _ended(job, rank, post)
        except UserError as error:
            ray.get(post.tell.remote("refused", str(error)))
            raise
        except BaseException as error:
            line = traceback.format_exception_only(error)[-1].strip()
            ray.get(post.tell.remote("raised", f"rank {rank}: {line}"))
            raise
        ray.get(post.tell.remote("ended", rank, *ended, socket.gethostname()))


def _ended(job: Job, rank: int, post: Any) -> tuple[str, Any]:
    """Run the job's stage on this rank, to a result: its status, and the summary or the message."""
    context = context_of(job, rank, post)
    try:
        try:
            ended = ("complete", job.stage.run(context))
        except Diverged as error:  # every rank sees the same loss
            ended = ("diverged", str(error))
        context.end()
        return ended
    finally:
        context.leave()
