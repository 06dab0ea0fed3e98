"""What features represent, by a rater who does not know which of them fine-tuning used: questions out, labels in."""

from __future__ import annotations

import hashlib
import json
import math
import random
from dataclasses import dataclass
from typing import Any

import polars as pl

from analysis.decay.design import described
from analysis.errors import UserError
from analysis.runs.study import StudyData
from analysis.stats.intervals import Interval, binomial_interval, t_interval

PHASE = "shown"
LABELS = ("yes", "no")
QUESTION = (
    "Do the texts that excite this feature have what the texts of the first list have, and those of the second not?"
)
Questions = list[dict[str, Any]]


def questions(data: StudyData) -> Questions:
    """A dict for each model at the reference: `model`, `wanted`, `usual`, and its `features`, each with `id`, `texts`
    and an empty `label`, in an order that says nothing. Raises UserError when no features were shown."""
    found = []
    for row, summary in _models(data):
        features = [
            {"id": _name(row["trial"], each["latent"]), "texts": each["texts"], "label": ""}
            for each in summary["features"]
        ]
        random.Random(row["trial"]).shuffle(features)
        about = {name: summary.get(name, []) for name in ("wanted", "usual")}
        found.append({"model": row["name"], **about, "features": features})
    return found


def _models(data: StudyData) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    column = f"summary_{PHASE}"
    if column not in data.trials.columns:
        raise UserError("the study showed no features: run it with --shown 10")
    trials = described(data).filter((pl.col("role") == "treatment") & pl.col("is_reference")).drop_nulls(column)
    rows = trials.sort("parameters", "seed").to_dicts()
    models = [(row, json.loads(row[column])) for row in rows]
    if lost := [row["name"] for row, summary in models if "features" not in summary]:
        raise UserError(f"the features of {lost[0]} were too long to publish: run it with a smaller --shown")
    return models


def _name(trial: str, latent: int) -> str:
    return hashlib.sha256(f"{trial} {latent}".encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Agreement:
    """Of a rater's labels with the intent: the share labelled yes of the features that fine-tuning used, less that of
    the others. 0 is chance and 1 perfect; with as many of both it is Cohen's kappa."""

    used: tuple[int, int]
    """Labelled yes, and all"""
    others: tuple[int, int]
    interval: Interval
    """Over seeds by Student-t; of one seed over its features (Newcombe 1998, method 10), which is no interval for other
    models"""
    seeds: int


def agreement(data: StudyData, labelled: Questions) -> Agreement:
    """Raises UserError for labels that are missing, unknown, or of other features."""
    given = _labels(labelled)
    by_seed: dict[Any, list[tuple[bool, bool]]] = {}
    for row, summary in _models(data):
        for each in summary["features"]:
            name = _name(row["trial"], each["latent"])
            if name not in given:
                raise UserError(f"feature {name} of {row['name']} has no label: label every feature of the file")
            by_seed.setdefault(row["seed"], []).append((each["top"], given.pop(name) == "yes"))
    if given:
        raise UserError(f"feature {next(iter(given))} is none of this sweep's: label the file that it wrote")
    rates = {seed: [_rate(pairs, top) for top in (True, False)] for seed, pairs in by_seed.items()}
    found = t_interval([one[0] / one[1] - other[0] / other[1] for one, other in rates.values()])
    assert found is not None
    used, others = (
        (sum(each[place][0] for each in rates.values()), sum(each[place][1] for each in rates.values()))
        for place in (0, 1)
    )
    return Agreement(used, others, found if found.count > 1 else _newcombe(used, others), found.count)


def _labels(labelled: Questions) -> dict[str, str]:
    try:
        found = {each["id"]: str(each["label"]).strip().lower() for model in labelled for each in model["features"]}
    except (TypeError, KeyError):
        raise UserError(
            "labels given in another form: expected the file of questions with its labels filled in"
        ) from None
    if wrong := [(name, label) for name, label in found.items() if label not in LABELS]:
        name, label = wrong[0]
        raise UserError(f"feature {name} is labelled {label!r}: expected {' or '.join(LABELS)}")
    return found


def _rate(pairs: list[tuple[bool, bool]], top: bool) -> tuple[int, int]:
    chosen = [yes for is_top, yes in pairs if is_top is top]
    return sum(chosen), len(chosen)


def _newcombe(one: tuple[int, int], other: tuple[int, int]) -> Interval:
    (p, q), (low, high) = (
        (one[0] / one[1], other[0] / other[1]),
        binomial_interval([one[0], other[0]], [one[1], other[1]]),
    )
    return Interval(
        estimate=p - q, count=1, low=p - q - math.hypot(p - low[0], high[1] - q),
        high=p - q + math.hypot(high[0] - p, q - low[1]),
    )  # fmt: skip
