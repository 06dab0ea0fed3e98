"""The report of a running sweep, redrawn in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from halflife.errors import UserError

EVERY_SECONDS = 20.0
SHARE = 0.02
"""Of the sweep's time, at most."""


class Redrawing:
    """Calls `draw` as soon as a stage has ended, then when there is something new, at most every 20 s and for at most
    2 % of the time (the first time, which imports what draws, is paid once).

    `told` gets one line when it cannot be drawn: why.
    """

    def __init__(
        self, draw: Callable[[], Path], told: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._draw, self._told, self._clock = draw, told, clock
        self._next = clock()
        self._thread: threading.Thread | None = None
        self._seen, self._said, self._begun = 0, "", False
        self.drawn = False

    def update(self, ended: int) -> None:
        """`ended`: the number of stages that have ended. Returns at once."""
        if ended > self._seen and self._clock() >= self._next and not (self._thread and self._thread.is_alive()):
            self._seen = ended
            self._thread = threading.Thread(target=self._once, name="report", daemon=True)
            self._thread.start()

    def close(self, *, again: bool = False) -> None:
        """Wait for a report that is being drawn. `again`: draw a last one, if there was one before."""
        if self._thread is not None:
            self._thread.join()
        if again and self.drawn:
            self._once()

    def _once(self) -> None:
        began = self._clock()
        try:
            self._draw()
            self.drawn = True
        except UserError as error:
            self._say(f"no report yet: {error}")
        except Exception as error:  # a fault of the report must not end the sweep, but is not hidden
            self._say(f"the report cannot be drawn: {type(error).__name__}: {error}")
        spent = self._clock() - began if self._begun else 0.0
        self._begun = True
        self._next = self._clock() + max(EVERY_SECONDS, spent / SHARE - spent)

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self._told(text)
