"""How a description marks what is recorded but is no part of its identity."""

from __future__ import annotations

import dataclasses
from typing import Any


def recorded(default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field that is recorded with the stage and left out of its identity; without a default, required."""
    return dataclasses.field(default=default, metadata={"hashed": False}, compare=False)
