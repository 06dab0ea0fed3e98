"""What a long fit says while it runs."""

from __future__ import annotations

import io

import numpy as np
import pytest

from analysis.fitting import progress
from analysis.fitting.fit import fit
from analysis.fitting.observations import Observations
from analysis.laws import LAWS


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    return clock


def said(stream: io.StringIO, clock: Clock, seconds: float, steps: int) -> str:
    with progress.shown(stream), progress.part("128 starts") as done:
        for step in range(1, steps + 1):
            clock.now += seconds / steps
            done(step / steps)
    return stream.getvalue()


def test_a_terminal_gets_one_line_that_is_rewritten_and_cleared(clock: Clock) -> None:
    text = said(Terminal(), clock, 10.0, 20)
    assert "\n" not in text
    assert "\r128 starts: 50% done, about 5 s left" in text
    assert text.rsplit("\r", 2)[1].strip() == ""


def test_a_log_gets_a_line_after_five_seconds_and_few_more(clock: Clock) -> None:
    lines = said(io.StringIO(), clock, 60.0, 60).splitlines()
    assert lines[0] == "128 starts: 8% done, about 55 s left"
    assert len(lines) == 4  # at 5, 10, 20 and 40 s


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()])
def test_a_short_fit_says_nothing(stream: io.StringIO, clock: Clock) -> None:
    assert said(stream, clock, 0.5, 10) == ""


def test_a_fit_tells_how_many_of_its_starts_have_converged(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []
    monkeypatch.setattr(progress.Line, "at", lambda line, share: shares.append(share))
    x = np.geomspace(1, 100, 12)
    with progress.shown(Terminal()):
        fit(LAWS["exponential"], Observations(x=x, y=np.exp(-x / 20) + 0.01 * np.sin(x)), starts=16)
    assert shares
    assert max(shares) == 1
    assert min(shares) >= 0
