"""One number per trial: known quantities in their own units, and success at the drop; what is censored has none."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from analysis.answers.of_trials import trial_numbers
from analysis.answers.quantities import values
from halflife.tracking.questions import Crossing, Quantity
from halflife.tracking.schema import Outcome
from tests.analysis.answers.test_answers import UP, lamps


def test_known_quantities_are_in_their_own_unit_and_censored_ones_are_left_out():
    data = lamps([UP])
    (quantity, *_) = data.declaration.quantities
    crossing = Quantity(
        name="never", label="never", measure=quantity.measure, moment=Crossing(threshold=1e9, direction="above")
    )
    logs = replace(quantity, name="logs", transform="log")
    data = replace(data, declaration=replace(data.declaration, quantities=(quantity, logs, crossing)))
    found = trial_numbers(data)
    for trial, value in values(data, quantity).select("trial", "value").rows():
        assert found[trial][quantity.name] == value
        assert found[trial].get("logs") == (pytest.approx(value) if value > 0 else None)
        assert "never" not in found[trial]


def test_success_at_the_drop_is_the_share_of_the_first_count():
    data = lamps([UP])
    trial = data.trials["trial"][0]
    counts = [(0, "lamp/hits", 3.0), (0, "lamp/trials", 4.0), (500, "lamp/hits", 0.0), (500, "lamp/trials", 4.0)]
    points = pl.DataFrame([(trial, "branch", *count) for count in counts], schema=data.points.schema, orient="row")
    outcome = Outcome(name="lamp", label="Light", phase="branch", task="lamp")
    declaration = replace(data.declaration, outcomes=(outcome,), quantities=())
    data = replace(data, points=pl.concat([data.points, points]), declaration=declaration)
    assert trial_numbers(data) == {trial: {"success_at_drop": 0.75}}
