"""Marks fields of a description that are recorded but not part of its identity."""

from __future__ import annotations

import dataclasses
from typing import Any


def recorded(default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field that is recorded with the stage but not hashed into its key; required without a default."""
    return dataclasses.field(default=default, metadata={"hashed": False}, compare=False)
