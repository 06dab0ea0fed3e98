"""How many features dictionaries need, and what they agree in: planted curves and points are read back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.answers.judging import answers
from analysis.interpret.dictionaries import OWN, SHARED, needed
from analysis.runs.study import StudyData
from halflife.tracking.questions import Contrast, Quantity
from tests.analysis.answers.made import study

WIDTHS = (32, 64, 128, 256, 512)
NEEDED = Quantity(name="needed", label="features", derived="features_needed", transform="log")
SHARING = Quantity(name="sharing", label="the ratio", derived="sharing", transform="log")
AGREEMENT = Quantity(name="agreement", label="agreement", derived="agreement")
PERSISTENCE = Quantity(name="persistence", label="persistence", derived="persistence")
WHERE = {"meaning": "effect"}
QUESTIONS = (
    Contrast(name="features", label="", quantity="needed", axis="dictionary", high=SHARED, low=OWN),
    Contrast(name="learned", label="", quantity="sharing", high="treatment", low="absent"),
    Contrast(
        name="effect", label="", quantity="agreement", axis="latents", high="observed", low="permuted", where=WHERE
    ),
    Contrast(name="random", label="", quantity="persistence", axis="latents", high="observed", low="random"),
)


def level(latents: float) -> float:
    return 1 - math.exp(-latents / 150)


def curves(ratio: float) -> dict[str, list[tuple[int, float]]]:
    return {OWN: [(n, level(n)) for n in WIDTHS], SHARED: [(n, level(n / ratio)) for n in WIDTHS]}


@given(st.floats(0.3, 8))
def test_a_shared_dictionary_needs_as_many_times_the_features_as_was_planted(ratio: float) -> None:
    found = needed(curves(ratio))
    assert found[SHARED][0] == found[SHARED][1]
    assert found[SHARED][0] / found[OWN][0] == pytest.approx(ratio, rel=0.08)  # straight lines between widths


def test_without_a_level_that_both_reach_the_worse_ones_number_is_a_bound() -> None:
    found = needed(curves(1000))
    assert found[OWN] == pytest.approx((32, 32))
    assert found[SHARED] == pytest.approx((512, math.inf))
    assert needed(curves(1 / 1000))[OWN] == pytest.approx((512, math.inf))


def test_a_curve_that_falls_counts_up_to_its_best() -> None:
    falling = {OWN: [(32, 0.5), (64, 0.9), (128, 0.4)], SHARED: [(32, 0.5), (64, 0.9), (128, 0.2)]}
    assert needed(falling)[OWN] == needed(falling)[SHARED]


def made(ratios: dict[str, float]) -> StudyData:
    """Five seeds of each role, whose shared dictionaries need so many times the features."""

    def points(row: dict) -> dict[str, list[tuple[int, float]]]:
        noise = 0.001 * row["seed"]
        found = {
            f"features/{latents}-top8{'-shared' if kind == SHARED else ''}-s0/specificity": [(0, value)]
            for kind, curve in curves(ratios[row["role"]] + noise).items() for latents, value in curve
        }  # fmt: skip
        followed = "features/64-top8-shared-s0/"
        measured = {"same_effect": 0.8, "same_effect_permuted": 0.1, "same_concept": 0.9, "same_concept_permuted": 0.2}
        measured |= {"persistence": 0.6, "persistence_permuted": 0.05, "persistence_random": 0.5}
        found |= {followed + name: [(0, value + noise * (name == "same_effect"))] for name, value in measured.items()}
        return found | {"features/64-top8-shared-s0.residual-1/specificity": [(0, 0.0)]}

    trials = [{"role": role, "seed": seed} for role in ratios for seed in range(5)]
    quantities = (NEEDED, SHARING, AGREEMENT, PERSISTENCE)
    return study(trials, points, quantities, QUESTIONS)


def test_questions_about_dictionaries_are_answered_with_what_was_planted() -> None:
    found = {answer.question.name: answer for answer in answers(made({"treatment": 1.5, "absent": 4.0}))}
    estimates = {name: float(answer.estimates.values.mean()) for name, answer in found.items() if answer.estimates}
    assert math.exp(estimates["features"]) == pytest.approx(1.5, rel=0.08)
    assert math.exp(estimates["learned"]) == pytest.approx(1.5 / 4, rel=0.1)
    assert estimates["effect"] == pytest.approx(0.702)
    assert estimates["random"] == pytest.approx(0.1)
    assert {answer.censored for answer in found.values()} == {0}
