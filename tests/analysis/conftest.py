from __future__ import annotations

from dataclasses import replace

import pytest

from analysis.runs.load import load_study
from analysis.runs.study import StudyData
from tests.analysis import planted

SMALL = planted.Plan(
    sizes=("30k", "100k", "330k"), seeds=3, rates=(1.0, 0.25), trunk_regularizers=("none",),
    branch_regularizers=("none", "weight-decay-0.1"), payloads=("fixed",), noise=0.05,
)  # fmt: skip
"""Enough for every figure and check, and fast to load."""
TINY = replace(SMALL, sizes=("30k",), seeds=1, rates=(1.0,), branch_regularizers=("none",), arms=("equal-exposure",))
"""The fewest trials that make a sweep."""


@pytest.fixture(scope="session")
def small_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return planted.write(tmp_path_factory.mktemp("small"), SMALL)


@pytest.fixture(scope="session")
def small(small_uri: str) -> StudyData:
    return load_study(small_uri, SMALL.study)


@pytest.fixture(scope="session")
def rough(tmp_path_factory: pytest.TempPathFactory) -> StudyData:
    """As from a demo: two noisy seeds, one trunk not implanted, half-lives beyond the end."""
    plan = replace(SMALL, seeds=2, noise=0.3, gamma=0.9, branch_steps=100, never_implanted=(("100k", 1),))
    return load_study(planted.write(tmp_path_factory.mktemp("rough"), plan), plan.study)


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> StudyData:
    """The size of the laptop preset: 300 trials, five sizes over a decade, five seeds."""
    return load_study(planted.write(tmp_path_factory.mktemp("full")), planted.Plan().study)
