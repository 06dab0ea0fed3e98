"""Compiled programs as a stream: what making a batch costs, in CPU time of one thread."""

from __future__ import annotations

import statistics
import time

import torch

from halflife.interpret.scrambles import ProgramBatches, Scramble
from halflife.tasks.programs import PROGRAMS
from tests.benchmarks.figure import Figure

ROWS = 1000
MOST = {"": 0.015, ", behind every scramble": 0.5}
"""Milliseconds a program"""


def figures(count: int) -> list[Figure]:
    torch.set_num_threads(1)
    result = []
    for name, scramble in zip(MOST, (None, Scramble()), strict=True):
        stream = ProgramBatches(PROGRAMS, rows=ROWS, key=("bench",), scramble=scramble)
        spent = []
        for step in range(count + 1):
            began = time.process_time()
            stream.batch(step)
            spent.append(1e3 * (time.process_time() - began) / ROWS)
        value = statistics.median(spent[1:])
        result.append(
            Figure(
                name=f"programs compiled in batches of {ROWS:,}{name}", value=value, unit="ms a program",
                target=f"<= {MOST[name]}", reached=value <= MOST[name],
            )
        )  # fmt: skip
    return result
