from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from halflife.store import files, leases
from halflife.store.leases import Holding, Lease, Pulse, Watch, acquire, current
from halflife.store.stage import Progress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def _elsewhere(folder: Path, pulse: Pulse) -> Holding:
    """A lease held by a process of another machine, whose process id cannot be checked."""
    holding = acquire(folder, Watch(pulse), pulse)
    assert holding
    _rewrite(folder, machine="another")
    return holding


def _rewrite(folder: Path, **changes: object) -> None:
    lease = current(folder)
    assert lease
    files.write(leases.path_of(folder, lease), leases._encode(dataclasses.replace(lease, **changes)))  # type: ignore[arg-type]


def test_a_free_stage_is_taken_and_freed(tmp_path: Path) -> None:
    pulse = Pulse()
    holding = acquire(tmp_path, Watch(pulse), pulse)
    assert holding
    with holding:
        assert current(tmp_path)
        assert acquire(tmp_path, Watch(pulse), pulse) is None
    assert current(tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_a_silent_holder_is_taken_over_after_the_observers_patience_and_not_before(tmp_path: Path) -> None:
    clock = Clock()
    pulse = Pulse(patience=30, clock=clock)
    _elsewhere(tmp_path, pulse)
    watch = Watch(pulse)
    assert acquire(tmp_path, watch, pulse) is None
    clock.now = 29.9
    assert acquire(tmp_path, watch, pulse) is None
    clock.now = 30.0
    assert acquire(tmp_path, watch, pulse)


def test_a_holder_that_is_only_slow_keeps_its_lease_as_long_as_the_counter_moves(tmp_path: Path) -> None:
    clock = Clock()
    pulse = Pulse(patience=30, clock=clock)
    _elsewhere(tmp_path, pulse)
    watch = Watch(pulse)
    for beat in range(1, 5):
        clock.now += 29
        _rewrite(tmp_path, counter=beat)
        assert acquire(tmp_path, watch, pulse) is None
    clock.now += 30
    assert acquire(tmp_path, watch, pulse)


def test_a_dead_process_of_this_machine_is_taken_over_at_once(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    pulse = Pulse()
    assert acquire(tmp_path, Watch(pulse), pulse)
    _rewrite(tmp_path, pid=process.pid)
    assert acquire(tmp_path, Watch(pulse), pulse)


def test_a_process_that_ended_and_was_not_waited_for_counts_as_dead(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    born = leases._born(process.pid)
    assert born
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    lease = Lease(number=1, machine=leases._machine(), pid=process.pid, born=born)
    assert lease.gone
    process.communicate()


def test_a_reused_process_id_does_not_keep_a_lease_alive(tmp_path: Path) -> None:
    pulse = Pulse()
    assert acquire(tmp_path, Watch(pulse), pulse)
    assert acquire(tmp_path, Watch(pulse), pulse) is None
    _rewrite(tmp_path, born="1")
    assert acquire(tmp_path, Watch(pulse), pulse)


def test_of_many_observers_one_takes_over(tmp_path: Path) -> None:
    clock = Clock()
    pulse = Pulse(patience=30, clock=clock)
    _elsewhere(tmp_path, pulse)
    watches = [Watch(pulse) for _ in range(16)]
    for watch in watches:
        acquire(tmp_path, watch, pulse)
    clock.now = 31
    taken: list[Holding | None] = []
    threads = [
        threading.Thread(target=lambda watch=watch: taken.append(acquire(tmp_path, watch, pulse))) for watch in watches
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([holding for holding in taken if holding]) == 1


def test_a_holder_that_was_taken_over_does_not_free_the_new_holders_lease(tmp_path: Path) -> None:
    clock = Clock()
    pulse = Pulse(patience=30, clock=clock)
    slow, watch = _elsewhere(tmp_path, pulse), Watch(pulse)
    with slow:
        acquire(tmp_path, watch, pulse)
        clock.now = 31
        assert acquire(tmp_path, watch, pulse)
    lease = current(tmp_path)
    assert lease
    assert lease.number == 2


def test_a_held_lease_has_a_heartbeat_and_progress(tmp_path: Path) -> None:
    pulse = Pulse(beat=0.01)
    holding = acquire(tmp_path, Watch(pulse), pulse)
    assert holding
    with holding:
        holding.progress = Progress(done=3, total=9, rate=1.0, computing=0.5)
        deadline = time.monotonic() + 5
        while not (lease := current(tmp_path)) or lease.counter < 3 or lease.progress != holding.progress:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_an_unreadable_lease_ages_like_any_other(tmp_path: Path) -> None:
    clock = Clock()
    pulse = Pulse(patience=30, clock=clock)
    (tmp_path / "lease-7.json").write_bytes(b'{"holder": "someo')
    watch = Watch(pulse)
    assert acquire(tmp_path, watch, pulse) is None
    clock.now = 30
    assert acquire(tmp_path, watch, pulse)
    lease = current(tmp_path)
    assert lease
    assert lease.number == 8
