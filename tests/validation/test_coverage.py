"""The 95 % intervals cover planted truths, in 200 replicates with fixed seeds: `make validate` does the full table."""

from __future__ import annotations

import pytest

from tests.validation import cells, decay, scaling, seeds, verdicts
from tests.validation.cells import CI, Cell

REPLICATES = 200


@pytest.fixture(autouse=True)
def other_data_than_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "STREAM", 1)


def wrong(found: list[Cell]) -> list[str]:
    """Cells with a coverage that 200 replicates of a valid interval do not show. An interval that is unbounded, or that
    the table says errs on the wide side, may always cover."""
    low, high = CI
    return [
        f"{c.law}, {c.design}, {c.quantity}: {c.coverage:.3f}"
        for c in found
        if not low <= c.coverage <= (high if c.identified and not c.why else 1.0)
    ]


@pytest.mark.parametrize("part", [seeds.gamma_from_crossings, seeds.curves_over_seeds, seeds.joint_laws])
def test_intervals_over_seeds_hold_the_planted_truth(part):
    assert wrong(part(REPLICATES)) == []


@pytest.mark.nightly
@pytest.mark.parametrize("part", [decay, scaling, seeds])
def test_every_cell_of_the_table_holds_the_planted_truth(part):
    assert wrong(part.cells(REPLICATES)) == []


VERDICTS = [verdicts.alone, verdicts.at_looks, verdicts.at_the_margin, verdicts.families, verdicts.powers]


@pytest.mark.parametrize("part", VERDICTS)
def test_verdicts_are_no_more_often_wrong_than_they_may_be(part):
    assert [rate for rate in part(REPLICATES) if not rate.holds] == []


@pytest.mark.nightly
def test_every_rate_of_the_table_of_verdicts_is_what_it_may_be():
    assert [rate for rate in verdicts.rates(10 * REPLICATES) if not rate.holds] == []
