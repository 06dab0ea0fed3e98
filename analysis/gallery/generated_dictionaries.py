"""Generated dictionaries with known ground truth: blocks share half of their features, and all of them beside a shared
dictionary. Nothing here was measured."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import polars as pl

from analysis.gallery import generated
from analysis.runs.study import POINTS, StudyData
from halflife.tracking import schema

WIDTHS = (32, 64, 128, 256)
NEEDED = {"treatment": 1.2, "absent": 2.5}
"""Features that a shared dictionary needs, per one of a block's own, by role"""
BLOCKS = 4


def dictionaries(seeds: int = 3) -> StudyData:
    """Three seeds with and without a dictionary beside the model: specificity by width, and features by block."""
    rng, base = np.random.default_rng(5), generated.overlap()
    trials, points = [], []
    for seed in range(seeds):
        for role, ratio in NEEDED.items():
            trial = f"{role} {seed}"
            trials.append({
                "trial": trial, "name": trial, "role": role, "size": "30k", "parameters": generated.SIZES["30k"],
                "seed": seed, "summary_features": json.dumps({"features": _features(ratio, rng)}),
            })  # fmt: skip
            for latents in WIDTHS:
                for kind, factor in (("", 1.0), ("-shared", ratio)):
                    level = 1 - np.exp(-latents / (60 * factor)) + 0.01 * rng.normal()
                    points.append((trial, "features", 0, f"{latents}-top8{kind}-s0/specificity", float(level)))
    declaration = replace(
        base.declaration, axes=(), outcomes=(),
        controls=(schema.Control(kind="absent", label="no dictionary beside the model", role="absent"),),
    )  # fmt: skip
    return replace(
        base, declaration=declaration, trials=pl.DataFrame(trials), parameters=("size", "parameters", "seed"),
        points=pl.DataFrame(points, schema=POINTS, orient="row"),
    )  # fmt: skip


def _features(ratio: float, rng: np.random.Generator) -> list[dict]:
    """Features of one block among those of all, as many as the ratio says."""
    alone = (ratio - 1) / (BLOCKS - 1)
    found = []
    for latent in range(12):
        share = np.full(BLOCKS, 0.02) if rng.random() < alone else rng.uniform(0.7, 1.3, BLOCKS)
        if share.max() < 0.1:
            share[rng.integers(BLOCKS)] = 1
        letter = "abcdefgh"[latent % 8]
        found.append({
            "latent": latent, "share": (share / share.sum()).tolist(), "mass": 1 / 12, "concept": f"after {letter}",
            "specificity": 0.9, "texts": [f"hgfedcba{letter}[{other}]" for other in "ba"],
        })  # fmt: skip
    return sorted(found, key=lambda each: float(np.dot(each["share"], range(BLOCKS))))
