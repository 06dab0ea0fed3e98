from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from analysis.answers.quantities import ALREADY, values
from analysis.decay.retention import areas, half_lives, retention_curves
from halflife.tracking.questions import Against, At, Crossing, First, Last, Mean, Quantity, Slope
from tests.analysis.answers.made import study

HITS = Quantity(name="kept", label="what is kept", measure="branch/skill/hits")
LOSS = Quantity(name="loss", label="the loss", measure="branch/clean/loss")
LINE = {"branch/clean/loss": [(0, 4.0), (10, 3.0), (20, 2.0), (40, 0.0)]}


def one(quantity, curve, **row):
    """What `quantity` reads from one trial that logged `curve`."""
    return values(study([{"seed": 0} | row], lambda row: curve), quantity).row(0, named=True)


def read(moment, curve=LINE, **changes):
    return one(replace(LOSS, moment=moment, **changes), curve)


@pytest.mark.parametrize(
    ("moment", "value"),
    [
        (First(), 4.0), (Last(), 0.0), (At(amount=10), 3.0), (At(amount=15), 2.5), (Slope(), -0.1),
        (Slope(start=10, end=20), -0.1), (Mean(start=0, end=40, scale="linear"), 2.0),
        (Mean(start=10, end=20, scale="linear"), 2.5), (Crossing(threshold=2.5), 10 * 2**0.5),
        (Crossing(threshold=2.0), 20.0),
    ],
)  # fmt: skip
def test_a_moment_reads_its_number(moment, value):
    found = read(moment)
    assert found["value"] == found["low"] == found["high"] == pytest.approx(value)
    assert found["reason"] is None


def test_another_clock_is_a_measure_of_the_same_phase():
    curve = LINE | {"branch/clock/steps": [(0, 0.0), (10, 5.0), (20, 10.0), (40, 20.0)]}
    assert read(At(amount=5, clock="clock/steps"), curve)["value"] == 3.0
    assert read(Slope(clock="clock/steps"), curve)["value"] == pytest.approx(-0.2)


def test_counts_stay_counts():
    curve = {"branch/skill/hits": [(0, 100.0), (10, 32.0)], "branch/skill/trials": [(0, 128.0), (10, 128.0)]}
    found = one(HITS, curve)
    assert (found["value"], found["hits"], found["trials"]) == (0.25, 32.0, 128.0)
    above = one(replace(HITS, transform="above chance", chance=0.1), curve)
    assert above["value"] == pytest.approx(0.15)
    own = one(replace(HITS, transform="above chance", chance=0.1), curve | {"branch/skill/chance": [(0, 0.2)]})
    assert own["value"] == pytest.approx(0.05)


def test_the_logit_of_no_hits_is_a_number_and_of_a_rate_of_zero_is_missing():
    curve = {"branch/skill/hits": [(0, 0.0)], "branch/skill/trials": [(0, 10.0)], "branch/skill/rate": [(0, 0.0)]}
    assert one(replace(HITS, transform="logit"), curve)["value"] == pytest.approx(math.log(0.5 / 10.5))
    missing = one(replace(HITS, measure="branch/skill/rate", transform="logit"), curve)
    assert (missing["value"], missing["reason"]) == (None, "0 has no logit")


def test_a_threshold_that_is_not_crossed_is_censored_at_the_last_evaluation():
    found = read(Crossing(threshold=-1.0))
    assert (found["value"], found["low"], found["high"], found["reason"]) == (None, 40.0, math.inf, None)
    logs = read(Crossing(threshold=-1.0), transform="log")
    assert (logs["value"], logs["low"], logs["high"]) == (None, math.log(40.0), math.inf)


def test_a_threshold_crossed_before_the_first_evaluation_is_censored_there():
    late = {"branch/clean/loss": LINE["branch/clean/loss"][1:]}
    found = read(Crossing(threshold=3.5), late, transform="log")
    assert (found["value"], found["low"], found["high"]) == (None, -math.inf, math.log(10.0))
    assert read(Crossing(threshold=5.0))["reason"] == ALREADY


def test_a_phase_that_ended_at_its_first_evaluation_was_already_so_and_other_single_evaluations_are_too_few():
    """Relearning of what was not forgotten stops before its first step."""
    once = {"branch/clean/loss": LINE["branch/clean/loss"][:1]}
    assert read(Crossing(threshold=3.0, direction="above"), once)["reason"] == ALREADY
    assert read(Crossing(threshold=3.0), once)["reason"] == "fewer than two evaluations"


@pytest.mark.parametrize(
    ("moment", "changes", "why"),
    [
        (At(amount=50), {}, "measured from 0 to 40 tokens, not at 50"),
        (Mean(start=10, end=50), {}, "not measured all the way from 10 to 50 tokens"),
        (Last(), {"transform": "log"}, "0 has no logarithm"),
        (Last(), {"measure": "branch/other/loss"}, "no trial has branch/other/loss"),
        (Last(), {"measure": "trunk/clean/loss"}, "no trial has trunk/clean/loss"),
        (Last(), {"against": Against(role="absent")}, "no control of role 'absent' of the same seed and size"),
        (Last(), {"against": Against(role="absent", how="retention")}, "it has no control of its seed and size"),
    ],
)  # fmt: skip
def test_what_is_missing_has_no_value_and_a_reason(moment, changes, why):
    found = read(moment, **changes)
    assert (found["value"], found["low"], found["high"], found["reason"]) == (None, None, None, why)


def test_a_run_that_diverged_has_no_last_value_but_the_ones_before():
    diverged = {"outcome_branch": "diverged"}
    assert one(LOSS, LINE, **diverged)["reason"] == "the run ended early: diverged"
    assert one(replace(LOSS, moment=At(amount=10)), LINE, **diverged)["value"] == 3.0
    assert one(LOSS, {}, outcome_branch="blocked: no trunk")["reason"] == "branch: blocked: no trunk"


def paired(quantity):
    """Level = seed + size; the control's is a tenth of the treatment's, at its own seed and size."""
    trials = [
        {"role": role, "seed": seed, "parameters": n}
        for seed in (1, 2) for n in (1000, 2000) for role in ("absent", "treatment")
    ]  # fmt: skip
    data = study(
        trials,
        lambda row: {
            "branch/clean/loss": [(0, (row["seed"] + row["parameters"]) * (0.1 if row["role"] == "absent" else 1))]
        },
    )
    return values(data, quantity).filter(pl.col("role") == "treatment")


def test_a_control_is_of_the_same_seed_and_size():
    differences = paired(replace(LOSS, against=Against(role="absent")))
    assert differences["value"].to_list() == pytest.approx([0.9 * level for level in (1001, 2001, 1002, 2002)])
    assert paired(replace(LOSS, against=Against(role="absent", how="ratio")))["value"].to_list() == pytest.approx(
        [10] * 4
    )
    logs = paired(replace(LOSS, transform="log", against=Against(role="absent", how="ratio")))
    assert logs["value"].to_list() == pytest.approx([math.log(10)] * 4)


def test_the_bounds_of_two_censored_times_add_up():
    """The treatment reaches the threshold at 20; its control not by 40: the ratio of times is at most 1/2."""
    curves = {"treatment": LINE, "absent": {"branch/clean/loss": [(0, 9.0), (40, 9.0)]}}
    data = study([{"seed": 0, "role": role} for role in curves], lambda row: curves[row["role"]])
    time = replace(LOSS, moment=Crossing(threshold=2.0), against=Against(role="absent", how="ratio"))
    assert values(data, time).row(0, named=True) | {"reason": None, "value": None} == values(data, time).row(
        0, named=True
    )
    assert values(data, time).select("low", "high").row(0) == (0.0, 0.5)
    logs = values(data, replace(time, transform="log")).select("low", "high").row(0)
    assert logs == (-math.inf, pytest.approx(math.log(0.5)))


def test_the_half_life_and_the_area_of_a_quantity_are_those_of_the_decay_room(small):
    """One formula, one place."""
    curves = retention_curves(small)
    kept = Quantity(
        name="half_life", label="the half-life", measure="branch/backdoor/logprob", unit="tokens",
        moment=Crossing(threshold=0.5), against=Against(role="absent", how="retention"),
    )  # fmt: skip
    times = half_lives(curves).filter((pl.col("criterion") == "logprob") & (pl.col("clock") == "tokens"))
    both = times.select("trial", "estimate", bound="low").join(values(small, kept), on="trial")
    assert both.height == times.height > 20
    observed = both.drop_nulls("estimate")
    np.testing.assert_allclose(observed["value"], observed["estimate"])
    late = both.filter(pl.col("estimate").is_null())
    assert late["value"].null_count() == late.height
    np.testing.assert_allclose(late["low"], late["bound"])
    mean = areas(curves).join(values(small, replace(kept, moment=Mean())), on="trial")
    np.testing.assert_allclose(mean["value"], mean["area"], rtol=1e-9)


def test_a_trunk_that_never_learned_keeps_nothing(rough):
    kept = Quantity(
        name="half_life", label="the half-life", measure="branch/backdoor/logprob",
        moment=Crossing(threshold=0.5), against=Against(role="absent", how="retention"),
    )  # fmt: skip
    found = values(rough, kept).filter(
        (pl.col("role") == "treatment") & (pl.col("size") == "100k") & (pl.col("seed") == 1)
    )
    assert found["value"].null_count() == found.height > 0
    assert any("nothing to keep" in reason for reason in found["reason"])
