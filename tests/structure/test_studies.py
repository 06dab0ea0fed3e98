"""A study is one file that a stranger can read: it imports no other study, and is not long."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.structure.test_imports import graph

STUDIES = sorted((Path(__file__).parents[2] / "studies").glob("*.py"))
LONGEST = 300


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_is_one_file_of_at_most_300_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST
    assert "main(build, PRESETS" in path.read_text(encoding="utf-8")  # a study, not a part of one


def test_a_study_imports_halflife_and_formulas_of_analysis_and_no_other_study() -> None:
    edges = {name: targets for name, targets in graph().items() if name.startswith("studies.")}
    assert len(edges) == len(STUDIES)
    other = {
        (name, target) for name, targets in edges.items() for target in targets if not target.startswith("halflife.")
    }
    assert {target for _, target in other} <= {"analysis.decay.formulas"}
