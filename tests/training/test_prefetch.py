from __future__ import annotations

import contextlib
import threading
import time

import numpy as np
import pytest
import torch

from halflife.training.prefetch import Prefetcher
from tests.training.fakes import Stream

CPU = torch.device("cpu")


class Watched(Stream):
    """Records the steps made and their threads; fails at one of them."""

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__()
        self.made: list[int] = []
        self.threads: set[int] = set()
        self.fails_at = fails_at

    def batch(self, step: int) -> np.ndarray:
        self.made.append(step)
        self.threads.add(threading.get_ident())
        if step == self.fails_at:
            raise OSError("the disk is gone")
        return super().batch(step)


@pytest.fixture
def ahead():
    with contextlib.ExitStack() as stack:
        yield lambda batches, steps: stack.enter_context(Prefetcher(batches, CPU, steps))


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 3, 4], [3, 0, 0, 1, 4, 2]])
def test_batches_are_those_of_the_stream_in_any_order_of_requests(ahead, order):
    of = ahead(Stream(), 5)
    for step in order:
        assert torch.equal(of.batch(step), torch.from_numpy(Stream().batch(step)))


def test_the_next_batch_is_made_in_another_thread_before_it_is_requested(ahead):
    batches = Watched()
    of = ahead(batches, 3)
    of.batch(0)
    deadline = time.monotonic() + 10
    while batches.made != [0, 1]:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert threading.get_ident() not in batches.threads


def test_nothing_is_made_past_the_last_step(ahead):
    batches = Watched()
    of = ahead(batches, 3)
    for step in range(3):
        of.batch(step)
    assert batches.made == [0, 1, 2]


def test_an_error_is_raised_at_its_own_step(ahead):
    of = ahead(Watched(fails_at=1), 3)
    of.batch(0)
    with pytest.raises(OSError, match="the disk is gone"):
        of.batch(1)
