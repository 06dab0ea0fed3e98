"""What a step costs under each treatment beside none, and what the batches of languages cost of it.

In CPU time of one thread, which on a quiet machine is wall time, and interleaved: all treatments take turns at a few
steps each, forked from one trunk.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from halflife.data.mixture import Batches, Mixture, Source
from halflife.models.ladder import Rung
from halflife.stages.train import Checkpoint, Train
from halflife.stages.treatments import intervene
from halflife.tasks.families import Family
from halflife.tasks.synthetic import SyntheticTask
from halflife.training import fisher
from halflife.training.checkpoints import read_weights
from halflife.training.loop import fork, train
from halflife.training.optimizers import AdamW
from halflife.training.schedules import Schedule
from tests.benchmarks.figure import Figure
from tests.benchmarks.interleaved import ratio, rounds
from tests.training.fakes import Host, loss_of

NAMES = (
    *("weight-decay-0.1", "weight-decay-coupled-0.1", "dropout-0.1", "label-smoothing-0.1", "gradient-noise-1"),
    *("sgd-0.1", "muon-0.01", "l2sp-1", "replay-0.01", "anneal-0.5", "lora-8", "frozen-embeddings", "frozen-1"),
    *("ewc-1", "kl-1"),
)
MOST, MOST_BATCHES = 1.1, 0.05
MOST_KL = 1.5
"""A forward pass of the model at the start is a third of a step."""
SHAPES = (("100k", 2048), ("300k", 4096))
"""What studies use: size, tokens a step."""
SEQUENCE, SECONDS_A_TURN = 64, 0.25
FAMILY = Family(kind="C", size=10)


def figures(count: int) -> list[Figure]:
    torch.set_num_threads(1)
    return [figure for size, batch_tokens in SHAPES for figure in _figures(size, batch_tokens, count)]


def _figures(size: str, batch_tokens: int, count: int) -> list[Figure]:
    def mixture(languages: tuple[SyntheticTask, ...]) -> Mixture:
        sources = tuple(Source(corpus=language, loss="answers") for language in languages)
        return Mixture(sources=sources, sequence=SEQUENCE)

    trunk = Train(
        start=Rung(size=size),
        mixture=mixture(FAMILY.trained),
        tokens=batch_tokens,
        batch_tokens=batch_tokens,
        optimizer=AdamW(learning_rate=0.003),
    )
    branch = Train(
        start=Checkpoint(stage=trunk),
        mixture=mixture(FAMILY.without((FAMILY.languages[0].name,))),
        tokens=1000 * batch_tokens,
        batch_tokens=batch_tokens,
        optimizer=trunk.optimizer,
        schedule=Schedule(shape="continue"),
    )
    made: dict[str, float] = {"batches": 0.0, "steps": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        train(trunk, Host(Path(folder)), batches=_batches(trunk), measures={})
        start = Path(folder) / "final"
        fisher.write(Path(folder), {name: torch.rand_like(value) for name, value in read_weights(start).items()})
        speed = {
            name: _stepping(intervene(name)(branch), start, made if name == "none" else {}) for name in ("none", *NAMES)
        }
        steps = max(1, round(SECONDS_A_TURN * max(speed["none"](1), speed["none"](1))))
        found: dict[str, list[float]] = {name: [] for name in speed}
        shares: list[float] = []

        def turn(name: str) -> Callable[[], float]:
            return lambda: speed[name](steps)

        for rope_cache in rounds({name: turn(name) for name in speed}, count):
            for name, value in rope_cache.items():
                found[name].append(value)
            shares.append(made["batches"] / made["steps"])
            made |= {"batches": 0.0, "steps": 0.0}
    where = f"{size}, {batch_tokens:,} tokens a step"
    result = [
        Figure(name=f"batches of {len(branch.mixture.sources)} languages over a step, {where}",
               value=statistics.median(shares), unit="", target=f"at most {MOST_BATCHES:g}",
               reached=statistics.median(shares) <= MOST_BATCHES)
    ]  # fmt: skip
    for name in NAMES:
        times, most = ratio(found["none"], found[name]), MOST_KL if name == "kl-1" else MOST
        result.append(
            Figure(name=f"{name} over none, {where}", value=times.median, unit="x", low=times.low, high=times.high,
                   target=f"at most {most:g}", reached=times.median <= most)
        )  # fmt: skip
    return result


class _Folder(Host):
    """A context in which every parent's result is in one folder, such as the Fisher information of the trunk."""

    def parent(self, stage: object) -> Path:
        return self.folder


def _batches(stage: Train) -> Batches:
    return Batches(stage.mixture, Path(), batch_tokens=stage.batch_tokens, steps=stage.steps, key=("bench",))


def _stepping(stage: Train, start: Path, made: dict[str, float]) -> Callable[[int], float]:
    """A function that takes so many steps of the stage, as the loop does, and returns steps a second of CPU time;
    `made` adds up the seconds in batches and in all."""
    batches = _batches(stage)
    _, engine, _, lr_multiplier = fork(stage, batches.vocabulary, start, _Folder(start.parent))
    number = itertools.count()

    def advance(steps: int) -> float:
        began = time.process_time()
        for step in itertools.islice(number, steps):
            drawn = time.process_time()
            batch = batches.batch(step)
            if made:
                made["batches"] += time.process_time() - drawn
            if stage.dropout or stage.gradient_noise:
                torch.manual_seed(step)
            loss_of(engine, batch)
            engine.step(lr_multiplier)
        spent = time.process_time() - began
        if made:
            made["steps"] += spent
        return steps / spent

    return advance
