from __future__ import annotations

import pytest

from analysis.gallery import generated_prompts
from analysis.runs.study import StudyData


@pytest.fixture(scope="session")
def study() -> StudyData:
    """Generated soft prompts with their fragilities, bits and searches."""
    return generated_prompts.prompts()
