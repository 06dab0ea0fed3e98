from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halflife.errors import UserError
from halflife.evaluation.probes import Cadence, Ends, Every, Geometric, due

cadences = st.one_of(
    st.just(Ends()),
    st.builds(Every, steps=st.integers(1, 50)),
    st.builds(Geometric, dense=st.integers(0, 30), ratio=st.floats(1.001, 4)),
)


@given(cadence=cadences, steps=st.integers(1, 3000))
def test_every_cadence_ascends_from_0_to_the_last_step(cadence: Cadence, steps: int) -> None:
    found = due(cadence, steps)
    assert found[0] == 0
    assert found[-1] == steps
    assert found == sorted(set(found))


@given(dense=st.integers(0, 30), ratio=st.floats(1.001, 4), steps=st.integers(1, 3000))
def test_a_geometric_cadence_is_dense_first_and_then_never_exceeds_its_ratio(
    dense: int, ratio: float, steps: int
) -> None:
    found = due(Geometric(dense=dense, ratio=ratio), steps)
    assert found[: dense + 1] == list(range(min(dense, steps) + 1))
    assert all(b <= max(a + 1, a * ratio) for a, b in itertools.pairwise(found))


def test_the_default_evaluates_every_step_up_to_8_and_then_at_a_ratio_of_1_25() -> None:
    assert due(Geometric(), 60) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 18, 22, 27, 33, 41, 51, 60]


def test_every_and_ends() -> None:
    assert due(Every(steps=4), 10) == [0, 4, 8, 10]
    assert due(Ends(), 10) == [0, 10]


@pytest.mark.parametrize("cadence", [Every(steps=0), Geometric(ratio=1.0), Geometric(dense=-1)])
def test_a_cadence_that_never_advances_is_refused(cadence: Cadence) -> None:
    with pytest.raises(UserError, match="given: expected"):
        due(cadence, 10)
