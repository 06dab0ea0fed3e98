"""What a sweep asks of the analysis: a report, redrawn while it runs, and the answers to the study's questions."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from halflife.sweep.site import ExecutionSite


@dataclass(frozen=True, kw_only=True)
class Answered:
    """The answer to one declared question."""

    name: str
    primary: bool
    verdict: str
    """effect | equivalent | undecided | reported"""
    sentence: str
    valid: bool = True
    """False where a required check fails: the runs cannot answer it."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """A report on disk."""

    path: Path
    answers: tuple[Answered, ...] = ()
    """In the order of the questions, primaries first."""
    not_valid: str = ""
    """Why the runs answer nothing, with what would mend it; empty where they do."""
    trials: dict[str, dict[str, float]] = field(default_factory=dict)
    """By a trial's key and a quantity's name: what is known of it, for the page of its run"""


class Reporting(Protocol):
    """`study` is the study's name, `sweep` the digest of its sweep. Each raises UserError where nothing is published
    that it can read."""

    def write(self, study: str, site: ExecutionSite, sweep: str) -> Written:
        """The report of a sweep that is done."""
        ...

    def begin(self, study: str, preset: str, site: ExecutionSite, sweep: str) -> Path:
        """Where the report of a sweep that begins will be; a page is there at once."""
        ...

    def redraw(self, study: str, site: ExecutionSite, sweep: str) -> Path:
        """The report of a sweep that runs; within seconds."""
        ...

    def answers(self, study: str, site: ExecutionSite, sweep: str) -> tuple[Answered, ...]: ...
