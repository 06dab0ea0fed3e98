"""Searches whose results lie in a bucket, by drivers on machines that share nothing else."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend

from halflife.errors import UserError
from halflife.store import leases
from halflife.store.remote import opened
from halflife.store.run import run_stage
from halflife.sweep.journal import InBucket, Overtaken
from halflife.sweep.suggestions import Suggestions
from tests.sweep.searches import Carried, search


@pytest.fixture(params=["s3", "memory"])
def address(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return f"memory://laboratory/{uuid.uuid4().hex}"
    return f"{request.getfixturevalue('bucket')}/{uuid.uuid4().hex}"


@pytest.fixture
def on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> Callable[..., Carried]:
    """The search as the driver of a machine of this name carries it: its copy of the bucket is its own."""
    monkeypatch.setattr("os.fsync", lambda file: None)

    def carried(machine: str, made: Any = None) -> Carried:
        monkeypatch.setenv("HALFLIFE_CACHE", str(tmp_path / machine))
        return Carried(made or search(), Path(address))

    return carried


def computed(tmp_path: Path) -> list[str]:
    """Keys of the points that any machine has begun to compute."""
    return [line for log in tmp_path.glob("*/*/points.log") for line in log.read_text().splitlines()]


def study(address: str, tmp_path: Path) -> Any:
    """The Optuna study, as one who has downloaded the newest journal opens it."""
    journals = [path for path in opened(f"{address}/optuna").contents() if path.name.endswith(".journal")]
    (newest,) = journals
    text = newest.read()
    assert text
    (tmp_path / "downloaded.journal").write_bytes(text)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(tmp_path / "downloaded.journal")))
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage)


@pytest.mark.parametrize(("address", "stages"), [("memory", 0), ("s3", 4), ("memory", 7)], indirect=["address"])
def test_a_search_killed_on_one_machine_goes_on_on_another_as_if_it_had_not_been(
    on: Callable[..., Carried], address: str, tmp_path: Path, stages: int
) -> None:
    whole = Carried(search(), tmp_path / "whole").run()
    on("here").run(stages)
    on("there").run()
    found = study(address, tmp_path)
    assert [trial.params for trial in found.trials] == [trial.params for trial in whole.study.trials]
    assert {trial.state.name for trial in found.trials} == {"COMPLETE"}
    assert set(Counter(computed(tmp_path)).values()) <= {1}
    again = on("elsewhere")
    assert not again.campaign.feed()
    assert again.campaign.plan.finished
    again.end()
    assert again.campaign.findings() == whole.campaign.findings()


def test_two_drivers_on_two_machines_make_its_settings_together(
    on: Callable[..., Carried], address: str, tmp_path: Path
) -> None:
    one, other = on("one"), on("other")
    live, begun = [one, other], dict.fromkeys(("one", "other"), 0)
    while live:
        for carried in list(live):
            if not carried.campaign.feed() and carried.campaign.plan.finished:
                live.remove(carried)
                carried.end()
            elif stage := carried.campaign.plan.take():
                begun["one" if carried is one else "other"] += 1
                carried.campaign.plan.completed(stage.key, run_stage(stage, carried.store))
    found = study(address, tmp_path)
    assert [(trial.number, trial.state.name) for trial in found.trials] == [(n, "COMPLETE") for n in range(6)]
    assert set(Counter(computed(tmp_path)).values()) == {1}
    assert min(begun.values()) > 0
    assert one.campaign.findings() == other.campaign.findings()


@pytest.mark.parametrize("puts", [1, 2, 3])
def test_one_who_stood_still_inside_the_journal_cannot_put_his_lines_over_those_of_others(
    address: str, monkeypatch: pytest.MonkeyPatch, puts: int
) -> None:
    folder = opened(address) / "optuna" / "a-search"
    slow, quick = InBucket(folder), InBucket(folder)
    with quick:
        quick.append_logs([{"line": 0}])

    def write_while_overtaken() -> None:
        with slow:
            slow.append_logs([{"line": "slow"}])
            # its machine sleeps: the lease is taken over, and given back
            monkeypatch.setattr(leases.Watch, "abandoned", lambda self, lease: True)
            for line in range(1, 1 + puts):
                with quick:
                    quick.append_logs([{"line": line}])
            monkeypatch.undo()

    with pytest.raises(Overtaken, match="run the same command again"):
        write_while_overtaken()
    assert list(lines(folder)) == [{"line": line} for line in range(1 + puts)]
    with pytest.raises(Overtaken), slow:
        pass
    with quick:
        quick.append_logs([{"line": "goes on"}])
    assert len(list(lines(folder))) == 2 + puts


def lines(folder: Any) -> Iterator[dict[str, Any]]:
    newest = [path for path in folder.contents() if path.name.endswith(".journal")][-1]
    return (json.loads(line) for line in (newest.read() or b"").splitlines())


def test_a_driver_that_was_overtaken_leaves_without_harm(on: Callable[..., Carried], address: str) -> None:
    carried = on("here")
    journal: Any = carried.campaign._suggestions._journal
    journal._overtaken = True
    carried.campaign.leave()


def test_a_journal_in_a_bucket_that_is_none_is_one_line(address: str) -> None:
    suggestions = Suggestions(search(), opened(address) / "optuna")
    (journal,) = (path for path in opened(f"{address}/optuna").contents() if path.name.endswith(".journal"))
    (journal.parent / "000900.journal").write(b"not at all\n")
    with pytest.raises(UserError, match=r"cannot be read .*: move it away") as caught:
        Suggestions(search(), opened(address) / "optuna")
    assert "\n" not in str(caught.value)
    assert suggestions.begun == 0
