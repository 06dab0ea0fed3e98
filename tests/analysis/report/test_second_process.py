"""A function in a second process: it returns, raises and prints as it would here."""

import os
import sys
import time

import pytest

from analysis.errors import UserError
from analysis.report.second_process import SecondProcess


def test_an_error_of_the_second_process_is_raised_here_as_itself() -> None:
    with SecondProcess(refuse, "no such law") as refused, pytest.raises(UserError, match="no such law"):
        refused.result()


def test_what_the_function_prints_does_not_spoil_its_result() -> None:
    with SecondProcess(chatter, 3) as chattering:
        process, doubled = chattering.result()
    assert doubled == 6
    assert process != os.getpid()


def test_a_process_that_dies_is_told_with_its_code() -> None:
    with SecondProcess(os._exit, 7) as dying, pytest.raises(RuntimeError, match="code 7"):
        dying.result()


def test_leaving_before_the_result_ends_the_process() -> None:
    with SecondProcess(time.sleep, 600) as waiting:
        pass
    assert waiting._process.returncode is not None


def refuse(text: str) -> None:
    raise UserError(text)


def chatter(number: int) -> tuple[int, int]:
    print("chatter")
    sys.stdout.flush()
    return os.getpid(), 2 * number
