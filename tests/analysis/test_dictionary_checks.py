"""A model whose streams have collapsed beside a dictionary answers nothing."""

from __future__ import annotations

import pytest

from analysis.checks.dictionaries import dictionary_checks
from analysis.checks.sweep import checks, failing
from analysis.runs.study import StudyData
from tests.analysis.answers.made import study

NAME = "Streams beside a dictionary have not collapsed"


def made(*ends: tuple[float, float]) -> StudyData:
    """A trial for each (adjacent cosine, share alive) at its end."""
    return study(
        [{"arm": str(number)} for number in range(len(ends))],
        lambda row: {
            f"train/beside/{measure}": [(0, start), (100, ends[int(row["arm"])][place])]
            for place, (measure, start) in enumerate((("adjacent_cosine", 1.0), ("alive", 0.0)))
        },
    )


@pytest.mark.parametrize(
    ("ends", "passed"),
    [(((0.9, 0.9), (0.95, 0.05)), True), (((0.999, 0.5),), True), (((0.9, 0.9), (0.995, 0.03)), False)],
)
def test_streams_that_are_alike_and_excite_nothing_make_a_sweep_not_valid(
    ends: tuple[tuple[float, float], ...], passed: bool
) -> None:
    data = made(*ends)
    (check,) = dictionary_checks(data)
    assert (check.name, check.passed, check.required) == (NAME, passed, True)
    assert check in checks(data)
    assert (NAME in failing(data)) == (not passed)
    if not passed:
        assert check.found == "t1: cosine 0.995, 3% alive"


def test_a_sweep_without_dictionaries_is_not_checked_for_them() -> None:
    data = study([{"arm": "0"}], lambda row: {"train/clean/loss": [(0, 3.0), (100, 2.0)]})
    assert dictionary_checks(data) == []
