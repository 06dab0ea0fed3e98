"""Sweeps with results in a bucket, by drivers on machines that share nothing else."""

from __future__ import annotations

import os
import signal
import sqlite3
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend

from halflife.store.files import read_json
from halflife.store.remote import Remote, opened
from halflife.store.store import Store
from tests.sweep.drivers import ROOT, Driver, wait_for
from tests.sweep.searches import computed
from tests.sweep.test_workers import of_ray_train, points, text
from tests.sweep.train_program import stages

pytestmark = pytest.mark.slow


SEARCH = ("--trials", "10", "--deed", "sleep")


def searching(host: Path, address: str) -> Driver:
    """On its own machine, which shares the bucket and the tracking database."""
    flags = (*SEARCH, "--tracking-uri", f"sqlite:///{host.parent / 'mlflow.db'}")
    return Driver(Path(address), *flags, program="search_program", environment={"HALFLIFE_CACHE": str(host)})


def begun(tmp_path: Path) -> Counter[str]:
    """How often each stage of a search has started, on any machine."""
    return Counter(key for copy in tmp_path.glob("host-*/*") for key in computed(copy))


def states(address: str, tmp_path: Path) -> Counter[str]:
    """Of the search's settings, in the newest journal of the bucket."""
    journals = [path for path in opened(f"{address}/optuna").contents() if path.name.endswith(".journal")]
    text = journals[-1].read() if journals else None
    if not text:
        return Counter()
    (tmp_path / "journal").write_bytes(text)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(tmp_path / "journal")))
    (name,) = optuna.get_all_study_names(storage)
    return Counter(trial.state.name for trial in optuna.load_study(study_name=name, storage=storage).trials)


def test_a_search_on_two_hosts_is_finished_by_one_when_the_other_is_killed(bucket: str, tmp_path: Path):
    address = f"{bucket}/{uuid.uuid4().hex}"
    killed, left = (searching(tmp_path / f"host-{number}", address) for number in range(2))
    wait_for(lambda: states(address, tmp_path)["COMPLETE"] >= 2 and list(tmp_path.glob("host-0/*/points.log")), 400)
    os.killpg(killed.process.pid, signal.SIGKILL)
    killed.process.communicate()
    ended = [path for path in opened(f"{address}/stages").contents() if path.name == "DONE"]
    complete = {path.parent.name.partition("-")[2] for path in ended}
    report = left.report(timeout=400)
    assert (report["failed"], report["unpublished"]) == ({}, [])
    assert states(address, tmp_path) == {"COMPLETE": 10}
    assert complete
    assert {begun(tmp_path)[key] for key in complete} == {1}
    assert max(begun(tmp_path).values()) <= 2
    connection = sqlite3.connect(tmp_path / "mlflow.db")
    names = [name for (name,) in connection.execute("SELECT name FROM runs WHERE status = 'FINISHED'")]
    of_trials = "FROM metrics WHERE key NOT LIKE 'sweep/%'"
    (points,) = connection.execute(f"SELECT count(*) {of_trials}").fetchone()
    distinct = connection.execute(f"SELECT DISTINCT run_uuid, key, step {of_trials}").fetchall()
    runs = connection.execute("SELECT count(*) FROM runs").fetchone()
    connection.close()
    assert len(names) == len(set(names)) == runs[0] > 10
    assert points == len(distinct) > 20
    third = searching(tmp_path / "host-2", address).report(timeout=400)  # a new machine
    assert (third["run"], third["imported"], third["findings"]) == (0, [], report["findings"])
    assert third["unpublished"] == []


@pytest.fixture
def hosts(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Ray of a head without a core and two hosts with one each, which share nothing but the bucket."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "platform"), str(ROOT)]))
    cluster = Cluster()
    for number in range(3):
        cache = {"HALFLIFE_CACHE": str(tmp_path / f"host-{number}")}
        cluster.add_node(num_cpus=min(1, number), object_store_memory=80 * 2**20, env_vars=cache)
    cluster.wait_for_nodes()
    monkeypatch.setenv("RAY_ADDRESS", str(cluster.address))
    yield
    cluster.shutdown()


def resumables(address: str) -> list[Remote]:
    return [path for path in opened(f"{address}/stages").contents() if path.name == "resume.json"]


@pytest.mark.nightly
def test_workers_on_two_hosts_that_share_only_a_bucket_survive_a_death_and_end_as_those_on_one(
    bucket: str, hosts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    address, source = f"{bucket}/{uuid.uuid4().hex}", text(tmp_path)

    def training(results: str, workers: int, zero: int) -> Driver:
        environment = {"HALFLIFE_CACHE": str(tmp_path / "host-0")}
        flags = (str(source), str(workers), str(zero))
        return Driver(Path(results), *flags, program="train_program", environment=environment)

    driver = training(address, 2, 1)

    def await_checkpoints(count: int) -> None:
        wait_for(lambda: len(resumables(address)) >= count or driver.process.poll() is not None, timeout=400)
        assert driver.process.poll() is None, driver.process.communicate()[0]

    await_checkpoints(1)
    workers = of_ray_train(None, b"RayTrainWorker")
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    await_checkpoints(2)  # the next attempt's, which resumed the first's
    os.killpg(driver.process.pid, signal.SIGINT)
    assert driver.report(timeout=120)["interrupted"]
    finished = training(address, 1, 2).report(timeout=600)
    assert (finished["failed"], sum(finished[how] for how in ("cached", "run", "elsewhere"))) == ({}, 2)
    monkeypatch.delenv("RAY_ADDRESS")
    assert training(str(tmp_path / "torch"), 0, 0).report(timeout=600)["failed"] == {}
    monkeypatch.setenv("HALFLIFE_CACHE", str(tmp_path / "elsewhere"))
    store, trunk = Store(address), stages(tmp_path / "torch", source)["trunk"]
    folder = store.verified(trunk)
    assert folder
    found = {(step, name): value for step, name, value in store.points(trunk).rows()}
    expected = {key[1:]: value for key, value in points(tmp_path / "torch").items() if key[0] == trunk.folder_name}
    assert expected.keys() <= found.keys()
    losses = [key for key in expected if key[1].endswith("loss") and key[0] <= 50 * 1024]
    assert len(losses) > 20
    for key in losses:
        assert found[key] == pytest.approx(expected[key], rel=1e-4), key
    records = [read_json(path) or {} for path in opened(f"{address}/stages").contents() if path.name == "stage.json"]
    assert sum(record["resumed"] is not None for record in records) >= 2
    assert {(2, 1), (1, 2)} <= {(each["execution"]["workers"], each["execution"]["zero"]) for each in records}
    for number in (1, 2):  # every host has written its own shards, and removed them
        assert list((tmp_path / f"host-{number}").glob("*/stages/*/attempts/*"))
        assert not list((tmp_path / f"host-{number}").glob("*/stages/*/attempts/*-rank-*/*/*"))
    assert not resumables(address)
