"""One thing that is checked before a report is believed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing checked; `passed` is None where the runs do not say."""

    name: str
    expected: str
    found: str
    passed: bool | None
    required: bool = False
    """When it fails, the preset is not valid: what the report concludes does not hold."""
    reading: bool = False
    """Nothing is expected: a number that the result is to be read beside."""
