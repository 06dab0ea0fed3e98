"""A small recipe, a synthetic stream and a recording context: training without a corpus or a store."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from halflife.data.corpus import Corpus
from halflife.data.mixture import Mixture, Source
from halflife.evaluation.probe import Measurement
from halflife.evaluation.probes import Evaluation, Every, LossProbe
from halflife.models.ladder import Rung
from halflife.rng import generator
from halflife.stages.train import Train
from halflife.store.execution import Execution
from halflife.tasks.families import Family
from halflife.training.attached import Attached
from halflife.training.loop import train
from halflife.training.objective import Terms, prepare_all
from halflife.training.optimizers import AdamW
from halflife.training.torch_engine import TorchEngine

VOCABULARY = 32
SEQUENCE = 16
BATCH_TOKENS = 64
CORPUS = Corpus(digest="synthetic")
LOSS = Evaluation(name="clean", probe=LossProbe(corpus=CORPUS), at=Every(steps=4))


class Stream:
    """Arithmetic sequences modulo VOCABULARY with steps 1 to 3."""

    vocabulary = VOCABULARY

    def __init__(self, key: int | str = 0, rows: int = BATCH_TOKENS // SEQUENCE, sequence: int = SEQUENCE) -> None:
        self.key, self.rows, self.sequence = key, rows, sequence

    def batch(self, step: int) -> np.ndarray:
        rng = generator(self.key, step)
        start, stride = rng.integers(0, VOCABULARY, (self.rows, 1)), rng.integers(1, 4, (self.rows, 1))
        return (start + stride * np.arange(self.sequence + 1)) % VOCABULARY


class PartlyScored(Stream):
    """The same, with targets marked as unscored, a different number in each row."""

    def batch(self, step: int) -> np.ndarray:
        rows = super().batch(step)
        marked = generator(self.key, step, "marked").random(rows.shape) < np.linspace(0.2, 0.8, len(rows))[:, None]
        return np.where(marked, ~rows, rows)


class Interrupted(Exception):
    pass


class Host:
    """A context. With `interrupt_at`, raises Interrupted once the checkpoint at that step is complete."""

    device = "cpu"
    checkpoint_seconds = 0.0
    execution = Execution()
    min_checkpoint_seconds = 0.0

    def __init__(self, folder: Path, resume: Path | None = None, interrupt_at: int | None = None) -> None:
        self.folder, self.resume, self.results = folder, resume, folder
        self.interrupt_at = interrupt_at
        self.points: dict[int, dict[str, float]] = {}
        self.checkpoints: list[Path] = []
        self.seconds = 0.0
        self.reports: list[tuple[int, int, float]] = []

    def record(self, step: int, values: dict[str, float]) -> None:
        assert step not in self.points
        self.points[step] = dict(values)

    def wrote(self, folder: Path, names: Iterable[str]) -> None:
        assert all((folder / name).exists() for name in names)

    def checkpointed(self, step: int, folder: Path) -> None:
        self.checkpoints.append(folder)
        if step == (self.interrupt_at or 0) * BATCH_TOKENS and step:
            raise Interrupted

    def progress(self, done: int, total: int, rate: float) -> None:
        self.reports.append((done, total, rate))

    def computing(self, seconds: float) -> None:
        assert seconds >= 0
        self.seconds += seconds

    def parent(self, stage: object) -> Path:
        raise KeyError(stage)


class Ticking:
    """A clock that advances one second per reading."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def clean_loss(model: Any) -> dict[str, float]:
    """Loss on held-out rows."""
    rows = torch.from_numpy(Stream("held out", rows=8).batch(0))
    logits = model.logits(model.hidden(model.embed(rows[:, :-1])))
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
    return {"loss": loss.item(), "tokens": float(rows[:, 1:].numel())}


MEASURES: dict[str, Measurement] = {"clean": clean_loss}
BASE = Train(
    start=Rung(size="20k"),
    mixture=Mixture(sources=(Source(corpus=CORPUS),), sequence=SEQUENCE),
    tokens=12 * BATCH_TOKENS,
    batch_tokens=BATCH_TOKENS,
    optimizer=AdamW(learning_rate=0.01, weight_decay=0.01),
    evaluations=(LOSS,),
)


ANSWERS = Mixture(sources=(Source(corpus=Family(kind="B", size=2).languages[0], loss="answers"),), sequence=SEQUENCE)
"""A mixture in which only answers are scored, for streams with marks."""


def recipe(**changes: Any) -> Train:
    return replace(BASE, **changes)


class Folders:
    """A context of an engine alone: parents' results in `parents`."""

    device = "cpu"
    execution = Execution()

    results = Path()

    def __init__(self, parents: dict[Any, Path] | None = None) -> None:
        self.parents = parents or {}

    def parent(self, stage: Any) -> Path:
        return self.parents[stage]


def loss_of(engine: Any, batch: np.ndarray | torch.Tensor, step: int = 0) -> float:
    """Computes the gradients of a batch."""
    return engine.gradients(batch, step)["train/loss"].item()


def terms_of(stage: Train, model: Any, parents: dict[Any, Path] | None = None) -> list[Terms]:
    context: Any = Folders(parents)
    return prepare_all(stage, model, context)


def torch_engine(
    model: Any, stage: Train, *, micro_rows: int | None = None, parents: dict[Any, Path] | None = None
) -> TorchEngine:
    """A torch engine with the stage's objectives and companions."""
    companions = [Attached(companion, model, stage.seed) for companion in stage.companions]
    return TorchEngine(model, stage, Execution(), terms_of(stage, model, parents), companions, micro_rows=micro_rows)


def run(stage: Train, host: Host, **arguments: Any) -> dict[str, Any]:
    arguments = {"batches": Stream(), "measures": MEASURES, "checkpoint_seconds": 1e9, **arguments}
    return train(stage, host, **arguments)
