from __future__ import annotations

import json
from dataclasses import replace

import pytest

from analysis.errors import UserError
from analysis.runs import upgrades
from analysis.runs.load import load_study
from analysis.runs.study import declared
from analysis.runs.upgrades import Upgrade
from halflife.tracking import schema
from tests.analysis import planted
from tests.analysis.conftest import TINY


def renamed(declaration, old, new):
    return [{**{k: v for k, v in one.items() if k != old}, new: one[old]} for one in declaration["outcomes"]]


def to_schema_0(declaration):
    """The declaration in a made-up schema 0: tasks were called parts, and there were no controls."""
    kept = {key: value for key, value in declaration.items() if key != "controls"}
    return {**kept, "outcomes": renamed(declaration, "task", "part"), "schema": 0}


def from_schema_0(declaration):
    return {**declaration, "outcomes": renamed(declaration, "part", "task"), "controls": []}


SCHEMA_0 = Upgrade(
    declaration=from_schema_0,
    tags=lambda tags: {key.replace("halflife.part.", schema.TAG_OUTCOME_PREFIX): value for key, value in tags.items()},
    metric=lambda name: name.replace(":", "/"),
)
"""From the made-up schema 0, with other tags and with colons in metrics, to schema 1."""


@pytest.fixture
def old_store(tmp_path):
    """A sweep of the made-up schema 0."""
    writer = planted.Writer(tmp_path)
    parent = writer.run("s", "sweep", 1, {schema.TAG_STUDY: TINY.study, schema.TAG_SWEEP: "s"})
    declaration = json.loads(planted.declaration(TINY).to_json())
    writer.artifact(parent, schema.DECLARATION, json.dumps(to_schema_0(declaration)))
    tags = {schema.PARENT_RUN: parent, schema.TAG_TRIAL: "t", "halflife.part.branch": "complete"}
    run = writer.run("t", "trial", 1, {**tags, schema.TAG_STAGE_PREFIX + "trunk": "folder"})
    writer.points(run, "branch:", {"backdoor:hits": [(0, 3.0)], "a:loss": [(5, 1.0)]})
    stage = writer.run("st", "stage", 1, {schema.TAG_STAGE: "folder"})
    writer.points(stage, "stage:", {"a:loss": [(0, 2.0)]})
    writer.close()
    return writer.uri


def test_a_store_with_an_older_schema_is_read_as_the_current_one(old_store, monkeypatch):
    monkeypatch.setitem(upgrades.UPGRADES, 0, SCHEMA_0)
    data = load_study(old_store, TINY.study)
    assert data.declaration == replace(planted.declaration(TINY), controls=())
    assert data.trials["outcome_branch"].to_list() == ["complete"]
    assert data.points.select("phase", "name", "value").rows() == [
        ("branch", "a/loss", 1.0), ("branch", "backdoor/hits", 3.0), ("trunk", "a/loss", 2.0),
    ]  # fmt: skip


def test_schema_1_is_read_with_the_roles_of_its_axes_and_without_questions(tmp_path):
    written = json.loads(planted.declaration(TINY).to_json())
    for name in ("quantities", "questions", "looks", "pilot_seeds", "declared"):
        del written[name]
    for axis in written["axes"]:
        del axis["role"]
    read, _ = declared(json.dumps(written | {"schema": 1}), "study.json")
    assert {axis.name: axis.role for axis in read.axes} == {
        "size": "dose", "seed": "replicate", "arm": "treatment", "payload": "measured", "learning_rate": "dose",
        "trunk_regularizer": "treatment", "branch_regularizer": "treatment", "optimizer_state": "treatment",
    }  # fmt: skip
    assert replace(read, axes=()) == replace(planted.declaration(TINY), axes=())


def test_upgrades_are_applied_in_sequence(monkeypatch):
    monkeypatch.setattr(schema, "SCHEMA", 3)
    steps = {
        version: Upgrade(
            declaration=lambda value, version=version: {**value, "seen": [*value.get("seen", []), version]},
            metric=lambda name, version=version: f"{name}{version}",
        )
        for version in (1, 2)
    }
    both, one = upgrades.path(1, steps), upgrades.path(2, steps)
    assert both.declaration({"schema": 1}) == {"schema": 3, "seen": [1, 2]}
    assert (both.metric("m"), one.metric("m")) == ("m12", "m2")
    assert upgrades.path(3, steps).declaration({"schema": 3}) == {"schema": 3}


def test_a_schema_without_an_upgrade_is_one_clear_line(old_store):
    with pytest.raises(UserError, match="cannot read schema 0") as caught:
        load_study(old_store, TINY.study)
    assert "\n" not in str(caught.value)


def test_every_released_schema_can_be_read():
    for version in range(1, schema.SCHEMA + 1):
        upgrades.path(version, upgrades.UPGRADES)
