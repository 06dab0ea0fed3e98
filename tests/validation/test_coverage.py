"""Planted truths lie in the 95 % intervals, in 200 replicates with fixed seeds: `make validate` does the full table."""

from __future__ import annotations

import pytest

from tests.validation import decay, scaling, seeds
from tests.validation.cells import CI, Cell

REPLICATES = 200


def wrong(cells: list[Cell]) -> list[str]:
    """Cells beyond what 200 replicates of an honest interval can show; one that is unbounded may cover always."""
    low, high = CI
    return [
        f"{c.law}, {c.design}, {c.quantity}: {c.coverage:.3f}"
        for c in cells
        if not low <= c.coverage <= (high if c.identified else 1.0)
    ]


@pytest.mark.parametrize("part", [seeds.gamma_from_crossings, seeds.curves_over_seeds, seeds.joint_laws])
def test_intervals_over_seeds_hold_the_planted_truth(part):
    assert wrong(part(REPLICATES)) == []


@pytest.mark.slow
@pytest.mark.parametrize("part", [decay, scaling, seeds])
def test_every_cell_of_the_table_holds_the_planted_truth(part):
    assert wrong(part.cells(REPLICATES)) == []
