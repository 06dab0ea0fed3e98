"""Why two stages differ: by their own fields, or by those of their ancestors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halflife.errors import UserError
from halflife.store import files
from halflife.store.store import RECORD, Store, valid_done

ABSENT = "absent"
RECORDED = ("command", "commit", "changes", "versions", "host", "device", "platform", "python")
"""Entries of stage.json that are not part of a stage's identity."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One field in which two stages differ; if its values are stages, `inner` has their differences."""

    path: str
    left: str
    right: str
    inner: tuple[Difference, ...] = ()


def find(store: Store, name: str) -> files.AnyPath:
    """The stage folder for a folder name, a key, a prefix of either, or a path.

    Raises UserError when there is none or more than one.
    """
    wanted = Path(name).name
    folders = store.folders()
    found = [folder for folder in folders if folder.name == wanted] or [
        folder for folder in folders if folder.name.startswith(wanted) or _key(folder.name).startswith(wanted)
    ]
    if len(found) == 1:
        return found[0]
    if not found:
        raise UserError(f"no stage {name!r} in {store.stages}: list them with `python -m halflife ls`")
    first = ", ".join(folder.name for folder in found[:4])
    raise UserError(
        f"{name!r} matches {len(found)} stages ({first}{', ...' if found[4:] else ''}): give more of the key"
    )


def record_of(folder: files.AnyPath) -> dict[str, Any]:
    """stage.json of the completed attempt, otherwise of the newest one; {} if there is none."""
    done = valid_done(folder)
    attempts = [done.outcome.attempt] if done else reversed(files.names(folder / "attempts"))
    for attempt in attempts:
        record = files.read_json(folder / "attempts" / attempt / RECORD)
        if record:
            return record
    return {}


def explain(store: Store, left: dict[str, Any], right: dict[str, Any]) -> tuple[Difference, ...]:
    """Fields in which two records' descriptions differ, by path; each pair of parents is explained once."""
    return tuple(_explain(store, left, right, explained=set()))


def _explain(
    store: Store, left: dict[str, Any], right: dict[str, Any], explained: set[tuple[str, str]]
) -> Iterator[Difference]:
    sides = [_flat(record["description"]) for record in (left, right)]
    defaults = [_flat(record["fields"]) for record in (left, right)]
    for path in sorted(sides[0].keys() | sides[1].keys()):
        given = [side.get(path, ABSENT) for side in sides]
        if given[0] == given[1]:
            continue
        texts = [
            _text(value) if path in side else _default(path, default)
            for value, side, default in zip(given, sides, defaults, strict=True)
        ]
        keys = [value.get("stage") if isinstance(value, dict) else None for value in given]
        inner: tuple[Difference, ...] = ()
        if keys[0] and keys[1]:
            names = [record["parents"][key] for record, key in zip((left, right), keys, strict=True)]
            texts, pair = names, (names[0], names[1])
            if pair not in explained:
                explained.add(pair)
                parents = [record_of(store.stages / name) for name in names]
                inner = tuple(_explain(store, parents[0], parents[1], explained)) if all(parents) else ()
        yield Difference(path=path.removesuffix(".is"), left=texts[0], right=texts[1], inner=inner)


def recorded(left: dict[str, Any], right: dict[str, Any]) -> tuple[Difference, ...]:
    """Differences in what is recorded but not hashed: command, commit, versions, host, recorded fields."""
    hashed = _flat(left["description"]).keys() | _flat(right["description"]).keys()
    sides = [
        {**_flat({name: record.get(name) for name in RECORDED}), **_flat(record["fields"])} for record in (left, right)
    ]
    return tuple(
        Difference(path=path, left=_text(sides[0].get(path, ABSENT)), right=_text(sides[1].get(path, ABSENT)))
        for path in sorted((sides[0].keys() | sides[1].keys()) - hashed)
        if sides[0].get(path, ABSENT) != sides[1].get(path, ABSENT)
    )


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Leaves of JSON data by path, such as `mixture.plantings[0].documents`; a stage is a leaf."""
    if isinstance(value, dict) and value.keys() != {"stage"}:
        items = [(f"{path}.{name}" if path else name, item) for name, item in value.items()]
    elif isinstance(value, list):
        items = [(f"{path}[{number}]", item) for number, item in enumerate(value)]
    else:
        return {path: value}
    return {inner: leaf for name, item in items for inner, leaf in _flat(item, name).items()}


def _default(path: str, fields: dict[str, Any]) -> str:
    return f"{_text(fields[path])} (default)" if path in fields else ABSENT


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _key(folder_name: str) -> str:
    return folder_name.rpartition("-")[2]
