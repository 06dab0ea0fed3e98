"""Fixtures of pages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package", autouse=True)
def plain_pages() -> Iterator[None]:
    """Pages without the explanations of terms, which would stand between the words that tests look for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("analysis.report.rendering.explained", lambda page: page)
        yield
