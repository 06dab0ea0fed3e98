"""How far a long fit is, with the time that is left: one line of stderr, rewritten on a terminal.

Elsewhere, such as in a log, a line comes after PATIENCE seconds and then at every doubling of the time.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TextIO

PATIENCE, SOON, EVERY = 5.0, 1.0, 0.2
"""Seconds before the first line in a log and on a terminal, and between rewrites."""
FORESEEN = 0.05
"""Share done below which the time that is left is not estimated."""


class Line:
    def __init__(self, stream: TextIO) -> None:
        self.stream, self.terminal = stream, stream.isatty()
        self.label, self.width = "", 0
        self.begun = self.since = time.monotonic()
        self.due = self.begun + (SOON if self.terminal else PATIENCE)

    def at(self, share: float) -> None:
        """The share of the present part that is done, 0 to 1."""
        now = time.monotonic()
        if now < self.due or not self.label:
            return
        self.due = now + EVERY if self.terminal else now + (now - self.begun)
        left = f", about {(now - self.since) * (1 / share - 1):.0f} s left" if share >= FORESEEN else ""
        text = f"{self.label}: {share:.0%} done{left}"
        if self.terminal:
            print(f"\r{text:<{self.width}}", end="", file=self.stream, flush=True)
            self.width = len(text)
        else:
            print(text, file=self.stream, flush=True)

    def clear(self) -> None:
        if self.width:
            print(f"\r{'':<{self.width}}\r", end="", file=self.stream, flush=True)


_line: ContextVar[Line | None] = ContextVar("line", default=None)
_counts: ContextVar[bool] = ContextVar("counts", default=False)


@contextmanager
def shown(stream: TextIO | None = None) -> Iterator[None]:
    """Within it, fits say how far they are."""
    line = Line(stream or sys.stderr)
    token = _line.set(line)
    try:
        yield
    finally:
        line.clear()
        _line.reset(token)


@contextmanager
def part(label: str, counts: bool = False) -> Iterator[Callable[[float], None]]:
    """A part of the work, of which the share that is done is told to what it yields; with `counts` by nothing else,
    otherwise also by every minimisation. A part within a part says nothing."""
    line = _line.get()
    if line is None or line.label:
        yield lambda share: None
        return
    line.label, line.since = label, time.monotonic()
    token = _counts.set(counts)
    try:
        yield line.at
    finally:
        line.label = ""
        _counts.reset(token)


def solved(share: float) -> None:
    """Told by a minimisation: the share of its problems that have converged."""
    line = _line.get()
    if line is not None and not _counts.get():
        line.at(share)
