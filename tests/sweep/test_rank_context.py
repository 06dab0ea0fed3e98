"""Ranks on hosts that share only a bucket: each is a thread here, with an engine that only adds numbers."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from halflife.store import files
from halflife.store.attempt import Attempt
from halflife.store.run import run_stage
from halflife.store.stage import Stage
from halflife.store.store import Store
from halflife.sweep import rank_context
from halflife.sweep.rank_context import Job, RankContext, context_of
from halflife.training import checkpoints
from halflife.training.checkpoints import Piece
from tests.store.fakes import Walk

SIZE, STEPS = 12, 6
PARENT = Walk(name="parent")
STAGE = Walk(name="child", starts=(PARENT,))


@pytest.fixture
def address(bucket: str) -> str:
    return f"{bucket}/{uuid.uuid4().hex}"


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Switch to the host of this name, which has its own copy of the bucket."""
    monkeypatch.setattr(rank_context.ray, "get", lambda answer: answer)
    return lambda host: monkeypatch.setenv("HALFLIFE_CACHE", str(tmp_path / host))


class Ranks:
    """`run_stage`'s `compute`: `hosts` names each rank's. With `dies_at`, the last rank does, at this step."""

    def __init__(self, at: Callable[[str], None], *hosts: str, dies_at: int | None = None) -> None:
        self._at, self._hosts, self._dies_at = at, hosts, dies_at
        self.began: list[int] = []
        """The step at which each rank started."""
        self.rests: list[float] = []
        self._barrier = threading.Barrier(len(hosts))
        self._told: dict[int, Any] = {}
        self._lock = threading.Lock()

    def __call__(self, stage: Stage, attempt: Attempt) -> dict[str, Any]:
        job, cache = Job.of(stage, attempt), os.environ["HALFLIFE_CACHE"]

        def send(verb: str, *arguments: Any) -> None:
            with self._lock:
                getattr(attempt, verb)(*arguments)

        mailbox = SimpleNamespace(send=SimpleNamespace(remote=send), send_and_wait=SimpleNamespace(remote=send))
        contexts = []
        for rank, host in enumerate(self._hosts):
            self._at(host)
            contexts.append(context_of(job, stage, rank, mailbox))
        self._at(Path(cache).name)
        ended: list[BaseException | None] = [None] * len(contexts)

        def run(rank: int) -> None:
            try:
                self._train(contexts[rank], rank)
                contexts[rank].complete()
            except BaseException as error:
                self._barrier.abort()
                ended[rank] = error
            finally:
                contexts[rank].close()

        threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(contexts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for error in ended:
            if isinstance(error, RuntimeError) and not isinstance(error, threading.BrokenBarrierError):
                raise error
        assert ended == [None] * len(contexts)
        return {"tokens": STEPS}

    def _gathered(self, rank: int, value: Any) -> list[Any]:
        self._told[rank] = value
        self._barrier.wait()
        found = [self._told[each] for each in range(len(self._hosts))]
        self._barrier.wait()
        return found

    def _train(self, context: RankContext, rank: int) -> None:
        """Like training.loop."""
        count = len(self._hosts)
        own = slice(rank * SIZE // count, (rank + 1) * SIZE // count)
        parent = (context.parent(PARENT) / "final" / "state.json").read_bytes()
        whole, step = torch.full((SIZE,), float(len(parent))), 0
        if context.resume:
            step = checkpoints.read_state(context.resume)["step"]
            whole = checkpoints.read_weights(context.resume)["w"]
        values = whole[own].clone()
        self._gathered(rank, self.began.append(step))
        older = None
        while step < STEPS:
            if step == self._dies_at and rank == count - 1:
                raise RuntimeError("its process died")
            values += step * torch.arange(own.start, own.stop)
            step += 1
            context.record(step, {"walk/value": float(step)})
            folder = context.folder / f"resume-{step}"
            piece = Piece(values=values, offset=own.start, shape=(SIZE,))
            digests = checkpoints.write_shard(folder, rank, weights={"w": piece}, optimizer={})
            context.wrote(folder, digests)
            together = {name: digest for of in self._gathered(rank, digests) for name, digest in of.items()}
            if rank == 0:
                checkpoints.write_state(folder, {"step": step}, together)
                context.checkpointed(step, folder)
                self.rests.append(context.min_checkpoint_seconds)
                if older:
                    files.remove(older)
                older = folder
        parts = self._gathered(rank, values)
        if rank == 0:
            checkpoints.write(context.folder / "final", weights={"w": torch.cat(parts)}, optimizer={}, state={})


def weights(store: Store) -> list[float]:
    folder = store.verified(STAGE)
    assert folder
    return checkpoints.read_weights(folder / "final")["w"].tolist()


def computed_by(ranks: Ranks, store: Store) -> Store:
    run_stage(PARENT, store)
    run_stage(STAGE, store, compute=ranks)
    return store


def test_the_first_rank_may_be_on_the_host_of_the_attempt(address: str, at: Callable[[str], None]) -> None:
    at("head")
    computed_by(Ranks(at, "head", "b"), Store(address))
    at("another head")
    store = Store(address)
    assert store.outcome(STAGE)
    assert store.verified(STAGE)


def test_ranks_on_several_hosts_resume_checkpoints_of_another_number_of_ranks_from_the_bucket(
    address: str, at: Callable[[str], None], tmp_path: Path
) -> None:
    alone = computed_by(Ranks(at, "x", "x"), (at("alone"), Store(tmp_path / "folder"))[1])
    at("head")
    with pytest.raises(RuntimeError, match="died"):
        computed_by(Ranks(at, "a", "b", dies_at=3), Store(address))
    at("another head")
    resumed = Ranks(at, "c", "d", "d")
    store = computed_by(resumed, Store(address))
    assert resumed.began == [3, 3, 3]
    assert weights(store) == weights(alone)
    assert store.points(STAGE).equals(alone.points(STAGE))
    outcome = store.outcome(STAGE)
    assert outcome
    attempt = store.home(STAGE) / "attempts" / outcome.attempt
    kept = {str(path).removeprefix(f"{attempt}/") for path in files.contents(attempt)}
    of_a_checkpoint = (checkpoints.WEIGHTS, checkpoints.OPTIMIZER, checkpoints.STATE)
    assert kept == {"stage.json", "metrics.parquet", *(f"final/{name}" for name in of_a_checkpoint)}
    at("a third head")
    assert weights(Store(address)) == weights(alone)
    for left in ("resume-*/*", "*-rank-*"):
        assert not [path for host in "abcd" for path in (tmp_path / host).glob(f"*/stages/*/attempts/*/{left}")]


@pytest.mark.parametrize("harm", ["flipped", "missing"])
def test_a_shard_damaged_in_the_bucket_is_skipped(address: str, at: Callable[[str], None], harm: str) -> None:
    at("head")
    with pytest.raises(RuntimeError, match="died"):
        computed_by(Ranks(at, "a", "b", dies_at=3), Store(address))
    store = Store(address)
    shard = next(path for path in files.contents(store.home(STAGE)) if path.name == "shard-00001.safetensors")
    data = files.read(shard)
    assert data
    files.remove(shard)
    if harm == "flipped":
        files.write(shard, data[:-1] + bytes([data[-1] ^ 1]))
    at("another head")
    again = Ranks(at, "c", "d")
    with pytest.warns(UserWarning, match="is skipped"):
        computed_by(again, Store(address))
    assert again.began == [0, 0]


def test_a_rank_reports_a_parent_that_was_damaged_in_the_meantime(address: str, at: Callable[[str], None]) -> None:
    at("head")
    store = Store(address)
    run_stage(PARENT, store)

    def damaged_first(stage: Stage, attempt: Attempt) -> dict[str, Any]:
        state = next(path for path in files.contents(store.home(PARENT)) if path.name == "state.json")
        files.write(state, b"{}")
        return Ranks(at, "a")(stage, attempt)

    with pytest.warns(UserWarning, match="corrupt"), pytest.raises(Exception, match="run the same command again"):
        run_stage(STAGE, store, compute=damaged_first)


def test_checkpoints_that_are_slow_to_upload_are_made_less_often(
    address: str, at: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(rank_context, "time", SimpleNamespace(monotonic=lambda: now[0]))
    send = rank_context.RankInBucket._upload

    def slowly(self: Any, names: list[str]) -> None:
        now[0] += 2.0
        send(self, names)

    monkeypatch.setattr(rank_context.RankInBucket, "_upload", slowly)
    at("head")
    ranks = Ranks(at, "a")
    computed_by(ranks, Store(address))
    assert ranks.rests == pytest.approx([36.0] * STEPS)  # 2 s for the shard, 2 s for the rest: a tenth of the time
