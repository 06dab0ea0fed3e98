"""Ctrl-C and SIGTERM stop a sweep where nothing is half-written."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Interrupts:
    """The first Ctrl-C or SIGTERM raises KeyboardInterrupt, the next one ends the process at once.

    A signal that arrives during a call of a function from `whole` raises at the end of that call. Otherwise it could
    strike while Optuna removes its lock file, and leave a traceback in place of a stopped sweep.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._pending = False

    def whole(self, function: Callable[P, R]) -> Callable[P, R]:
        """The same function, not interrupted half-way."""

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            self._depth += 1
            try:
                result = function(*args, **kwargs)
            finally:
                self._depth -= 1
            if self._pending and not self._depth:
                raise KeyboardInterrupt
            return result

        return call

    def _stop(self, number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, _end_at_once)
        self._pending = True
        if not self._depth:
            raise KeyboardInterrupt


def _end_at_once(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)  # Ray's processes end with this one


@contextlib.contextmanager
def handled() -> Iterator[Interrupts]:
    """Handle both signals until the end of the block. In a thread other than the main one, signals stay as they are."""
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    before = {number: signal.signal(number, interrupts._stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
