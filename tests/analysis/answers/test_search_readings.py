"""What a search found, from planted runs, so that every number is known."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from itertools import repeat

import polars as pl
import pytest

from analysis.answers.derived import READINGS
from analysis.answers.judging import answers
from analysis.answers.questions import Answer
from analysis.answers.sentences import sentence
from analysis.checks.search import search_checks
from analysis.checks.sweep import checks
from analysis.gallery import generated
from analysis.runs.study import POINTS, StudyData
from halflife.tracking import schema
from halflife.tracking.questions import Contrast, Quantity

KINDS = ("none", "dropout", "decay")


def planted(
    searched: dict[int, tuple[float, float]],
    rerun: Mapping[int, Iterable[float]],
    *,
    implanted: dict[int, float] | None = None,
    implanted_again: Mapping[int, Iterable[float]] | None = None,
    failed: tuple[int, ...] = (),
) -> StudyData:
    """Settings by number, with (retention, loss) on one seed; those run again, with their retention on fresh seeds.
    Every run implanted the behaviour unless a success is given."""
    rows, points = [], []

    def run(number: int, role: str, seed: int, values: dict[str, float]) -> None:
        trial = f"{number} {role} {seed}"
        rows.append(
            {
                "trial": trial,
                "name": trial,
                "role": role,
                "suggestion": number,
                "seed": seed,
                "kind": KINDS[number % 3],
                "rate": 1.0 if number == 0 else number / 10,
            }
        )
        points.extend((trial, name.split("/")[0], 0, name.split("/")[1], value) for name, value in values.items())

    for number, (retention, loss) in searched.items():
        success = (implanted or {}).get(number, 1.0)
        values = {"objective/retention": retention, "objective/loss": loss, "constraint/implanted": success}
        run(number, "treatment", 0, {} if number in failed else values)
    for number, retained in rerun.items():
        successes = (implanted_again or {}).get(number, repeat(1.0))
        for seed, (value, success) in enumerate(zip(retained, successes, strict=False), start=1):
            values = {"objective/retention": value, "objective/loss": 2.0, "constraint/implanted": success}
            run(number, "held-out", seed, values)
    given = generated.search()
    declaration = dataclasses.replace(
        given.declaration,
        axes=(
            schema.Axis(name="seed", label="Seed", values=(0,)),
            schema.Axis(name="kind", label="Regularizer", values=KINDS),
            schema.Axis(name="rate", label="Rate", values=(1.0,)),
        ),
        objectives=(
            schema.Objective(name="retention", label="Mean retention", direction="maximize"),
            schema.Objective(name="loss", label="Clean loss", direction="minimize"),
        ),
        constraints=(schema.Constraint(name="implanted", label="Success", at_least=0.9),),
    )
    frame = pl.DataFrame(points, schema=POINTS, orient="row")
    names = ("suggestion", "seed", "kind", "rate")
    return dataclasses.replace(
        given, declaration=declaration, trials=pl.DataFrame(rows), points=frame, parameters=names
    )


ASKED = Quantity(name="o", label="the retention", derived="first_objective")
BETTER = Contrast(name="better", label="Is it better?", quantity="o", axis="chosen", high="best first",
                  low="reference", role="held-out")  # fmt: skip


def better(data: StudyData) -> Answer:
    declaration = dataclasses.replace(data.declaration, quantities=(ASKED,), questions=(BETTER,))
    return answers(dataclasses.replace(data, declaration=declaration))[0]


def chosen(data: StudyData) -> dict[str, str]:
    """By what was chosen: the trial on the first fresh seed."""
    return dict(READINGS["first_objective"](data).unique("chosen", keep="first").select("chosen", "trial").iter_rows())


def test_the_result_is_of_fresh_seeds_and_its_difference_is_paired():
    rerun = {0: (0.5, 0.6, 0.7, 0.8, 0.9), 1: (0.6, 0.7, 0.8, 0.9, 1.0)}
    data = planted({0: (0.55, 2.0), 1: (0.99, 2.1), 2: (0.4, 2.2)}, rerun)
    assert chosen(data) == {"reference": "0 held-out 1", "best first": "1 held-out 1", "best second": "0 held-out 1"}
    found = better(data)
    assert found.verdict is not None
    interval = found.verdict.interval
    assert interval is not None
    assert (interval.estimate, interval.low, interval.high) == pytest.approx((0.1, 0.1, 0.1))  # though seeds differ


def test_the_setting_is_chosen_by_the_search_and_not_by_the_fresh_seeds():
    rerun = {1: (0.2, 0.2, 0.2, 0.2, 0.2), 2: (0.9, 0.9, 0.9, 0.9, 0.9)}
    data = planted({0: (0.1, 3.0), 1: (0.8, 2.0), 2: (0.7, 2.5)}, rerun)
    assert chosen(data) == {"best first": "1 held-out 1", "best second": "1 held-out 1"}


def test_a_setting_that_violates_a_constraint_is_not_the_result():
    rerun = {1: (0.2,), 2: (0.9,)}
    data = planted({0: (0.1, 3.0), 1: (0.8, 2.0), 2: (0.9, 1.0)}, rerun, implanted={2: 0.5})
    assert set(chosen(data).values()) == {"1 held-out 1"}


def test_a_reference_that_nothing_beat_is_not_equivalent_to_itself():
    data = planted({0: (0.9, 2.0), 1: (0.5, 2.1)}, {0: (0.5, 0.6, 0.7, 0.8, 0.9)})
    found = better(data)
    assert found.verdict is not None
    assert found.verdict.interval is None
    assert found.missing == {"the search found no setting that beats the reference": 5}
    assert sentence(dataclasses.replace(found, invalid=()), data) == (
        f"{found.question.label} Undecided: the search found no setting that beats the reference."
    )


def test_a_fresh_seed_without_a_value_is_missing_and_not_a_small_value():
    rerun = {0: (0.5, 0.6, 0.7, 0.8, 0.9), 1: (0.6, math.nan, 0.8, math.nan, 1.0)}
    found = better(planted({0: (0.55, 2.0), 1: (0.99, 2.1)}, rerun))
    assert found.verdict is not None
    assert found.verdict.interval is not None
    assert found.verdict.interval.count == 3
    assert sum(found.missing.values()) == 2


def test_without_fresh_seeds_there_is_no_reading():
    assert READINGS["first_objective"](planted({0: (0.1, 3.0), 1: (0.8, 2.0)}, {}, failed=(1,))).is_empty()
    assert READINGS["first_objective"](planted({0: (0.1, 3.0)}, {}, failed=(0,))).is_empty()


def test_a_constraint_that_fresh_seeds_violate_is_said_in_words():
    searched = {0: (0.2, 2.0), 1: (0.5, 2.1), 2: (0.6, 2.2)}
    again = {0: (0.2, 0.2, 0.2), 1: (0.5, 0.5, 0.5), 2: (0.6, 0.6, 0.6)}
    (held,) = search_checks(planted(searched, again))
    assert (held.passed, held.found) == (True, "so in 3 settings")
    data = planted(searched, again, implanted_again={2: (0.95, 0.4, math.nan)})
    (broken,) = search_checks(data)
    assert broken.passed is False
    assert broken.found == "setting 2 has success at least 0.9 on 1 of 3 fresh seeds"
    assert broken in checks(data)
