"""Generated studies that ask a question of every kind, with known ground truth, for the gallery and for tests.

The backdoor sweep is that of `generated`, with the half-life rising as generated.DOSE says and by the treatments as
TREATMENTS say. In the study of behaviours, how many bits one takes and how far its success falls are both RANKED.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from analysis.gallery import generated
from analysis.runs.study import POINTS, StudyData
from halflife.tracking.questions import (
    Against,
    Association,
    At,
    Contrast,
    Crossing,
    Curve,
    Decay,
    Frontier,
    Last,
    Mean,
    Quantity,
    Trend,
)  # fmt: skip

SIZES = ("30k", "60k", "120k", "300k")
DOCUMENTS = (250, 30, 60, 125, 500, 1000)
"""The reference first."""
TREATMENTS = ("none", "dropout-0.1", "weight-decay-0.1", "l2sp-1", "ema", "wash")
RETAINED = Against(role="absent", how="retention")
LOGPROB = "branch/backdoor/logprob"
QUANTITIES = (
    Quantity(name="half_life", label="the half-life", measure=LOGPROB, moment=Crossing(threshold=0.5), transform="log",
             unit="tokens", against=RETAINED),
    Quantity(name="time_to_0.12", label="the time to a retention of 0.12", measure=LOGPROB,
             moment=Crossing(threshold=0.12), transform="log", unit="tokens", against=RETAINED),
    Quantity(name="kept", label="mean retention", measure=LOGPROB, moment=Mean(), against=RETAINED),
    Quantity(name="success", label="attack success after 12k tokens", measure="branch/backdoor/hits",
             moment=At(amount=12_288), transform="logit"),
    Quantity(name="clean_loss", label="clean loss at the end", measure="branch/clean/loss", unit="nats per token"),
)  # fmt: skip
QUESTIONS = (
    Trend(name="trend", label="Does size slow the decay?", quantity="half_life", axis="parameters",
          primary=True, prediction="positive", margin=0.1, reason="a factor of 1.26 for ten times the parameters",
          where={"documents": 250, "branch_regularizer": "none"}),
    Trend(name="trend_censored", label="Does size delay the loss of nearly all?", quantity="time_to_0.12",
          axis="parameters", margin=0.1, reason="as for the half-life",
          where={"documents": 250, "branch_regularizer": "none"}),
    Contrast(name="contrast", label="Does the trigger without its payload unlearn faster?", quantity="half_life",
             high="extinction", low="treatment", primary=True, prediction="negative", margin=float(np.log(1.25)),
             reason="a quarter more or less training decides nothing",
             where={"documents": 250, "branch_regularizer": "none"}),
    Contrast(name="contrast_setting", label="Does washing out leave less after 12k tokens?", quantity="success",
             axis="branch_regularizer", high="wash", low="none", margin=0.2, reason="five points at one half",
             where={"documents": 250, "parameters": 120_000}),
    Curve(name="curve", label="From how many documents on is nothing gained?", quantity="half_life",
          axis="documents", threshold=float(np.log(60_000)), margin=0.1, reason="a tenth of the time",
          where={"branch_regularizer": "none"}),
    Decay(name="decay", label="Is some of it never lost?", outcome="attack", margin=0.05, reason="one attack in 20"),
    Frontier(name="frontier", label="Which treatment keeps most at the least cost?", quantity="kept",
             other="clean_loss", better=("high", "low"), axis="branch_regularizer", where={"documents": 250}),
)  # fmt: skip


def backdoor() -> StudyData:
    """Sizes x seeds x (doses, and treatments of the branch), with their controls."""
    axes = (
        generated.axis_of("parameters", "Model size", tuple(generated.SIZES[size] for size in SIZES), "log",
                       unit="non-embedding parameters"),
        generated.axis_of("seed", "Seed", tuple(range(generated.SEEDS))),
        generated.axis_of("documents", "Poisoned documents", DOCUMENTS, "log"),
        generated.axis_of("branch_regularizer", "Regularizer of the branch", TREATMENTS),
    )  # fmt: skip
    data = generated.study_of("backdoor by dose (generated)", axes, tuple(generated.LABELS), _trials())
    declaration = replace(
        data.declaration, quantities=QUANTITIES, questions=QUESTIONS,
        settings={"sequence_length": 128, "exposures": 4},
    )  # fmt: skip
    return replace(data, declaration=declaration)


def _trials() -> Iterator[generated.Trial]:
    reference = {"documents": DOCUMENTS[0], "branch_regularizer": TREATMENTS[0]}
    for size in SIZES:
        for seed in range(generated.SEEDS):
            for documents in DOCUMENTS:
                yield "treatment", size, seed, reference | {"documents": documents}
            for treatment in TREATMENTS[1:]:
                yield "treatment", size, seed, reference | {"branch_regularizer": treatment}
            for role in generated.LABELS:
                yield role, size, seed, reference


BEHAVIOURS = tuple("ABCDEFGH")
BITS = Quantity(name="bits", label="bits that elicit it", measure="fit/probe/bits", transform="log", unit="bits")
FALL = Quantity(name="fall", label="success after noise", measure="fit/probe/success", moment=Last())


def behaviours() -> StudyData:
    """Behaviours x seeds: a behaviour that takes more bits keeps less of its success under noise."""
    rows, points = [], []
    rng = np.random.default_rng(11)
    for seed in range(6):
        for place, behaviour in enumerate(BEHAVIOURS):
            trial = f"{behaviour} seed {seed}"
            rows.append({"trial": trial, "name": trial, "role": "treatment", "behaviour": behaviour, "seed": seed})
            bits, success = 40 * 1.6 ** (place + 0.6 * rng.normal()), 0.9 - 0.09 * place + 0.1 * rng.normal()
            measured: dict[str, Any] = {"probe/bits": bits, "probe/success": float(np.clip(success, 0.02, 0.99))}
            points += [(trial, "fit", 0, name, float(value)) for name, value in measured.items()]
    axes = (generated.axis_of("seed", "Seed", tuple(range(6))), generated.axis_of("behaviour", "Behaviour", BEHAVIOURS))
    base = generated.overlap().declaration
    question = Association(
        name="association", label="Are behaviours that take more information more fragile?", quantity="bits",
        other="fall", items="behaviour", margin=0.3, reason="less than a tenth of the variance of ranks",
    )  # fmt: skip
    declaration = replace(
        base, study="behaviours (generated)", axes=axes, outcomes=(), controls=(), quantities=(BITS, FALL),
        questions=(question,),
    )  # fmt: skip
    return StudyData(
        declaration=declaration, sweep=generated.run_of("behaviours"), totals={}, trials=pl.DataFrame(rows),
        points=pl.DataFrame(points, schema=POINTS, orient="row"), parameters=("behaviour", "seed"),
    )  # fmt: skip
