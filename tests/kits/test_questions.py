"""Questions that follow from axes can be asked of the trials of a star, whatever the settings."""

from __future__ import annotations

import dataclasses

from hypothesis import given

from halflife.kits import axes, questions
from halflife.tracking.check import check
from halflife.tracking.questions import Contrast, Quantity, Trend
from tests.kits.test_axes import AXES, SETTINGS, Settings, Treatment
from tests.tracking.test_questions import KEPT, Stage, Trial, declaration

LEFT = Quantity(name="left", label="what is left", measure="branch/skill/logprob")


@given(SETTINGS)
def test_effects_of_axes_can_be_asked_of_a_star_of_any_settings(settings: Settings) -> None:
    reference = axes.reference(Treatment, AXES, settings)
    star = [reference, *axes.alone(reference, AXES, AXES, settings)]
    trials = [
        Trial({"parameters": n, "seed": seed, **dataclasses.asdict(treatment)}, role, {"branch": Stage()})
        for n in (1000, 2000) for seed in range(5) for treatment in star for role in ("treatment", "absent")
    ]  # fmt: skip
    varied = axes.declared(AXES, settings)
    asked = questions.effects(varied, KEPT, questions.at_reference(varied))
    assert check(declaration(**questions.declared((KEPT, LEFT), asked)), trials) == []
    contrasts = sum(len(axis.values) - 1 for axis in varied if axis.role == "treatment")
    doses = sum(len(axis.values) > 1 for axis in varied if axis.role == "dose")
    assert [type(each) for each in asked].count(Contrast) == contrasts
    assert [type(each) for each in asked].count(Trend) == doses


def test_only_quantities_that_are_asked_about_are_declared() -> None:
    asked = [Trend(name="t", label="?", quantity="left", axis="parameters")]
    assert questions.declared((KEPT, LEFT), asked)["quantities"] == (LEFT,)
