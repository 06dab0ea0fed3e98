from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest

from halflife.__main__ import main
from halflife.store import housekeeping, leases
from halflife.store.leases import Pulse, Watch
from halflife.store.run import run_stage
from halflife.store.stage import Stage
from halflife.store.store import Store
from tests.store.fakes import Walk


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def _refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_diff_names_the_fields_that_differ_and_marks_defaults(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = Walk(name="a", steps=3), Walk(name="b")
    for stage in (one, other):
        run_stage(stage, store)
    out = _run(capsys, "diff", one.key[:8], other.folder_name, "--results", str(store.root))
    assert f"{one.folder_name} and {other.folder_name} differ in:" in out
    assert "  name: a -> b\n" in out
    assert "  steps: 3 -> 4 (default)\n" in out


def test_diff_explains_parents_through_all_generations(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    trunks = [Walk(name="trunk", steps=steps) for steps in (2, 3)]
    branches = [Walk(name="branch", starts=(trunk,)) for trunk in trunks]
    leaves = [Walk(name="leaf", starts=(branch,)) for branch in branches]
    for leaf in leaves:
        run_stage(leaf, store)
    out = _run(capsys, "diff", leaves[0].key, leaves[1].key, "--results", str(store.root))
    assert f"  starts[0]: {branches[0].folder_name} -> {branches[1].folder_name}\n" in out
    assert f"    starts[0]: {trunks[0].folder_name} -> {trunks[1].folder_name}\n" in out
    assert "      steps: 2 -> 3\n" in out


@dataclass(frozen=True, kw_only=True)
class At:
    """A place in a stage, such as a checkpoint's."""

    stage: Stage
    at: str = "final"


@dataclass(frozen=True, kw_only=True)
class Branch(Walk):
    kind: ClassVar[str] = "branch"

    start: At


def test_diff_explains_parents_that_lie_inside_a_field(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    trunks = [Walk(name="trunk", steps=steps) for steps in (2, 3)]
    starts = [At(stage=trunks[0], at="early"), At(stage=trunks[1])]
    branches = [Branch(name="b", start=start) for start in starts]
    for branch in branches:
        run_stage(branch, store)
    out = _run(capsys, "diff", branches[0].key, branches[1].key, "--results", str(store.root))
    assert f"  start.stage: {trunks[0].folder_name} -> {trunks[1].folder_name}\n" in out
    assert "    steps: 2 -> 3\n" in out
    assert "  start.at: early -> final (default)\n" in out


def test_diff_of_a_stage_with_itself_says_so(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    stage = Walk(name="a")
    run_stage(stage, store)
    assert "are the same stage." in _run(capsys, "diff", stage.key, stage.key, "--results", str(store.root))


def test_diff_separates_recorded_from_hashed_fields(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = Walk(name="a"), Walk(name="b", flops=7)
    run_stage(one, store, origin={"command": "study.py", "commit": "c0ffee", "changes": None, "versions": {"x": "1"}})
    run_stage(other, store, origin={"command": "study.py", "commit": "badcab", "changes": None, "versions": {"x": "2"}})
    out = _run(capsys, "diff", one.key, other.key, "--results", str(store.root))
    hashed, recorded = out.split("Recorded, but not part of their identity:")
    assert "name" in hashed
    assert "commit" not in hashed
    for line in ("commit: c0ffee -> badcab", "versions.x: 1 -> 2", "flops: 1 -> 7"):
        assert line in recorded
    assert "  name" not in recorded


def test_a_stage_that_is_unknown_or_ambiguous_is_refused_in_one_line(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "ab":
        run_stage(Walk(name=name), store)
    unknown = _refused(capsys, "diff", "zzz", "walk", "--results", str(store.root))
    assert "no stage 'zzz'" in unknown
    assert "`python -m halflife ls`" in unknown
    assert "matches 2 stages" in _refused(capsys, "diff", "walk", "walk", "--results", str(store.root))
    assert "no results folder" in _refused(capsys, "ls", "--results", str(store.root / "none"))


def test_ls_shows_every_stage_and_its_status(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    run_stage(Walk(name="a", steps=1234), store)
    run_stage(Walk(name="b", diverges=True), store)
    for broken in (Walk(name="c", breaks_at=2), Walk(name="d", breaks_at=0)):
        with pytest.raises(RuntimeError):
            run_stage(broken, store)
    out = _run(capsys, "ls", "--results", str(store.root))
    for text in ("complete", "1,234", "diverged", "resumable at 1 tokens", "failed: RuntimeError: broke at step 0"):
        assert text in out
    assert Walk(name="a", steps=1234).key in out
    assert "4 stages" in out


def test_ls_shows_what_the_study_calls_a_stage(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    run_stage(Walk(name="a"), store, title="batch_size: 30k · seed 0 · trunk")
    run_stage(Walk(name="b"), store)
    header, *rows, _ = _run(capsys, "ls", "--results", str(store.root)).splitlines()
    assert header.split() == ["kind", "key", "status", "tokens", "disk", "age", "title"]
    assert sum(row.endswith("batch_size: 30k · seed 0 · trunk") for row in map(str.rstrip, rows)) == 1


def test_ls_of_an_empty_store_says_so(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    store.prepare()
    assert "0 stages" in _run(capsys, "ls", "--results", str(store.root))


def test_gc_keeps_results_and_what_can_be_resumed_and_frees_the_rest(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    done, resumable = Walk(name="a", breaks_at=0), Walk(name="b", breaks_at=2)
    with pytest.raises(RuntimeError):
        run_stage(done, store)
    outcome = run_stage(replace(done, breaks_at=None), store)
    with pytest.raises(RuntimeError):
        run_stage(resumable, store)
    (far,) = (store.folder(resumable) / "attempts").glob("*/resume.json")
    far.rename(far.with_name("hidden"))
    with pytest.raises(RuntimeError):
        run_stage(replace(resumable, breaks_at=1), store)
    far.with_name("hidden").rename(far)
    would = _run(capsys, "gc", "--dry-run", "--results", str(store.root))
    assert "2 items" in would
    assert "would be freed" in would
    assert _run(capsys, "gc", "--results", str(store.root)).count("attempts/") == 2
    assert store.outcome(done) == outcome
    assert [path.name for path in (store.folder(done) / "attempts").iterdir()] == [outcome.attempt]
    assert [path.name for path in (store.folder(resumable) / "attempts").iterdir()] == [far.parent.name]
    assert "0 items" in _run(capsys, "gc", "--results", str(store.root))


def test_gc_skips_a_stage_that_is_being_computed(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    stage = Walk(name="a", breaks_at=0)
    with pytest.raises(RuntimeError):
        run_stage(stage, store)
    pulse = Pulse()
    holding = leases.acquire(store.folder(stage), Watch(pulse), pulse)
    assert holding
    with holding:
        assert "0 items" in _run(capsys, "gc", "--results", str(store.root))
    assert "1 item," in _run(capsys, "gc", "--results", str(store.root))


def test_gc_skips_a_stage_that_starts_while_it_looks(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, pulse, looked_for = Walk(name="a", breaks_at=0), Pulse(), housekeeping._garbage_of
    with pytest.raises(RuntimeError):
        run_stage(stage, store)
    began: list[leases.Holding | None] = []

    def slowly(folder: Path) -> Iterator[housekeeping.Garbage]:
        found = list(looked_for(folder))
        began.append(leases.acquire(folder, Watch(pulse), pulse))
        yield from found

    monkeypatch.setattr(housekeeping, "_garbage_of", slowly)
    assert "0 items" in _run(capsys, "gc", "--results", str(store.root))
    assert began[0]
    assert began[0].path.exists()


def test_gc_frees_the_lease_of_a_dead_process_and_old_partial_files(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = Walk(name="a")
    run_stage(stage, store)
    folder = store.folder(stage)
    (folder / "lease-4.json").write_text('{"machine": "another"}')
    fresh, old = folder / ".DONE.1.tmp", folder / ".DONE.2.tmp"
    for path in (fresh, old):
        path.write_text("")
    long_ago = time.time() - 10_000
    os.utime(old, (long_ago, long_ago))
    assert "0 items" in _run(capsys, "gc", "--results", str(store.root))  # a process may hold that lease
    os.utime(folder / "lease-4.json", (long_ago, long_ago))
    assert "2 items" in _run(capsys, "gc", "--results", str(store.root))
    assert sorted(path.name for path in folder.iterdir()) == [".DONE.1.tmp", "DONE", "attempts"]


def test_gc_of_a_corrupt_attempt_keeps_its_mark(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    stage = Walk(name="a")
    first = run_stage(stage, store)
    (store.folder(stage) / "attempts" / first.attempt / "final/state.json").unlink()
    with pytest.warns(UserWarning, match="corrupt"):
        second = run_stage(stage, store)
    _run(capsys, "gc", "--results", str(store.root))
    assert Store(store.root).outcome(stage) == second
    left = store.folder(stage) / "attempts" / first.attempt
    assert [path.name for path in left.rglob("*") if path.is_file()] == ["RETRACTED"]


def test_the_module_runs_and_the_results_folder_may_come_from_the_environment(store: Store) -> None:
    run_stage(Walk(name="a"), store)
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root / "platform"), "HALFLIFE_RESULTS": str(store.root)}
    command = [sys.executable, "-m", "halflife", "ls"]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert Walk(name="a").key in found.stdout


def test_a_reader_that_has_had_enough_ends_a_command_quietly(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = Walk(name="a"), Walk(name="b")
    for stage in (one, other):
        run_stage(stage, store)
    end, pipe = os.pipe()
    os.close(end)
    with os.fdopen(pipe, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        with pytest.raises(SystemExit) as raised:
            main(["diff", one.key, other.key, "--results", str(store.root)])
    assert raised.value.code == 1
    assert capsys.readouterr().err == ""


def test_the_ladder_prints_each_size_and_refuses_an_unknown_one(capsys: pytest.CaptureFixture[str]) -> None:
    out = _run(capsys, "ladder", "30k", "1m")
    assert "29,696" in out
    assert len([line for line in out.splitlines() if line.startswith("│")]) == 2
    assert "unknown size 'x'" in _refused(capsys, "ladder", "x")
