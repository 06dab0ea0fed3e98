from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder in which corpora are prepared once for all studies."""
    return tmp_path_factory.mktemp("results")
