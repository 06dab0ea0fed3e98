from __future__ import annotations

import json
import pickle
import sys
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halflife.fields import recorded
from halflife.store.identity import canonical, key_of
from halflife.store.stage import Stage
from tests.store.fakes import Walk


@dataclass(frozen=True, kw_only=True)
class Part:
    size: float = 1.0
    label: str = recorded("")


@dataclass(frozen=True, kw_only=True)
class Thing(Stage):
    kind: ClassVar[str] = "thing"

    part: Part = Part()
    more: tuple[Part, ...] = ()
    count: int = 0
    starts: tuple[Stage, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LaterThing(Thing):
    version: ClassVar[int] = 2


@dataclass(frozen=True, kw_only=True)
class ThingWithOneFieldMore(Thing):
    added: int = 7


things = st.builds(
    Thing,
    part=st.builds(Part, size=st.floats(allow_nan=False, allow_infinity=False), label=st.text()),
    more=st.lists(st.builds(Part, size=st.floats(-1e6, 1e6))).map(tuple),
    count=st.integers(),
)


@given(things)
def test_a_key_is_the_same_after_a_trip_through_json_and_pickle(thing: Thing) -> None:
    assert key_of(json.loads(json.dumps(thing.description))) == thing.key
    assert pickle.loads(pickle.dumps(thing)).key == thing.key


@given(things, things)
def test_keys_are_equal_exactly_when_stages_are(one: Thing, other: Thing) -> None:
    assert (one.key == other.key) == (one == other)


@given(things)
def test_a_new_field_at_its_default_leaves_the_key_as_it_was(thing: Thing) -> None:
    wider = ThingWithOneFieldMore(part=thing.part, more=thing.more, count=thing.count)
    assert wider.key == thing.key
    assert replace(wider, added=8).key != thing.key


def test_a_default_given_explicitly_is_no_difference() -> None:
    assert Thing(count=0, part=Part(size=1)).key == Thing().key


def test_a_version_bump_changes_the_key() -> None:
    assert LaterThing().key != Thing().key


def test_recorded_fields_are_not_hashed() -> None:
    assert Thing(part=Part(size=2, label="a")).key == Thing(part=Part(size=2, label="b")).key


def test_a_parent_counts_by_its_key() -> None:
    one, other = Walk(name="a"), Walk(name="b")
    assert Thing(starts=(one,)).description["starts"] == [{"stage": one.key}]
    assert Thing(starts=(one,)).key != Thing(starts=(other,)).key


def test_parents_are_found_at_any_depth_and_each_once() -> None:
    one, other = Walk(name="a"), Walk(name="b")
    child = Thing(starts=(one, other, one, Walk(name="a"), Walk(name="c", starts=(one,))))
    assert [parent.key for parent in child.parents] == sorted({start.key for start in child.starts})
    assert len(child.parents) == 3


def test_a_chain_longer_than_pythons_stack_has_a_key() -> None:
    stage = Walk(name="0")
    for number in range(2 * sys.getrecursionlimit()):
        stage = Walk(name=str(number + 1), starts=(stage,))
    assert len(stage.key) == 20


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_is_not_allowed_in_a_description(value: float) -> None:
    with pytest.raises(ValueError, match="not allowed"):
        canonical(value)


def test_a_mutable_value_has_no_place_in_a_description() -> None:
    with pytest.raises(TypeError, match="dict is not allowed"):
        canonical({"a": 1})
