"""Fitted prompts as files: prompts.safetensors, items.parquet, runs.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor

from halflife.prompts.batch import vectors

PROMPTS, ITEMS, RUNS = "prompts.safetensors", "items.parquet", "runs.json"
RECORDED = ("target", "tokens", "position", "scale", "train_loss", "norm", "generated")
"""Fields in runs.json."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """One run: a fitted prompt and its scores on the held-out items."""

    name: str
    target: str
    tokens: int
    position: Literal["start", "answer"] | int
    scale: float
    """Root mean square of the model's embeddings, the unit of the parameters."""
    parameters: Mapping[str, Tensor]
    """By name; see prompts.batch.vectors."""
    nats: np.ndarray
    """(items,) minus the log-probability of a held-out item's targets."""
    correct: np.ndarray
    """(items,) bool."""
    num_targets: np.ndarray
    """(items,) tokens scored."""
    train_loss: float | None
    """Nats per token over the last steps (PromptGroup.final_steps); None if nothing was trained or it diverged."""
    norm: float | None
    """Root mean square of the prompt's vectors in units of `scale`; None without a prompt."""
    generated: Mapping[str, int] = field(default_factory=dict)
    """The target's counts over completions of held-out prompts; empty if it does not judge."""

    def vectors(self, conditions: Tensor | None = None) -> Tensor:
        """(k, width) in the model's own units; with conditions (texts, m): (texts, k, width)."""
        found = vectors(
            {name: value[None] for name, value in self.parameters.items()},
            None if conditions is None else conditions[None],
        )[0]
        return self.scale * (found[0] if conditions is None else found.expand(len(conditions), -1, -1))

    @property
    def conditional(self) -> bool:
        """Whether the vectors depend on conditions."""
        return len(self.parameters.get("slope", ())) > 0

    @property
    def loss(self) -> float:
        """Nats per target token, over all items together."""
        return float(self.nats.sum() / self.num_targets.sum())

    @property
    def selection_loss(self) -> float:
        """Loss by which runs of one target are selected (lowest is best): the training loss, the held-out loss only
        where nothing was trained; infinite if the run diverged."""
        loss = self.loss if self.train_loss is None else self.train_loss
        return loss if math.isfinite(loss) and math.isfinite(self.loss) else math.inf

    def summary(self) -> dict[str, Any]:
        """JSON data. A loss that is not finite is None, and the run has diverged."""
        finite = math.isfinite(self.loss)
        return {
            "target": self.target,
            "tokens": self.tokens,
            "position": self.position,
            "parameters": sum(value.numel() for value in self.parameters.values()),
            "loss": self.loss if finite else None,
            "logprob": -self.loss if finite else None,
            "hits": int(self.correct.sum()),
            "trials": len(self.correct),
            "train_loss": self.train_loss,
            "norm": self.norm,
            "diverged": not finite,
            **({"generated": dict(self.generated)} if self.generated else {}),
        }


def write(folder: Path, fitted: Sequence[Fitted]) -> None:
    """Write the three files into `folder`, which is created if missing."""
    import polars as pl

    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {f"{run.name}/{name}": value.contiguous() for run in fitted for name, value in run.parameters.items()},
        folder / PROMPTS,
    )
    schema = {"run": pl.String, "item": pl.Int64, "loss": pl.Float64, "tokens": pl.Int64, "correct": pl.Boolean}
    frames = [
        pl.DataFrame(
            {
                "run": [run.name] * len(run.nats), "item": np.arange(len(run.nats)), "loss": run.nats,
                "tokens": run.num_targets, "correct": run.correct,
            },
            schema=schema,
        )
        for run in fitted
    ]  # fmt: skip
    pl.concat([pl.DataFrame(schema=schema), *frames]).write_parquet(folder / ITEMS)
    runs = {run.name: {name: getattr(run, name) for name in RECORDED} for run in fitted}
    (folder / RUNS).write_text(json.dumps(runs, indent=1), encoding="utf-8")


def read(folder: Path) -> dict[str, Fitted]:
    """What `write` wrote into `folder`, such as a stage's `final/`, by run name."""
    import polars as pl

    tensors = load_file(folder / PROMPTS)
    items = pl.read_parquet(folder / ITEMS, glob=False).partition_by("run", as_dict=True)
    found = {}
    for name, recorded in json.loads((folder / RUNS).read_text(encoding="utf-8")).items():
        of_run = items[(name,)].sort("item")
        found[name] = Fitted(
            name=name,
            parameters={key[len(name) + 1 :]: value for key, value in tensors.items() if key.startswith(f"{name}/")},
            nats=of_run["loss"].to_numpy(),
            correct=of_run["correct"].to_numpy(),
            num_targets=of_run["tokens"].to_numpy(),
            **recorded,
        )
    return found
