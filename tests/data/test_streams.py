"""Permutations that are computed where they are read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halflife.data.streams import Shuffle


@given(st.integers(1, 5000), st.integers(0, 2**63 - 1))
def test_a_shuffle_has_every_number_once(count: int, seed: int) -> None:
    assert np.array_equal(np.sort(Shuffle(count, seed)(np.arange(count))), np.arange(count))


@given(st.integers(1, 10**12), st.integers(0, 2**63 - 1), st.lists(st.integers(0, 10**12), min_size=1, max_size=20))
def test_a_place_has_its_number_whatever_else_is_read(count: int, seed: int, places: list[int]) -> None:
    some = np.array(places) % count
    together = Shuffle(count, seed)(some)
    assert ((together >= 0) & (together < count)).all()
    alone = [Shuffle(count, seed)(some[i : i + 1]).item() for i in range(len(some))]
    assert alone == together.tolist()


def test_shuffles_look_random() -> None:
    """Fixed points, correlation with the place, and correlation between seeds are those of random permutations."""
    count, seeds = 10_000, 50
    found = np.stack([Shuffle(count, seed)(np.arange(count)) for seed in range(seeds)])
    assert (found == np.arange(count)).sum() == pytest.approx(seeds, abs=5 * seeds**0.5)
    normed = (np.vstack([np.arange(count), found]) - (count - 1) / 2) / (count / 12**0.5)
    correlations = (normed @ normed.T / count)[np.triu_indices(seeds + 1, 1)]
    assert np.abs(correlations).max() < 5 * count**-0.5
    assert correlations.std() == pytest.approx(count**-0.5, rel=0.15)
    steps = (np.diff(found) % count).ravel()
    spread = np.histogram(steps, 20, (0, count))[0]
    assert np.abs(spread / spread.mean() - 1).max() < 0.03


def test_an_empty_shuffle_is_refused() -> None:
    with pytest.raises(ValueError, match="permutation of 0 numbers"):
        Shuffle(0, 1)
