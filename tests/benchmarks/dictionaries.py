"""A training step of a TopK dictionary beside a plain PyTorch loop of dense products, and beside SAELens and
dictionary_learning in the environment of `make test-peers`, where there is one.

Ours clips each dictionary's gradient, keeps rows of unit norm and counts who fires. In CPU time on one thread,
interleaved: a peer's process waits for its turn.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from halflife.interpret.dictionary import Dictionary, TopK
from halflife.interpret.dictionary_fitting import Group
from halflife.interpret.dictionary_recipe import DictionaryRecipe
from halflife.models.sites import Site
from tests.benchmarks.dictionary_peers import ACTIVE, LATENTS, PEERS, RATE, WIDTH, vectors
from tests.benchmarks.figure import Figure
from tests.benchmarks.interleaved import ratio, rounds

STEPS = 15
TARGETS = {"bare PyTorch loop": 1.0, "SAELens": 1.2, "dictionary_learning": 1.0}
PYTHON = Path(__file__).parents[2] / ".peers" / "sae_lens" / "bin" / "python"


def figures(count: int) -> list[Figure]:
    torch.set_num_threads(1)
    peers = {name: Peer(name) for name in PEERS}
    contenders = {"ours": ours(), "bare PyTorch loop": bare()}
    contenders |= {name: peer.turn for name, peer in peers.items() if peer.there}
    found: dict[str, list[float]] = {name: [] for name in contenders}
    try:
        for each in rounds(contenders, count):
            for name, speed in each.items():
                found[name].append(speed)
    finally:
        for peer in peers.values():
            peer.close()
    result = []
    for name, least in TARGETS.items():
        if name not in found:
            print(f"dictionaries: no {name} in {PYTHON.parents[1]} (make test-peers installs it)", file=sys.stderr)
            continue
        share = ratio(found["ours"], found[name])
        result.append(
            Figure(
                name=f"steps of TopK, {WIDTH} wide, {LATENTS} latents, k {ACTIVE}, over {name}'s", value=share.median,
                unit="x speed", target=f">= {least}", reached=share.median >= least, low=share.low, high=share.high,
            )
        )  # fmt: skip
    return result


def timed(step: Callable[[int], object]) -> Callable[[], float]:
    """Steps per second of CPU time."""

    def turn() -> float:
        began = time.process_time()
        for number in range(STEPS):
            step(number)
        return STEPS / (time.process_time() - began)

    return turn


def ours() -> Callable[[], float]:
    dictionary = Dictionary(latents=LATENTS, sparsity=TopK(k=ACTIVE))
    recipe = DictionaryRecipe(dictionaries=(dictionary,), learning_rate=RATE)
    group, batches = Group(recipe, [Site(layer=1)], [dictionary], WIDTH, "cpu"), vectors()
    return timed(lambda number: float(group.step(batches[number % len(batches)][None], RATE)))


def bare() -> Callable[[], float]:
    batches = vectors()
    decoder = F.normalize(torch.randn(LATENTS, WIDTH, generator=torch.Generator().manual_seed(0))).requires_grad_()
    encoder = decoder.detach().T.clone().requires_grad_()
    bias, centre = torch.zeros(LATENTS, requires_grad=True), torch.zeros(WIDTH, requires_grad=True)
    parameters = [encoder, bias, decoder, centre]
    optimizer = torch.optim.Adam(parameters, lr=RATE, fused=True)

    def step(number: int) -> None:
        u = batches[number % len(batches)]
        pre = (u - centre) @ encoder + bias
        top = pre.topk(ACTIVE, sorted=False)
        codes = torch.zeros_like(pre).scatter(1, top.indices, top.values.relu())
        loss = (u - codes @ decoder - centre).square().sum() / (u - u.mean(0)).square().sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            decoder.div_(decoder.norm(dim=1, keepdim=True))
        loss.item()

    return timed(step)


class Peer:
    """A process of `tests.benchmarks.dictionary_peers` in the peers' environment."""

    def __init__(self, name: str) -> None:
        self.there = False
        self._process: subprocess.Popen[str] | None = None
        if PYTHON.exists():
            command = [str(PYTHON), "-m", "tests.benchmarks.dictionary_peers", name, str(STEPS)]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self.there = self._line() == "ready"

    def turn(self) -> float:
        """Steps per second of CPU time."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return STEPS / float(self._line())

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _line(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()
