from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from halflife.store import files, leases
from halflife.store.difference import record_of
from halflife.store.leases import Pulse
from halflife.store.run import Held, Unavailable, run_stage
from halflife.store.stage import Progress
from halflife.store.store import Store
from tests.store.fakes import Walk, computed, final_state

ROOT = Path(__file__).parents[2]


def _worker(store: Store, *names: str, steps: int = 4, pause: float = 0.0, resolvers: int = 1) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'platform'}{os.pathsep}{ROOT}",
        "RESOLVERS": str(resolvers),
    }
    command = [sys.executable, "-m", "tests.store.worker", str(store.root), str(steps), str(pause), *names]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def _wait_for_step(store: Store, step: str) -> None:
    deadline = time.monotonic() + 30
    while step not in computed(store.root):
        assert time.monotonic() < deadline, f"nobody computed {step!r}"
        time.sleep(0.01)


def _undisturbed(tmp_path: Path, stage: Walk) -> tuple[str, object]:
    store = Store(tmp_path / "undisturbed")
    run_stage(stage, store)
    folder = store.verified(stage)
    assert folder
    return final_state(folder), store.points(stage)


def _same_as_undisturbed(tmp_path: Path, store: Store, stage: Walk) -> bool:
    state, points = _undisturbed(tmp_path, stage)
    folder = store.verified(stage)
    assert folder
    return final_state(folder) == state and store.points(stage).equals(points)  # type: ignore[arg-type]


def test_a_stage_is_computed_once(store: Store) -> None:
    stage = Walk(name="a")
    assert run_stage(stage, store) == run_stage(stage, store)
    assert len(computed(store.root)) == 4


def test_a_completed_stage_keeps_no_checkpoint_and_no_lease(store: Store) -> None:
    stage = Walk(name="a")
    outcome = run_stage(stage, store)
    folder = store.folder(stage)
    assert sorted(path.name for path in folder.iterdir()) == ["DONE", "attempts"]
    kept = sorted(path.name for path in (folder / "attempts" / outcome.attempt).iterdir())
    assert kept == ["final", "metrics.parquet", "stage.json"]


def test_missing_parents_are_computed_first(store: Store) -> None:
    start = Walk(name="a")
    run_stage(Walk(name="b", starts=(start,)), store)
    assert store.outcome(start)


def test_a_failure_propagates_frees_the_lease_and_leaves_the_checkpoint(tmp_path: Path, store: Store) -> None:
    stage = Walk(name="a", breaks_at=3, every=2)
    with pytest.raises(RuntimeError, match="broke at step 3"):
        run_stage(stage, store)
    assert store.holder(stage) is None
    outcome = run_stage(stage, store)
    assert computed(store.root) == ["a 0", "a 1", "a 2", "a 2", "a 3"]
    assert _same_as_undisturbed(tmp_path, store, replace(stage, breaks_at=None))
    assert record_of(store.folder(stage))["resumed"]["step"] == 1
    attempts = {path.name: path for path in (store.folder(stage) / "attempts").iterdir()}
    failed = next(path for name, path in attempts.items() if name != outcome.attempt)
    assert [path.name for path in failed.iterdir()] == ["stage.json"]  # its checkpoint is not needed any more
    assert "RuntimeError: broke at step 3" in (failed / "stage.json").read_text()


def test_a_stage_that_diverges_is_a_result_with_its_points_and_is_not_retried(store: Store) -> None:
    stage = Walk(name="a", diverges=True)
    outcome = run_stage(stage, store)
    assert outcome.status == "diverged"
    assert outcome.summary["message"] == "the loss is nan at step 3"
    assert run_stage(stage, store) == outcome
    assert len(store.points(stage)) == 3
    assert len(computed(store.root)) == 3


def test_descendants_of_a_diverged_stage_are_unavailable(store: Store) -> None:
    start = Walk(name="a", diverges=True)
    with pytest.raises(Unavailable, match=r"parent walk-\w+ ended as diverged"):
        run_stage(Walk(name="b", starts=(start,)), store)


def test_a_corrupt_parent_is_computed_again_before_its_child(tmp_path: Path, store: Store) -> None:
    start = Walk(name="a")
    child = Walk(name="b", starts=(start,))
    path = store.folder(start) / "attempts" / run_stage(start, store).attempt / "final/state.json"
    data = bytearray(path.read_bytes())
    data[-4] ^= 1
    path.write_bytes(bytes(data))
    with pytest.warns(UserWarning, match="corrupt"):
        run_stage(child, Store(store.root))
    assert Counter(computed(store.root))["a 0"] == 2
    assert _same_as_undisturbed(tmp_path, store, child)


@pytest.mark.parametrize("damaged", ["state.json", "metrics.parquet"])
@pytest.mark.parametrize("truncate", [True, False])
def test_a_damaged_checkpoint_is_skipped(tmp_path: Path, store: Store, damaged: str, truncate: bool) -> None:
    stage = Walk(name="a", breaks_at=3)
    with pytest.raises(RuntimeError):
        run_stage(stage, store)
    (path,) = store.folder(stage).glob(f"attempts/*/resume-3/{damaged}")
    data = path.read_bytes()
    path.write_bytes(data[:-2] if truncate else data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
    whole = replace(stage, breaks_at=None)
    with pytest.warns(UserWarning, match="is skipped"):
        run_stage(whole, store)
    assert computed(store.root)[3:] == ["a 0", "a 1", "a 2", "a 3"]
    assert _same_as_undisturbed(tmp_path, store, whole)


@pytest.mark.parametrize("text", ["", '{"fol', "{}", '{"folder": "../../../..", "step": 1, "files": {}}'])
def test_a_damaged_resume_file_counts_as_none(store: Store, text: str) -> None:
    stage = Walk(name="a", breaks_at=3)
    with pytest.raises(RuntimeError):
        run_stage(stage, store)
    next(store.folder(stage).glob("attempts/*/resume.json")).write_text(text)
    run_stage(replace(stage, breaks_at=None), store)
    assert computed(store.root)[3:] == ["a 0", "a 1", "a 2", "a 3"]


def test_the_checkpoint_that_got_furthest_is_resumed(store: Store) -> None:
    first = Walk(name="a", steps=9, breaks_at=6)
    with pytest.raises(RuntimeError):
        run_stage(first, store)
    far = next(store.folder(first).glob("attempts/*/resume.json"))
    hidden = far.rename(far.with_name("hidden"))
    with pytest.raises(RuntimeError):
        run_stage(replace(first, breaks_at=2), store)
    hidden.rename(far)
    run_stage(replace(first, breaks_at=None), store)
    assert computed(store.root)[-3:] == ["a 6", "a 7", "a 8"]


def test_a_disk_that_is_full_at_a_checkpoint_costs_no_more_than_the_steps_since_the_one_before(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, write = Walk(name="a"), files.write

    def full(path: Path, data: bytes) -> None:
        if len(computed(store.root)) == 3:
            raise OSError(errno.ENOSPC, "no space left on device")
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write", full)
        with pytest.raises(OSError, match="no space left"):
            run_stage(stage, store)
    assert store.holder(stage) is None
    run_stage(stage, store)
    assert computed(store.root) == ["a 0", "a 1", "a 2", "a 2", "a 3"]
    assert _same_as_undisturbed(tmp_path, store, stage)


def test_without_waiting_a_stage_held_by_another_process_raises_held(store: Store) -> None:
    stage = Walk(name="a", steps=50)
    with _worker(store, "a", steps=50, pause=0.1) as worker:
        _wait_for_step(store, "a 1")
        with pytest.raises(Held):
            run_stage(stage, store, wait=False)
        lease = store.holder(stage)
        assert lease
        assert lease.pid == worker.pid
        worker.kill()
    assert store.holder(stage) is None


def test_of_two_concurrent_attempts_the_first_to_complete_counts_and_the_other_is_discarded(
    tmp_path: Path, store: Store
) -> None:
    """The first holder's lease looks abandoned and is taken over, but it continues."""
    slow, quick = Walk(name="a", pause=0.1), Walk(name="a")
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(run_stage(slow, store, pulse=Pulse(beat=60))))
    thread.start()
    _wait_for_step(store, "a 0")
    quickly = run_stage(quick, store, pulse=Pulse(patience=0.0))
    thread.join()
    assert outcomes == [quickly]
    assert [path.name for path in (store.folder(quick) / "attempts").iterdir()] == [quickly.attempt]
    assert leases.current(store.folder(quick)) is None
    assert _same_as_undisturbed(tmp_path, store, quick)


def test_progress_is_reported(store: Store) -> None:
    told: list[Progress] = []
    run_stage(Walk(name="a"), store, on_progress=told.append)
    assert [progress.done for progress in told] == [1, 2, 3, 4]


@pytest.mark.slow
def test_many_resolvers_of_few_stages_complete_each_once_and_do_not_deadlock(store: Store) -> None:
    names = [str(number) for number in range(8)]
    workers = [
        _worker(store, *names[turn:], *names[:turn], steps=5, pause=0.01, resolvers=8) for turn in range(8)
    ]  # 64 in all
    told = [worker.communicate(timeout=400)[0].split() for worker in workers]
    assert {worker.returncode for worker in workers} == {0}
    assert [len(attempts) for attempts in told] == [64] * 8  # each of eight threads got each of eight stages
    assert set(Counter(computed(store.root)).values()) == {1}
    assert len({attempt for attempts in told for attempt in attempts}) == len(names)
