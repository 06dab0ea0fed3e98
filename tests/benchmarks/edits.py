"""What an edit costs: one vector added at one site, beside a hook written by hand, and no edit beside the bare blocks.

Forward passes without gradients, in CPU time of one thread, interleaved.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from halflife.models.changes import Add
from halflife.models.decoder import Decoder
from halflife.models.hooks import edited
from halflife.models.ladder import Rung
from halflife.models.sites import Site
from tests.benchmarks.figure import Figure
from tests.benchmarks.interleaved import ratio, rounds

MOST = 1.1
SIZES = ("100k", "1m")
ROWS, LENGTH = 16, 64
SECONDS_A_TURN = 0.2


def figures(count: int) -> list[Figure]:
    torch.set_num_threads(1)
    return [figure for size in SIZES for figure in _figures(size, count)]


def _figures(size: str, count: int) -> list[Figure]:
    model = Decoder(Rung(size=size), 257)
    model.initialise(torch.Generator().manual_seed(0))
    model.eval().requires_grad_(False)
    x = model.embed(torch.randint(0, 257, (ROWS, LENGTH)))
    vector = torch.randn(x.shape[-1])

    def bare_blocks() -> Tensor:
        rope_cache, stream = model._rope_cache(x), x
        for block in model.blocks:
            stream = block(stream, rope_cache)
        return model.norm(stream)

    def plain() -> Tensor:
        return model.hidden(x)

    def add(module: Any, args: Any, output: Tensor) -> Tensor:
        return output + vector

    def by_hand() -> Tensor:
        handle = model.blocks[0].register_forward_hook(add)
        try:
            return model.hidden(x)
        finally:
            handle.remove()

    def edit() -> Tensor:
        with edited(model, {Site(layer=1): Add(vector)}):
            return model.hidden(x)

    assert torch.equal(bare_blocks(), plain())
    assert torch.equal(by_hand(), edit())
    speeds = {
        name: _speed(call)
        for name, call in (("blocks", bare_blocks), ("plain", plain), ("hand", by_hand), ("edit", edit))
    }
    found: dict[str, list[float]] = {name: [] for name in speeds}
    for each in rounds(speeds, count):
        for name, speed in each.items():
            found[name].append(speed)
    compared = (
        ("an edit, against a hook by hand", "hand", "edit"),
        ("no edit, against bare blocks", "blocks", "plain"),
    )
    result = []
    for name, theirs, ours in compared:
        slower = ratio(found[theirs], found[ours])  # speeds, so the time of ours over theirs
        result.append(
            Figure(
                name=f"{size}: {name}", value=slower.median, unit="x time", target=f"<= {MOST}",
                reached=slower.median <= MOST, low=slower.low, high=slower.high,
            )
        )  # fmt: skip
    return result


def _speed(call: Callable[[], Tensor]) -> Callable[[], float]:
    """Passes per second of CPU time, over SECONDS_A_TURN."""

    def turn() -> float:
        with torch.no_grad():
            began, passes = time.process_time(), 0
            while time.process_time() - began < SECONDS_A_TURN:
                call()
                passes += 1
            return passes / (time.process_time() - began)

    return turn
