"""A generated sweep of soft prompts with known ground truth, for the figures of fragility, bits and random directions.

Nothing here was measured. A behaviour takes a fixed amount of numbers, whatever the width, so a model of twice the
width takes half the tokens. At one loss, behaviours that take less have a steeper and more curved loss (F1, F2, F3 and
the curvature fall as C ** -SLOPE), and r50 is unrelated.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from analysis.gallery import generated
from analysis.prompts import amounts, fragility
from analysis.runs.study import POINTS, StudyData
from halflife.tracking import schema

WIDTHS = {"30k": 32, "60k": 64}
TOKENS = (0, 1, 2, 4, 8, 16, 32)
SUBSPACES = (16, 64, 256, 1024)
LOSS, SLOPE = 1.0, 0.6
BEHAVIOURS = {
    **{f"say-{length}": 14.0 * length**0.8 for length in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)},
    **{f"say-{name}": numbers for name, numbers in (("1x8", 22), ("1x24", 30), ("2x8", 40), ("4x4", 70), ("4x8", 90))},
    **{f"quote-{length}": 8.0 * length**0.7 for length in (4, 8, 12, 16, 24, 32)},
    "skip-1": 50.0, "skip-4": 120.0, "backdoor": 60.0,
}  # fmt: skip
"""The amount of numbers that each behaviour takes."""


def prompts() -> StudyData:
    """Sizes x three seeds x BEHAVIOURS: L(k), C to one token, bits, random directions and fragility at k = 32."""
    rng = np.random.default_rng(11)
    base = generated.overlap()
    declared = {f"k{k}": {"k": k, "restart": 0, "initial": "vocabulary" if k else "none"} for k in TOKENS}
    trials, points = [], []
    for size, width in WIDTHS.items():
        for seed in range(3):
            for task, numbers in BEHAVIOURS.items():
                trial = f"{size} {seed} {task}"
                trials.append({"trial": trial, "name": trial, "role": "treatment", "size": size, "seed": seed}
                              | {"parameters": generated.SIZES[size]})  # fmt: skip
                needs = numbers * float(np.exp(0.12 * rng.normal()))
                points += [(trial, *point) for point in _points(task, needs, width, rng)]
    settings = {"tokens": TOKENS, "matched_loss": LOSS, "restarts": 1, "steps": 300}
    declaration = replace(
        base.declaration, prompts=declared, axes=(), settings=settings,
        outcomes=tuple(schema.Outcome(name=t, label=t, phase="prompts", task=t) for t in BEHAVIOURS),
    )  # fmt: skip
    return replace(
        base, declaration=declaration, trials=pl.DataFrame(trials), parameters=("size", "parameters", "seed"),
        points=pl.DataFrame(points, schema=POINTS, orient="row"),
    )  # fmt: skip


def loss(numbers: float, needs: float) -> float:
    """Loss of a prompt of `numbers` numbers, in nats per token: 3 without any, LOSS with as many as it needs."""
    return float(3.0 * (1 / 3) ** (numbers / needs))


def _points(task: str, needs: float, width: int, rng: np.random.Generator) -> list[tuple[str, int, str, float]]:
    found: list[tuple[str, int, str, float]] = []

    def add(phase: str, step: int, name: str, values: dict[str, Any]) -> None:
        found.extend((phase, step, f"{task}.{name}/{measure}", float(value)) for measure, value in values.items())

    for k in TOKENS:
        add("prompts", 1, f"k{k}", {"loss": loss(k * width, needs)})
        if k:
            rounded = {f"loss_{b}bits": loss(k * width, needs) + 2.5 * 2.0 ** (-2 * b) for b in (1, 2, 3, 4, 6, 8)}
            add(amounts.BITS, 0, f"k{k}", {"numbers": k * width, **rounded})
    few = {f"loss_{n}numbers": loss(n, 1.2 * needs) for n in SUBSPACES}
    add(amounts.SUBSPACES, 0, f"k{TOKENS[-1]}", {"numbers": TOKENS[-1] * width, **few})
    distance = int(np.ceil(needs / width))
    for step, k in enumerate(sorted({0, max(0, distance - 1), distance})):
        add(amounts.SEARCH, 300 * step, f"k{k}", {"loss": loss(k * width, needs)})
    if distance <= TOKENS[-1]:
        steep = distance**-SLOPE
        noise = dict(zip(fragility.MEASURES, np.exp(0.25 * rng.normal(size=len(fragility.MEASURES))), strict=True))
        planted = {"f1": 4 * steep, "f2": 0.3 * steep, "f3": 2 * steep, "r50": 1.5, "curvature": 3 * steep}
        add(fragility.PHASE, 0, f"k{TOKENS[-1]}", {
            "loss": LOSS - 0.01 * rng.random(), "norm": 1 + 0.2 * rng.random(), "numbers": TOKENS[-1] * width,
            **{name: value * noise[name] for name, value in planted.items()},
        })  # fmt: skip
    return found
