"""The identity of a description: its canonical JSON, and the key hashed from it.

Only what changes the numbers is hashed: the kind, the version, and the fields that differ from their default. A field
declared with `halflife.fields.recorded` is stored but never hashed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from functools import cache
from typing import Any

from halflife.store.plugins import origin_of

KEY_LENGTH = 20
"""Hex digits of a key: 80 bits, a collision among a billion stages has probability below 1e-6."""


@cache
def fields(kind: type) -> tuple[dataclasses.Field[Any], ...]:
    """Fields of a dataclass; cached, as a large plan calls this a million times."""
    return dataclasses.fields(kind)


def is_description(value: Any) -> bool:
    """Whether `value` is an instance of a dataclass."""
    return hasattr(type(value), "__dataclass_fields__")


def canonical(value: Any, *, every: bool = False) -> Any:
    """`value` as JSON data: dataclasses as their class name and non-default hashed fields, stages as keys.

    `every`: all fields, for readers; never hashed. Raises TypeError or ValueError for values without a canonical form.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is not allowed in a description")
        return int(value) if value.is_integer() else value  # 1 and 1.0 describe the same thing
    if isinstance(value, (tuple, list)):
        return [canonical(item, every=every) for item in value]
    if is_description(value):
        if hasattr(type(value), "key"):  # a stage: its key stands for its whole description
            return {"stage": value.key}
        return {"is": type(value).__name__, **origin_of(type(value)), **fields_of(value, every=every)}
    raise TypeError(f"{type(value).__name__} is not allowed in a description: {value!r}")


def fields_of(value: Any, *, every: bool = False) -> dict[str, Any]:
    """Hashed fields of a dataclass that differ from their default; `every`: all fields."""
    result = {}
    for field in fields(type(value)):
        given = getattr(value, field.name)
        if every or _is_hashed(field, given):
            result[field.name] = canonical(given, every=every)
    return result


def _is_hashed(field: dataclasses.Field[Any], given: Any) -> bool:
    if not field.metadata.get("hashed", True):
        return False
    if field.default is not dataclasses.MISSING:
        return given != field.default
    return field.default_factory is dataclasses.MISSING or given != field.default_factory()


def key_of(description: Any) -> str:
    text = json.dumps(description, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]
