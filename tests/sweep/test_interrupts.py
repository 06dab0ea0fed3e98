"""Where Ctrl-C takes effect."""

import os
import signal
import subprocess
import sys

import pytest

from halflife.sweep import interrupts


def test_ctrl_c_interrupts_at_once_outside_a_whole_call():
    before = signal.getsignal(signal.SIGINT)
    steps: list[str] = []

    def work() -> None:
        with interrupts.handled():
            os.kill(os.getpid(), signal.SIGINT)
            steps.append("after")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert not steps
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_whole_call_ends_before_it_is_interrupted(number: signal.Signals):
    steps: list[str] = []

    def half() -> None:
        os.kill(os.getpid(), number)
        steps.append("first half")

    def work() -> None:
        with interrupts.handled() as signals:
            signals.whole(lambda: (signals.whole(half)(), steps.append("second half")))()
            steps.append("after")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert steps == ["first half", "second half"]


def test_an_error_in_a_whole_call_is_not_hidden_by_ctrl_c():
    def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"), interrupts.handled() as signals:
        signals.whole(work)()


def test_a_second_ctrl_c_ends_the_process_at_once():
    program = """
import os, signal, time
from halflife.sweep import interrupts
def work():
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
with interrupts.handled() as signals:
    signals.whole(work)()
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=30).returncode == 130
