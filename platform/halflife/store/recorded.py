"""Stages made again from their records in the store.

A record names classes, never modules: only classes that this process has imported are made, with data as their fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, is_dataclass
from typing import Any, get_args, get_type_hints

from halflife.errors import UserError
from halflife.store.difference import record_of
from halflife.store.files import AnyPath
from halflife.store.identity import fields
from halflife.store.plugins import origin_of
from halflife.store.stage import Stage
from halflife.store.store import Store


def stage_of(store: Store, folder: AnyPath) -> Stage:
    """The stage that a folder of the store belongs to, with its ancestors.

    Raises UserError when it, or one of them, has no record, is of a class that is not imported, or was recorded by
    another version of its class.
    """
    made: dict[str, Stage] = {}
    opened: set[str] = set()
    stack = [folder]
    while stack:  # ancestors first, however long the chain is
        name = stack[-1].name
        record = record_of(stack[-1])
        if not record:
            raise UserError(f"{name} has no attempt with a record: run its study again")
        unmade = [store.stages / parent for key, parent in record["parents"].items() if key not in made]
        if unmade and name not in opened:
            opened.add(name)
            stack.extend(unmade)
            continue
        if unmade:
            raise UserError(f"{name} is damaged (it is its own ancestor): run its study again")
        stage = _stage(record, made)
        if stage.folder_name != stack.pop().name:
            raise _other_version(record)
        made[stage.key] = stage
    return made[folder.name.rpartition("-")[2]]


def _stage(record: dict[str, Any], made: dict[str, Stage]) -> Stage:
    described = record["description"]
    kinds = [kind for kind in _derived(Stage) if getattr(kind, "kind", None) == described["kind"]]
    return _filled(_chosen(kinds, f"kind {described['kind']!r}", described, record), record["fields"], record, made)


def _filled(kind: type, given: dict[str, Any], record: dict[str, Any], made: dict[str, Stage]) -> Any:
    """An instance of a dataclass. Fields that are newer than the record have their defaults; whether all this describes
    the same thing shows in the key."""
    values = {name: value for name, value in given.items() if name not in ("is", "of")}
    every = {field.name: field.default is MISSING and field.default_factory is MISSING for field in fields(kind)}
    if not {name for name, required in every.items() if required} <= values.keys() <= every.keys():
        raise _other_version(record)
    hints = get_type_hints(kind)
    return kind(**{name: _value(value, hints[name], record, made) for name, value in values.items()})


def _value(value: Any, hint: Any, record: dict[str, Any], made: dict[str, Stage]) -> Any:
    if isinstance(value, list):
        return tuple(_value(item, hint, record, made) for item in value)
    if not isinstance(value, dict):
        return value
    if "is" not in value:
        return made[value["stage"]]
    named = [kind for admitted in _classes(hint) for kind in _derived(admitted) if kind.__name__ == value["is"]]
    return _filled(_chosen(named, value["is"], value, record), value, record, made)


def _chosen(kinds: list[type], name: str, given: dict[str, Any], record: dict[str, Any]) -> type:
    """The class of that name from the package that the record names."""
    package = given.get("of", "halflife")
    found = [kind for kind in kinds if is_dataclass(kind) and origin_of(kind).get("of", "halflife") == package]
    if found:
        return found[0]
    if package == "halflife":
        raise _other_version(record, f"has {name}, which is no class of this version")
    raise UserError(
        f"{record['stage']} has {name} of the package {package}, which nothing imports here: name the module that "
        f"defines it (--plugins {package}, or --plugins {package}.MODULE)"
    )


def _other_version(record: dict[str, Any], how: str = "describes it differently") -> UserError:
    return UserError(
        f"{record['stage']} was computed by another version of halflife (commit {record.get('commit')}), whose record "
        f"{how}: use that version, or run its study again"
    )


def _classes(hint: Any) -> Iterator[type]:
    """The bases of the classes that a field's type admits, in unions and tuples at any depth."""
    if isinstance(hint, type):
        yield object if getattr(hint, "_is_protocol", False) else hint  # a protocol's classes need not derive from it
    for inner in get_args(hint):
        yield from _classes(inner)


def _derived(kind: type) -> Iterator[type]:
    yield kind
    for derived in type.__subclasses__(kind):
        yield from _derived(derived)
