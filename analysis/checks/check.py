"""One check of a sweep."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check; `passed` is None if the runs do not decide it."""

    name: str
    expected: str
    found: str
    passed: bool | None
    required: bool = False
    """If it fails, the preset is not valid and the report's conclusions do not hold."""
    reading: bool = False
    """Nothing is expected: a number for comparison with the result."""
    remedy: str = ""
    """What would mend it, as flags with values where the study has some. Every check that fails has one."""

    def __post_init__(self) -> None:
        if self.passed is False and not self.remedy:
            raise ValueError(f"the check {self.name!r} fails without a remedy")
