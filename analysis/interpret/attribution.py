"""Fine-tuning attributed to features: how scores line up with what features stand for, and what edits of them do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import polars as pl

from analysis.runs.study import StudyData

PHASE, TRANSFER = "attribution", "transfer"
SCORED = re.compile(r"(d\d+)\.([a-z]+)\.([a-z]+)/(alignment|alignment_raw|alignment_single)")
KINDS = {"alignment": "cosine", "alignment_raw": "raw", "alignment_single": "one text"}
EDITED = re.compile(r"(d\d+)\.[a-z]+\.([a-z]+)\.(\d+)/(explained|undone|toward)(_random)?")
MADE = {"explained": "reproduced", "undone": "undone", "toward": "toward the intent"}
ATTRIBUTED, MATCHED, DIFFERENCE = "attributed", "matched", "mean difference"
MEAN = re.compile(r"mean-difference/(explained|undone|toward)")
Row = dict[str, Any]


def _values(data: StudyData, phase: str = PHASE) -> Iterator[tuple[str, dict[str, float]]]:
    """By trial, the points of its attribution."""
    found = data.points.filter(pl.col("phase") == phase)
    for (trial,), part in found.group_by(["trial"], maintain_order=True):
        yield str(trial), dict(part.select("name", "value").iter_rows())


def _known(value: float) -> Row:
    return {"value": value, "low": value, "high": value}


def alignment(data: StudyData) -> Iterator[Row]:
    for trial, values in _values(data):
        for name, value in values.items():
            if match := SCORED.fullmatch(name):
                dictionary, loss, way, kind = match.groups()
                about = {"dictionary": dictionary, "loss": loss, "way": way, "score": KINDS[kind]}
                yield {"trial": trial, **about, **_known(value)}


def edits(data: StudyData) -> Iterator[Row]:
    """The mean difference is one vector, at every number of features."""
    for trial, values in _values(data):
        found = [(match, value) for name, value in values.items() if (match := EDITED.fullmatch(name))]
        means = {match[1]: value for name, value in values.items() if (match := MEAN.fullmatch(name))}
        for match, value in found:
            dictionary, way, features, made, random = match.groups()
            about = {"trial": trial, "dictionary": dictionary, "way": way, "features": int(features),
                     "made": MADE[made]}  # fmt: skip
            yield {**about, "compared": MATCHED if random else ATTRIBUTED, **_known(value)}
            if not random and made in means:
                yield {**about, "compared": DIFFERENCE, **_known(means[made])}


def transfer(data: StudyData) -> Iterator[Row]:
    for trial, values in _values(data, TRANSFER):
        for name, value in values.items():
            if name.endswith("/fvu"):
                yield {"trial": trial, "compared": name.removesuffix("/fvu"), **_known(value)}


def latents(data: StudyData) -> pl.DataFrame:
    """trial, latent, score, truth: of the live features of each attribution's first dictionary."""
    column, rows = f"summary_{PHASE}", []
    summaries = data.trials.select("trial", column).drop_nulls() if column in data.trials.columns else pl.DataFrame()
    for trial, text in summaries.iter_rows():
        table = json.loads(text).get("latents") or {}
        if "truth" in table:
            rows += [(trial, *each) for each in zip(table["latent"], table["score"], table["truth"], strict=True)]
    names = {"trial": pl.String, "latent": pl.Int64, "score": pl.Float64, "truth": pl.Float64}
    return pl.DataFrame(rows, schema=names, orient="row")
