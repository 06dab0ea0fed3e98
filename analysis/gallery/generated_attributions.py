"""Generated attributions with known ground truth: scores of fine-tuning follow what features stand for, those of its
controls do not. Nothing here was measured."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import polars as pl

from analysis.gallery import generated
from analysis.runs.study import POINTS, StudyData
from halflife.tracking import schema

ALIGNED = {"treatment": 0.8, "absent": 0.0, "null": 0.0}
"""Correlation of scores with what features stand for, by role"""
SHARE = {"explained": 0.6, "undone": 0.5}
"""Of the change, that ever more of the top features make"""
COUNTS = (1, 2, 5, 10)
DIFFERENCE = 0.35
FEATURES = 60


def attributions(seeds: int = 3) -> StudyData:
    rng, base = np.random.default_rng(6), generated.overlap()
    trials, points = [], []
    for seed in range(seeds):
        for role, aligned in ALIGNED.items():
            trial = f"{role} {seed}"
            truth = rng.uniform(-0.6, 0.6, FEATURES)
            score = aligned * truth + np.sqrt(1 - aligned**2) * 0.35 * rng.standard_normal(FEATURES)
            table = {"latent": list(range(FEATURES)), "score": score.tolist(), "truth": truth.tolist()}
            trials.append({
                "trial": trial, "name": trial, "role": role, "size": "60k", "parameters": 60_000, "seed": seed,
                "run": 0, "summary_attribution": json.dumps({"latents": table}),
            })  # fmt: skip
            for made, most in SHARE.items():
                points.append((trial, "attribution", 0, f"mean-difference/{made}", DIFFERENCE + 0.02 * rng.normal()))
                for count in COUNTS:
                    top, other = most * (1 - np.exp(-count / 3)), 0.15 * (1 - np.exp(-count / 8))
                    for kind, value in (("", top), ("_random", other)):
                        found = float(value + 0.02 * rng.normal())
                        points.append((trial, "attribution", 0, f"d0.dot.active.{count}/{made}{kind}", found))
    controls = {"absent": "fine-tuned for another attribute", "null": "documents that were not chosen"}
    declaration = replace(
        base.declaration, axes=(), outcomes=(),
        controls=tuple(schema.Control(kind=role, label=label, role=role) for role, label in controls.items()),
    )  # fmt: skip
    return replace(
        base, declaration=declaration, trials=pl.DataFrame(trials), parameters=("size", "parameters", "seed", "run"),
        points=pl.DataFrame(points, schema=POINTS, orient="row"),
    )  # fmt: skip
