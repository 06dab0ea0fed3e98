from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halflife.errors import UserError
from halflife.training.schedules import Schedule

STEPS = st.integers(2, 500)
FRACTION = st.floats(0, 0.5)


@given(st.sampled_from(["constant", "cosine", "wsd"]), STEPS, FRACTION, FRACTION, st.floats(0, 1))
def test_multipliers_are_between_the_final_one_and_1_after_warmup(shape, steps, warmup, decay, final):
    schedule = Schedule(shape=shape, warmup=warmup, decay=decay, final=final)
    multiples = [schedule.lr_multiplier(step, steps) for step in range(steps)]
    assert all(0 <= lr_multiplier <= 1 for lr_multiplier in multiples)
    rising = sum(1 for step in range(steps) if step < warmup * steps)
    assert all(lr_multiplier >= final - 1e-9 for lr_multiplier in multiples[rising:])


@given(STEPS, st.floats(0.01, 0.5), st.floats(0.1, 1))
def test_warmup_is_linear_from_the_first_step(steps, warmup, carried):
    schedule = Schedule(shape="continue", warmup=warmup)
    multiples = [schedule.lr_multiplier(step, steps, carried) for step in range(steps)]
    rising = next(step for step, lr_multiplier in enumerate(multiples) if lr_multiplier == carried) + 1
    assert multiples[:rising] == pytest.approx([carried * (step + 1) / rising for step in range(rising)])


@pytest.mark.parametrize("shape", ["cosine", "wsd"])
@pytest.mark.parametrize("steps", [2, 10, 101])
def test_the_last_step_has_the_final_multiplier(shape, steps):
    schedule = Schedule(shape=shape, final=0.25, decay=0.5)
    assert schedule.lr_multiplier(steps - 1, steps) == pytest.approx(0.25)


def test_cosine_falls_all_the_way_and_wsd_only_at_the_end():
    cosine = [Schedule(shape="cosine").lr_multiplier(step, 100) for step in range(100)]
    wsd = [Schedule(shape="wsd", decay=0.2).lr_multiplier(step, 100) for step in range(100)]
    assert cosine == sorted(cosine, reverse=True)
    assert len(set(cosine)) == 100
    assert wsd[:80] == [1.0] * 80
    assert wsd[80:] == sorted(wsd[80:], reverse=True)


def test_continue_stays_at_the_carried_multiplier():
    assert {Schedule(shape="continue").lr_multiplier(step, 50, 0.37) for step in range(50)} == {0.37}


@pytest.mark.parametrize("fields", [{"warmup": 1.5}, {"decay": -0.1}, {"shape": "wsd", "warmup": 0.6, "decay": 0.6}])
def test_invalid_fractions_are_refused(fields):
    with pytest.raises(UserError, match="schedule"):
        Schedule(**fields)
