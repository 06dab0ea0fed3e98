"""Bits and fragility read from a planted sweep."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from analysis import elicitation, fragility, generated
from analysis.information import bits_table
from analysis.load import POINTS, StudyData
from halflife.tracking import schema


@pytest.fixture(scope="module")
def study() -> StudyData:
    """24 behaviours that take 1, 2 or 4 tokens; what takes fewer is more fragile. Rounded to 3 bits they still work."""
    rng = np.random.default_rng(0)
    base, trials, points = generated.overlap(), [], []
    prompts = {f"k{k}": {"k": k, "restart": 0, "initial": "noise"} for k in (0, 1, 2, 4)}
    for number in range(24):
        takes = (1, 2, 4)[number % 3]
        for seed in (0, 1):
            trial = f"b{number} {seed}"
            trials.append({"trial": trial, "name": trial, "role": "treatment", "size": "30k", "seed": seed})
            for name, told in prompts.items():
                loss = 0.5 if told["k"] >= takes else 4.0
                points.append((trial, "prompts", 1, f"b{number:02}.{name}/loss", loss))
                if told["k"]:
                    found = {"loss": loss, "norm": rng.random(), "f2": 1 / takes + 0.05 * rng.random(),
                             "numbers": 32.0 * told["k"], "loss_3bits": loss + 0.1, "loss_1bits": 4.0}  # fmt: skip
                    points += [(trial, "fragility", 0, f"b{number:02}.{name}/{m}", v) for m, v in found.items()]
    declaration = replace(
        base.declaration, prompts=prompts, axes=(),
        outcomes=tuple(
            schema.Outcome(name=f"b{n:02}", label=f"behaviour {n}", phase="prompts", task=f"b{n:02}") for n in range(24)
        ),
    )  # fmt: skip
    return replace(base, declaration=declaration, trials=pl.DataFrame(trials), parameters=("size", "seed"),
                   points=pl.DataFrame(points, schema=POINTS, orient="row"))  # fmt: skip


def test_what_was_measured_of_a_prompt_is_no_further_prompt(study: StudyData) -> None:
    assert elicitation.runs(study).height == 24 * 2 * 4
    assert fragility.measured(study).height == 24 * 2 * 3


def test_least_bits_are_those_of_the_smallest_k_that_still_works(study: StudyData) -> None:
    table = bits_table(fragility.quantised(study, fragility.measured(study)))
    bits = dict(table.select("behaviour", "bits").iter_rows())
    assert [bits[f"behaviour {n}"] for n in range(3)] == [3 * 32.0, 3 * 64.0, 3 * 128.0]


def test_what_takes_little_and_breaks_easily_is_found(study: StudyData) -> None:
    table = fragility.correlations(study, fragility.measured(study))
    plain = table.filter(pl.col("held fixed") == "nothing").row(0, named=True)
    assert plain["correlation with C"] < -0.9
    assert plain["behaviours"] == 24
    assert plain["high"] < 0


def test_a_study_that_measured_none_has_neither(study: StudyData) -> None:
    bare = replace(study, points=study.points.filter(pl.col("phase") != "fragility"))
    found = fragility.measured(bare)
    assert found.is_empty()
    assert fragility.quantised(bare, found).is_empty()
    assert fragility.correlations(bare, found).is_empty()
