"""Searches with results in a bucket, by drivers on machines that share nothing else."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from halflife.errors import UserError
from halflife.store import leases
from halflife.store.remote import opened
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
    """The search as run by the driver on this machine, with its own copy of the bucket."""
    monkeypatch.setattr("os.fsync", lambda file: None)

    def carried(machine: str, made: Any = None) -> Carried:
        monkeypatch.setenv("HALFLIFE_CACHE", str(tmp_path / machine))
        return Carried(made or search(), Path(address))

    return carried


@pytest.mark.parametrize("puts", [1, 2, 3])
def test_a_driver_that_stalls_inside_the_journal_cannot_overwrite_the_entries_of_others(
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
        quick.append_logs([{"line": "resumes"}])
    assert len(list(lines(folder))) == 2 + puts


def lines(folder: Any) -> Iterator[dict[str, Any]]:
    newest = [path for path in folder.contents() if path.name.endswith(".journal")][-1]
    return (json.loads(line) for line in (newest.read() or b"").splitlines())


def test_an_overtaken_driver_leaves_cleanly(on: Callable[..., Carried], address: str) -> None:
    carried = on("here")
    journal: Any = carried.campaign._suggestions._journal
    journal._overtaken = True
    carried.campaign.close()


def test_an_unreadable_journal_in_a_bucket_is_one_line(address: str) -> None:
    suggestions = Suggestions(search(), opened(address) / "optuna")
    (journal,) = (path for path in opened(f"{address}/optuna").contents() if path.name.endswith(".journal"))
    (journal.parent / "000900.journal").write(b"not at all\n")
    with pytest.raises(UserError, match=r"cannot be read .*: move it away") as caught:
        Suggestions(search(), opened(address) / "optuna")
    assert "\n" not in str(caught.value)
    assert suggestions.started == 0
