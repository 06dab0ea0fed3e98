"""What fitted prompts came to, as files: prompts.safetensors, items.parquet, runs.json."""

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
KNOWN = ("target", "tokens", "position", "scale", "train_loss", "norm", "generated")


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """One run: a prompt and what it says of the held-out items."""

    name: str
    target: str
    tokens: int
    position: Literal["start", "answer"] | int
    scale: float
    """Root mean square of the model's embeddings, in units of which the numbers are."""
    numbers: Mapping[str, Tensor]
    """By name; see models.soft_prompts.vectors."""
    nats: np.ndarray
    """(items,) minus the log-probability of all that is asked of a held-out item."""
    correct: np.ndarray
    """(items,) bool."""
    asked: np.ndarray
    """(items,) tokens."""
    train_loss: float | None
    """Nats a token over the last steps (Pack.settled); None where nothing was trained, or it diverged."""
    norm: float | None
    """Root mean square of the prompt's numbers in units of `scale`; None of no prompt."""
    generated: Mapping[str, int] = field(default_factory=dict)
    """Counts over held-out prompts of what the model said by itself, as the target judges it; empty where it does
    not."""

    def vectors(self, conditions: Tensor | None = None) -> Tensor:
        """(k, width) in the model's own units; with conditions (texts, m): (texts, k, width)."""
        found = vectors(
            {name: value[None] for name, value in self.numbers.items()},
            None if conditions is None else conditions[None],
        )[0]
        return self.scale * (found[0] if conditions is None else found.expand(len(conditions), -1, -1))

    @property
    def conditional(self) -> bool:
        """Whether the vectors depend on conditions."""
        inputs = self.numbers.get("in", self.numbers.get("slope"))  # one row for each condition
        return inputs is not None and len(inputs) > 0

    @property
    def loss(self) -> float:
        """Nats a token asked, over all items together."""
        return float(self.nats.sum() / self.asked.sum())

    @property
    def chosen_by(self) -> float:
        """What runs of one target are chosen by, the least is best: never the held-out loss where another is known."""
        loss = self.loss if self.train_loss is None else self.train_loss
        return loss if math.isfinite(loss) and math.isfinite(self.loss) else math.inf

    def summary(self) -> dict[str, Any]:
        """JSON data. A loss that is not finite is None, and the run has diverged."""
        finite = math.isfinite(self.loss)
        return {
            "target": self.target,
            "tokens": self.tokens,
            "position": self.position,
            "parameters": sum(value.numel() for name, value in self.numbers.items() if name != "start"),
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
    """Write the three files into `folder`, which is made."""
    import polars as pl

    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {f"{run.name}/{name}": value.contiguous() for run in fitted for name, value in run.numbers.items()},
        folder / PROMPTS,
    )
    schema = {"run": pl.String, "item": pl.Int64, "loss": pl.Float64, "tokens": pl.Int64, "correct": pl.Boolean}
    frames = [
        pl.DataFrame(
            {
                "run": [run.name] * len(run.nats), "item": np.arange(len(run.nats)), "loss": run.nats,
                "tokens": run.asked, "correct": run.correct,
            },
            schema=schema,
        )
        for run in fitted
    ]  # fmt: skip
    pl.concat([pl.DataFrame(schema=schema), *frames]).write_parquet(folder / ITEMS)
    runs = {run.name: {name: getattr(run, name) for name in KNOWN} for run in fitted}
    (folder / RUNS).write_text(json.dumps(runs, indent=1), encoding="utf-8")


def read(folder: Path) -> dict[str, Fitted]:
    """By name what `write` wrote into `folder`, such as a stage's `final/`."""
    import polars as pl

    tensors = load_file(folder / PROMPTS)
    items = pl.read_parquet(folder / ITEMS).partition_by("run", as_dict=True)
    found = {}
    for name, known in json.loads((folder / RUNS).read_text(encoding="utf-8")).items():
        of_run = items[(name,)].sort("item")
        found[name] = Fitted(
            name=name,
            numbers={key[len(name) + 1 :]: value for key, value in tensors.items() if key.startswith(f"{name}/")},
            nats=of_run["loss"].to_numpy(),
            correct=of_run["correct"].to_numpy(),
            asked=of_run["tokens"].to_numpy(),
            **known,
        )
    return found
