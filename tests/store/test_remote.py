"""Results in object storage: machines find each other's results, and never overwrite them."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from halflife.__main__ import main
from halflife.data.corpus import Corpus
from halflife.errors import UserError
from halflife.store import files, inputs, leases
from halflife.store.leases import Pulse
from halflife.store.plan import Plan
from halflife.store.remote import Remote, copy_of, opened
from halflife.store.run import run_stage
from halflife.store.stage import Outcome
from halflife.store.store import Corrupt, Store
from tests.store.fakes import Walk, computed, final_state

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["s3", "memory"])
def address(request: pytest.FixtureRequest) -> str:
    """A fresh folder in a bucket."""
    if request.param == "memory":
        return f"memory://laboratory/{uuid.uuid4().hex}"
    return f"{request.getfixturevalue('bucket')}/{uuid.uuid4().hex}"


Host = Callable[[str], Store]


@pytest.fixture
def host(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """The store as opened by the machine of this name, with its own copy."""

    def open_there(name: str) -> Store:
        monkeypatch.setenv("HALFLIFE_CACHE", str(tmp_path / name))
        return Store(address)

    return open_there


def _state(store: Store, stage: Walk) -> str:
    folder = store.verified(stage)
    assert folder
    return final_state(folder)


def test_a_machine_finds_what_another_has_computed(host: Host, tmp_path: Path) -> None:
    parent = Walk(name="a")
    child = Walk(name="b", starts=(parent,))
    here, alone = host("here"), Store(tmp_path / "alone")
    outcome = run_stage(parent, here)
    there = host("there")
    assert there.outcome(parent) == outcome
    run_stage(child, there)
    assert computed(there.root) == [f"b {step}" for step in range(4)]
    run_stage(child, alone)
    again = host("here")
    assert again.outcome(child) == there.outcome(child)
    assert _state(again, child) == _state(alone, child)
    assert again.points(child).equals(alone.points(child))
    run_stage(child, again)
    assert computed(again.root) == [f"a {step}" for step in range(4)]


def test_a_bucket_contains_the_same_files_as_a_folder(host: Host) -> None:
    store = host("here")
    outcome = run_stage(Walk(name="a"), store)
    folder = store.home(Walk(name="a"))
    kept = {str(path).removeprefix(f"{folder}/") for path in files.contents(folder)}
    attempt = f"attempts/{outcome.attempt}"
    assert kept == {
        "DONE",
        f"{attempt}/final/state.json",
        f"{attempt}/metrics.parquet",
        f"{attempt}/stage.json",
    }


@pytest.mark.parametrize("harm", ["flipped", "truncated", "missing"])
def test_a_checkpoint_damaged_in_the_bucket_is_skipped(host: Host, harm: str) -> None:
    broken = Walk(name="a", breaks_at=3)
    store = host("here")
    with pytest.raises(RuntimeError):
        run_stage(broken, store)
    _damage(next(path for path in files.contents(store.home(broken)) if path.name == "state.json"), harm)
    there = host("there")
    with pytest.warns(UserWarning, match="is skipped"):
        run_stage(replace(broken, breaks_at=None), there)
    assert computed(there.root) == [f"a {step}" for step in range(4)]


@pytest.mark.parametrize("harm", ["flipped", "truncated", "missing"])
@pytest.mark.parametrize("file", ["state.json", "metrics.parquet"])
def test_a_result_damaged_in_the_bucket_is_computed_again(host: Host, harm: str, file: str) -> None:
    parent = Walk(name="a")
    child = Walk(name="b", starts=(parent,))
    store = host("here")
    before = run_stage(parent, store)
    state = _state(store, parent)
    _damage(next(path for path in files.contents(store.home(parent)) if path.name == file), harm)
    there = host("there")
    with pytest.warns(UserWarning, match=r"walk-\w+ is corrupt"):
        run_stage(child, there)
    assert there.outcome(parent) != before
    assert _state(there, parent) == state
    assert _state(host("here"), parent) == state


def test_damaged_points_are_refused_once_and_computed_again(host: Host) -> None:
    stage, store = Walk(name="a"), host("here")
    run_stage(stage, store)
    points = store.points(stage)
    _damage(next(path for path in files.contents(store.home(stage)) if path.name == "metrics.parquet"), "flipped")
    there = host("there")
    with pytest.warns(UserWarning, match="corrupt"), pytest.raises(Corrupt, match="run the same command again"):
        there.points(stage)
    run_stage(stage, there)
    assert there.points(stage).equals(points)


def _damage(path: files.AnyPath, harm: str) -> None:
    data = files.read(path)
    assert data
    files.remove(path)
    if harm != "missing":
        files.write(path, data[:-2] if harm == "truncated" else data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])


def test_of_many_writers_one_creates(address: str) -> None:
    won: list[int] = []
    barrier = threading.Barrier(8)

    def write(number: int) -> None:
        place = opened(address) / "DONE"
        barrier.wait()
        if place.create(f"writer {number}".encode()):
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert (opened(address) / "DONE").read() == f"writer {won[0]}".encode()


def test_a_put_that_was_repeated_because_its_answer_was_lost_is_ours(address: str) -> None:
    place = opened(address) / "DONE"
    assert place.create(b"ours")
    assert place.create(b"ours")
    assert not place.create(b"another's")


def test_the_first_attempt_to_complete_wins_on_whatever_machine(host: Host) -> None:
    stage, outcomes = Walk(name="a"), []
    for name in ("here", "there"):
        store = host(name)
        attempt = store.folder(stage) / "attempts" / name
        attempt.mkdir(parents=True)
        (attempt / "made").write_text(name)
        outcomes.append(store.complete(stage, Outcome(status="complete", attempt=name, summary={})))
    assert [outcome.attempt for outcome in outcomes] == ["here", "here"]


def test_object_storage_that_lets_a_second_writer_overwrite_is_refused(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HALFLIFE_CACHE", str(tmp_path))
    store = Store(address)
    monkeypatch.setattr(Remote, "create", lambda self, data: self.write(data) or True)
    with pytest.raises(UserError, match="a second writer can overwrite the first"):
        store.prepare()
    assert files.read_json(store.location / "halflife.json") == {"store": 1}


def test_ls_and_gc_work_on_a_bucket(host: Host, address: str, capsys: pytest.CaptureFixture[str]) -> None:
    done, broken = Walk(name="a"), Walk(name="b", breaks_at=3)
    store = host("here")
    run_stage(done, store)
    with pytest.raises(RuntimeError):
        run_stage(broken, store)
    files.write(store.home(done) / "attempts" / "lost" / "weights", b"x" * 100)
    files.write(store.home(broken) / "lease-1.json", b"{}")
    assert main(["ls", "--results", address]) == 0
    shown = capsys.readouterr().out
    assert "complete" in shown
    assert "2 stages" in shown
    assert main(["gc", "--results", address]) == 0
    shown = capsys.readouterr().out
    assert "100 bytes" in shown
    assert f"stages/{done.folder_name}/attempts/lost" in shown
    assert store.outcome(done)
    there = host("there")
    run_stage(replace(broken, breaks_at=None), there, pulse=Pulse(patience=0.0))
    assert computed(there.root) == ["b 3"]  # gc kept what can be resumed


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("s3://user:password@bucket/x", "contains credentials"),
        ("nosuch://bucket/x", r"needs pip install .*s3"),
        ("s3://no-such-laboratory/x", "cannot write results to s3://no-such-laboratory/x: .*; choose another folder"),
    ],
)
def test_a_bucket_that_cannot_be_used_is_refused_in_one_line(
    bucket: str, address: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HALFLIFE_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=said) as refusal:
        Store(address).prepare()
    assert "\n" not in str(refusal.value)
    assert "password" not in str(refusal.value)


def test_the_local_copy_can_be_used_in_place_of_the_bucket(host: Host, address: str) -> None:
    store = host("here")
    run_stage(Walk(name="a"), store)
    copy = copy_of(address)
    assert (store.root, store.address) == (copy, address)
    assert Store(copy).address == address
    assert Store(Path(address)).outcome(Walk(name="a"))  # Path collapses the two slashes


def test_large_checkpoints_are_kept_so_seldom_that_uploading_takes_a_tenth_of_the_time(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    put, kept = Remote.upload, []

    def upload(self: Remote, folder: Path, names: list[str]) -> None:
        if folder.name.startswith("resume"):
            now[0] += 2.0
            kept.append(folder.name)
        put(self, folder, names)

    monkeypatch.setattr(Remote, "upload", upload)
    ticking = leases.Pulse(clock=lambda: now[0])

    def tick(progress: object) -> None:
        now[0] += 5.0

    run_stage(Walk(name="a", steps=12), host("here"), on_progress=tick, pulse=ticking)
    assert kept == ["resume-1", "resume-5", "resume-9"]


def test_a_machine_fetches_the_corpora_that_its_stages_name(host: Host) -> None:
    digest, other = "0123456789abcdef0123", "ffffffffffffffffffff"
    here = host("here")
    for name in (digest, other):
        folder = here.root / "corpora" / name
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(name)
    (here.root / "corpora" / "digests.json").write_text("{}")
    here.prepare()
    inputs.upload(here)
    inputs.upload(here)
    there = host("there")
    inputs.fetch(Walk(name=digest), there)  # a stage that refers to it
    assert [path.name for path in (there.root / "corpora").iterdir()] == [digest]
    assert (there.root / "corpora" / digest / "manifest.json").read_text() == digest


@pytest.mark.parametrize("name", ["../../outside", "/outside", "0123456789abcdef0123/../../../outside"])
def test_a_manifest_that_leads_out_of_its_folder_is_refused(host: Host, name: str) -> None:
    digest = Corpus(digest="0123456789abcdef0123").digest
    store = host("here")
    files.write(store.location / "inputs" / "corpora" / f"{digest}.json", json.dumps({name: {"bytes": 1}}).encode())
    with pytest.raises(Corrupt, match="outside"):
        inputs.fetch(Walk(name=digest), store)


def test_a_plan_reads_a_listing_and_only_new_results(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = [Walk(name=str(number)) for number in range(12)]
    here = host("here")
    for stage in stages[:4]:
        run_stage(stage, here)
    call, asked = Remote._call, []

    def counted(self: Remote, verb: str, *arguments: object, **how: object) -> object:
        asked.append(verb)
        return call(self, verb, *arguments, **how)

    monkeypatch.setattr(Remote, "_call", counted)
    there = host("there")
    asked.clear()
    assert Plan(stages, there).cached == {stage.key for stage in stages[:4]}
    assert sorted(asked) == ["cat_file"] * 4 + ["find"]
    asked.clear()
    assert len(Plan(stages, Store(there.root)).missing) == 8
    assert asked == ["cat_file", "find"]  # the version of the store, and the listing


def test_a_plan_sees_that_objects_are_gone(host: Host) -> None:
    stage, store = Walk(name="a"), host("here")
    outcome = run_stage(stage, store)
    assert Plan([stage], store).outcomes
    files.remove(store.home(stage) / "attempts" / outcome.attempt / "final" / "state.json")
    with pytest.warns(UserWarning, match=r"corrupt \(final/state.json is missing\)"):
        assert Plan([stage], store).missing == [stage]
    assert run_stage(stage, store) != outcome
    assert Plan([stage], store).outcomes


def test_one_machine_at_a_time_holds_a_mutex(host: Host) -> None:
    inside, most = [0], [0]

    def work(store: Store) -> None:
        with leases.Mutex(store.location / "alone"):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.05)
            inside[0] -= 1

    threads = [threading.Thread(target=work, args=(host(str(number)),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (inside[0], most[0]) == (0, 1)
