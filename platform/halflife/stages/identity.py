"""What a description is: its canonical JSON and the key hashed from it.

Identity is not execution. Only what changes the numbers is hashed: the kind, the version, and the
fields that differ from their default. A field declared with `halflife.fields.recorded` is kept but never hashed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

KEY_LENGTH = 20
"""Hex digits of a key: 80 bits, a collision among a billion stages has probability below 1e-6."""


def canonical(value: Any) -> Any:
    """`value` as JSON data: dataclasses as their class name and non-default hashed fields, stages as keys."""
    from halflife.stages.base import Stage

    if isinstance(value, Stage):
        return {"stage": value.key}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"is": type(value).__name__, **fields_of(value)}
    if isinstance(value, (tuple, list)):
        return [canonical(item) for item in value]
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise ValueError(f"{value} has no place in a description")
        return int(value) if value.is_integer() else value  # 1 and 1.0 describe the same thing
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise TypeError(f"{type(value).__name__} has no place in a description: {value!r}")


def fields_of(value: Any) -> dict[str, Any]:
    """Hashed fields of a dataclass that differ from their default."""
    result = {}
    for field in dataclasses.fields(value):
        given = getattr(value, field.name)
        if not field.metadata.get("hashed", True):
            continue
        if field.default is not dataclasses.MISSING and given == field.default:
            continue
        if field.default_factory is not dataclasses.MISSING and given == field.default_factory():
            continue
        result[field.name] = canonical(given)
    return result


def key_of(description: Any) -> str:
    text = json.dumps(description, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]
