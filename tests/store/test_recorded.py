"""Stages made again from their records: equal, or refused in one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from halflife.errors import UserError
from halflife.stages.subject import Subject
from halflife.stages.train import Checkpoint
from halflife.store.attempt import Attempt
from halflife.store.execution import Execution
from halflife.store.files import AnyPath
from halflife.store.recorded import stage_of
from halflife.store.stage import Stage
from halflife.store.store import Store
from tests.plugin.added import CountParameters, Silenced
from tests.stages.test_golden_keys import GOLDEN, TRUNK
from tests.store.fakes import Walk

COUNTED = CountParameters(subject=Subject(model=Checkpoint(stage=TRUNK), edits=(Silenced(directions=2),)))


def recorded(stage: Stage, store: Store) -> AnyPath:
    """The folder of a stage with its record and those of its ancestors, and no result."""
    if not (store.home(stage) / "attempts").exists():
        for parent in stage.parents:
            recorded(parent, store)
        Attempt(
            stage,
            store,
            device="cpu",
            execution=Execution(),
            checkpoint_seconds=1.0,
            provenance={"commit": "c0ffee"},
            on_progress=lambda progress: None,
        )
    return store.home(stage)


def rewrite(folder: AnyPath, *place: str | int, value: Any) -> None:
    """Change one entry of a record."""
    assert isinstance(folder, Path)
    (path,) = (folder / "attempts").glob("*/stage.json")
    inner = record = json.loads(path.read_text())
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    path.write_text(json.dumps(record))


@pytest.mark.parametrize("stage", [*(stage for stage, _ in GOLDEN), COUNTED], ids=lambda stage: stage.folder_name)
def test_every_kind_is_made_again_from_its_record(stage: Stage, store: Store) -> None:
    again = stage_of(store, recorded(stage, store))
    assert again == stage
    assert again.key == stage.key


def test_a_class_that_nobody_imported_is_refused_and_never_imported(store: Store) -> None:
    for place in (("description", "of"), ("fields", "subject", "edits", 0, "of")):
        folder = recorded(COUNTED, store)
        rewrite(folder, *place, value="antigravity")
        with pytest.raises(UserError, match=r"of the package antigravity, which nothing imports here: .* --plugins"):
            stage_of(store, folder)
        rewrite(folder, *place, value="tests")
    assert "antigravity" not in sys.modules
    assert stage_of(store, folder) == COUNTED


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("description", "kind"), "conjure"),
        (("fields", "mixture", "tokenizer", "is"), "Words"),
        (("fields", "mixture", "is"), "system"),
        (("fields", "mixture", "is"), "Rung"),  # a class that the field does not admit
        (("fields", "gone"), 1),
        (("fields", "tokens"), 2_000_001),
    ],
)
def test_a_record_of_another_version_is_refused(store: Store, place: tuple[str, ...], value: Any) -> None:
    folder = recorded(TRUNK, store)
    rewrite(folder, *place, value=value)
    with pytest.raises(UserError, match=r"another version of halflife \(commit c0ffee\)"):
        stage_of(store, folder)


def test_a_field_newer_than_the_record_has_its_default(store: Store) -> None:
    folder = recorded(TRUNK, store)
    (path,) = Path(str(folder)).glob("attempts/*/stage.json")
    record = json.loads(path.read_text())
    del record["fields"]["start"]["depth"]
    path.write_text(json.dumps(record))
    assert stage_of(store, folder) == TRUNK
    del record["fields"]["mixture"]["sources"]  # has no default
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match="another version"):
        stage_of(store, folder)


def test_a_stage_that_is_its_own_ancestor_is_damaged(store: Store) -> None:
    one = Walk(name="one")
    other = Walk(name="other", starts=(one,))
    folder = recorded(other, store)
    rewrite(store.home(one), "parents", value={other.key: other.folder_name})
    with pytest.raises(UserError, match="its own ancestor"):
        stage_of(store, folder)


def test_a_long_chain_is_made_again(store: Store) -> None:
    stage = Walk(name="0")
    for number in range(1, 400):
        recorded(stage, store)
        stage = Walk(name=str(number), starts=(stage,))
    assert stage_of(store, recorded(stage, store)).key == stage.key
