"""What holds when work is killed and taken up again, by store and by journal, on every place that results may lie in.

Whole sweeps are killed in tests/sweep: test_search_on_ray.py on disk, test_bucket.py in a bucket.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend

from halflife.store import files, leases
from halflife.store.difference import record_of
from halflife.store.run import run_stage
from halflife.store.store import Store
from tests.store.fakes import LOG, Walk, computed, final_state
from tests.sweep.drivers import ROOT, wait_for
from tests.sweep.searches import Carried, search

DISK_AND_BUCKET = pytest.mark.parametrize("address", ["disk", "s3"], indirect=True)
EVERYWHERE = pytest.mark.parametrize("address", ["disk", "s3", "memory"], indirect=True)


@pytest.fixture
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty results folder on a disk that all machines share, in a bucket, or in a bucket in this process."""
    if request.param == "disk":
        return str(tmp_path / "shared" / "results")
    name = uuid.uuid4().hex
    return f"memory://laboratory/{name}" if request.param == "memory" else f"{request.getfixturevalue('bucket')}/{name}"


Machine = Callable[[str], None]


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Be on the machine of this name: its copy of a bucket is its own."""
    return lambda name: monkeypatch.setenv("HALFLIFE_CACHE", str(tmp_path / name))


def logged(tmp_path: Path, name: str) -> Counter[str]:
    """How often each line stands in the logs of this name, of all machines."""
    return Counter(line for log in tmp_path.glob(f"*/*/{name}") for line in log.read_text().splitlines())


# The store.


def work(address: str, *names: str, steps: int, pause: float) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "platform"), str(ROOT)])}
    command = [sys.executable, "-m", "tests.store.worker", address, str(steps), str(pause), *names]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def ends_as_undisturbed(store: Store, stage: Walk, folder: Path) -> bool:
    undisturbed = Store(folder / "results")
    run_stage(stage, undisturbed)
    found, expected = store.verified(stage), undisturbed.verified(stage)
    assert found
    assert expected
    return final_state(found) == final_state(expected) and store.points(stage).equals(undisturbed.points(stage))


def checkpoints_left(store: Store, stage: Walk) -> list[str]:
    home = store.home(stage)
    return [str(path) for path in files.contents(home) if "resume" in str(path).removeprefix(str(home))]


@DISK_AND_BUCKET
def test_a_killed_stage_resumes_at_once_and_ends_as_if_undisturbed(
    address: str, at: Machine, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stage = Walk(name="a", steps=12)
    at("here")
    with work(address, "a", steps=12, pause=0.1) as worker:
        wait_for(lambda: logged(tmp_path, LOG)["a 4"], timeout=30)
        worker.send_signal(signal.SIGKILL)
    last = len(logged(tmp_path, LOG)) - 1
    at("there")
    store = Store(address)
    assert leases.current(store.home(stage))
    assert store.outcome(stage) is None
    began = time.monotonic()
    run_stage(stage, store)
    assert time.monotonic() - began < 5  # seconds; patience would have been 30
    steps = logged(tmp_path, LOG)
    assert set(steps) == {f"a {step}" for step in range(12)}
    kept = record_of(store.home(stage))["resumed"]["step"]
    assert {step for step, times in steps.items() if times > 1} == {f"a {step}" for step in range(kept + 1, last + 1)}
    if not address.startswith("s3"):  # where checkpoints may be rarer than steps: putting them takes time
        assert sum(steps.values()) <= 13  # at most the step that was cut off is computed twice
    assert ends_as_undisturbed(store, stage, tmp_path_factory.mktemp("undisturbed"))
    assert leases.current(store.home(stage)) is None
    assert not checkpoints_left(store, stage)


@EVERYWHERE
def test_a_stage_that_broke_off_is_resumed_at_its_checkpoint_on_another_machine(
    address: str, at: Machine, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    broken = Walk(name="a", steps=6, breaks_at=4)
    whole = replace(broken, breaks_at=None)
    at("here")
    with pytest.raises(RuntimeError, match="broke at step 4"):
        run_stage(broken, Store(address))
    at("there")
    store = Store(address)
    run_stage(whole, store)
    assert computed(store.root)[-2:] == ["a 4", "a 5"]
    assert sum(logged(tmp_path, LOG).values()) == 6
    assert ends_as_undisturbed(store, whole, tmp_path_factory.mktemp("undisturbed"))
    assert not checkpoints_left(store, whole)


@DISK_AND_BUCKET
def test_a_terminated_stage_frees_its_lease(address: str, at: Machine, tmp_path: Path) -> None:
    at("here")
    with work(address, "a", steps=50, pause=0.1) as worker:
        wait_for(lambda: logged(tmp_path, LOG)["a 1"], timeout=30)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait() == 128 + signal.SIGTERM
    assert leases.current(Store(address).home(Walk(name="a", steps=50))) is None


@DISK_AND_BUCKET
def test_processes_that_race_for_the_same_stages_compute_each_once(address: str, at: Machine, tmp_path: Path) -> None:
    names, workers = ["a", "b", "c"], []
    for number, turn in enumerate((0, 0, 1, 2)):
        at(str(number))
        workers.append(work(address, *names[turn:], *names[:turn], steps=5, pause=0.02))
    attempts = [worker.communicate(timeout=100)[0].split() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0, 0]
    assert set(logged(tmp_path, LOG).values()) == {1}
    assert len({attempt for each in attempts for attempt in each}) == len(names)


# The journal of a search, and the store beside it.


@pytest.fixture
def carried(at: Machine, address: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Carried]:
    """The search as the driver of a machine carries it."""
    monkeypatch.setattr("os.fsync", lambda file: None)

    def on(machine: str) -> Carried:
        at(machine)
        return Carried(search(), Path(address))

    return on


def study(address: str, tmp_path: Path) -> Any:
    """The Optuna study, as anyone who has the newest journal opens it."""
    found = files.contents(Store(address).location / "optuna")
    (newest,) = [path for path in found if path.name.endswith(".journal")]
    text = files.read(newest)
    assert text
    (tmp_path / "downloaded.journal").write_bytes(text)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(tmp_path / "downloaded.journal")))
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage)


KILLED_AT = [*(("disk", stages) for stages in (0, 3, 4, 7, 11)), ("s3", 4), ("memory", 0), ("memory", 7)]


@pytest.mark.parametrize(("address", "stages"), KILLED_AT, indirect=["address"])
def test_a_killed_search_resumes_as_if_it_had_not_been_killed(
    carried: Callable[[str], Carried],
    address: str,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    stages: int,
) -> None:
    whole = Carried(search(), tmp_path_factory.mktemp("whole") / "results").run()
    carried("here").run(stages)
    carried("there").run()
    found = study(address, tmp_path)
    assert [trial.params for trial in found.trials] == [trial.params for trial in whole.study.trials]
    assert [trial.state.name for trial in found.trials] == ["COMPLETE"] * 6
    begun = logged(tmp_path, "points.log")
    assert set(begun.values()) == {1}
    assert sorted(begun) == sorted((whole.store.root / "points.log").read_text().splitlines())
    again = carried("elsewhere")
    assert not again.campaign.feed()
    assert again.campaign.plan.finished
    again.end()
    assert again.campaign.findings() == whole.campaign.findings()


@EVERYWHERE
def test_two_drivers_of_one_search_make_its_settings_together(
    carried: Callable[[str], Carried], address: str, tmp_path: Path
) -> None:
    one, other = carried("one"), carried("other")
    live, begun = [one, other], dict.fromkeys(("one", "other"), 0)
    while live:
        for each in list(live):
            if not each.campaign.feed() and each.campaign.plan.finished:
                live.remove(each)
                each.end()
            elif stage := each.campaign.plan.take():
                begun["one" if each is one else "other"] += 1
                each.campaign.plan.completed(stage.key, run_stage(stage, each.store))
    found = study(address, tmp_path)
    assert [(trial.number, trial.state.name) for trial in found.trials] == [(n, "COMPLETE") for n in range(6)]
    assert set(logged(tmp_path, "points.log").values()) == {1}
    assert min(begun.values()) > 0
    assert one.campaign.findings() == other.campaign.findings()
