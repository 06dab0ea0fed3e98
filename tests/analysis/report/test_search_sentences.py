"""The sentences on a search, from planted runs, so that every number in them is known."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from itertools import repeat

import polars as pl
import pytest

from analysis.gallery import generated
from analysis.report.sentences.search import search_answer
from analysis.runs.study import POINTS, StudyData
from halflife.tracking import schema

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
    return dataclasses.replace(given, declaration=declaration, trials=pl.DataFrame(rows), points=frame)


def test_a_grid_has_no_sentences_on_a_search():
    data = planted({0: (0.5, 2.0)}, {})
    grid = dataclasses.replace(data, declaration=dataclasses.replace(data.declaration, objectives=()))
    assert search_answer(grid) == []


def test_the_result_is_of_fresh_seeds_and_its_difference_is_paired():
    rerun = {0: (0.5, 0.6, 0.7, 0.8, 0.9), 1: (0.6, 0.7, 0.8, 0.9, 1.0)}
    texts = search_answer(planted({0: (0.55, 2.0), 1: (0.99, 2.1), 2: (0.4, 2.2)}, rerun))
    assert texts[0] == "The search evaluated 3 settings on 1 seed; 2 are on the Pareto front."
    assert texts[1].startswith("The setting with the highest mean retention is regularizer: dropout and rate: 0.1; ")
    assert "on 5 seeds that the search never saw it has mean retention 0.800 [0.604, 0.996]" in texts[1]
    assert (
        "(+0.100 [+0.100, +0.100] relative to the reference, paired by seed)" in texts[1]
    )  # though seeds differ by 0.4
    assert "0.99" not in texts[1].replace("0.996", "")  # the value that selected it is no result
    assert "constraint" not in texts[1]  # it held
    assert texts[2].startswith("The setting with the lowest clean loss is the reference itself; on 5 seeds")


def test_the_setting_is_chosen_by_the_search_and_not_by_the_fresh_seeds():
    rerun = {1: (0.2, 0.2, 0.2, 0.2, 0.2), 2: (0.9, 0.9, 0.9, 0.9, 0.9)}
    texts = search_answer(planted({0: (0.1, 3.0), 1: (0.8, 2.0), 2: (0.7, 2.5)}, rerun))
    assert "mean retention 0.200" in texts[1]
    assert "the highest mean retention and the lowest clean loss is regularizer: dropout and rate: 0.1" in texts[1]
    assert len(texts) == 2


def test_a_setting_that_violates_a_constraint_is_not_the_result():
    rerun = {1: (0.2,), 2: (0.9,)}
    texts = search_answer(planted({0: (0.1, 3.0), 1: (0.8, 2.0), 2: (0.9, 1.0)}, rerun, implanted={2: 0.5}))
    assert "1 violated a constraint" in texts[0]
    assert all("rate: 0.2" not in text for text in texts)
    assert "A demonstration: 1 of 5 seeds." in texts[1]


def test_a_constraint_violated_on_fresh_seeds_is_reported_with_the_result():
    rerun = {0: (0.5, 0.6, 0.7, 0.8, 0.9), 1: (0.6, 0.7, 0.8, 0.9, 1.0)}
    broken = {0: (1.0, 0.3, 1.0, 1.0, 1.0), 1: (0.3, 0.3, 0.9, 0.3, math.nan)}
    texts = search_answer(planted({0: (0.55, 2.0), 1: (0.99, 2.1)}, rerun, implanted_again=broken))
    constraint = "the constraint 'success at least 0.9' held on"
    assert "clean loss 2.00 [2.00, 2.00]" in texts[1]
    assert f"; {constraint} 1 of these 5 seeds; {constraint} 4 of the reference's 5 seeds." in texts[1]
    assert texts[2].count(constraint) == 1  # of the reference itself


def test_a_result_reports_its_number_of_fresh_seeds():
    rerun = {0: (0.5, 0.6, 0.7, 0.8, 0.9), 1: (0.6, math.nan, 0.8, math.nan, 1.0)}
    data = planted({0: (0.55, 2.0), 1: (0.99, 2.1)}, rerun)
    texts = search_answer(data)[1]
    assert "mean retention 0.800 [0.303, 1.30] on 3 of them (+0.100 [+0.100, +0.100] relative to the reference" in texts
    assert "A demonstration: 3 of 5 seeds." in texts
    alone = dataclasses.replace(data.declaration, objectives=data.declaration.objectives[:1])
    texts = search_answer(dataclasses.replace(data, declaration=alone))[1]
    assert "on 3 of 5 seeds that the search never saw it has mean retention 0.800 [0.303, 1.30] (+0.100" in texts


def test_failed_settings_are_counted_and_missing_reruns_are_reported():
    texts = search_answer(planted({0: (0.1, 3.0), 1: (0.8, 2.0)}, {}, failed=(1,)))
    assert "1 could not be measured" in texts[0]
    assert "Nothing was evaluated on fresh seeds" in texts[1]


def test_a_search_that_measured_nothing_is_reported():
    assert search_answer(planted({0: (0.1, 3.0)}, {}, failed=(0,))) == ["The search could measure no setting."]


@pytest.mark.parametrize("place", [1, 2])
def test_the_generated_search_has_a_sentence_for_both_objectives(place: int):
    texts = search_answer(generated.search())
    assert "on 5 seeds that the search never saw" in texts[place]
