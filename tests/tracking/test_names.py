from __future__ import annotations

import pytest
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import _validate_metric_name, _validate_param, _validate_tag

from halflife.tracking.names import LONGEST, accepted, is_folder, renamed

GOOD = ["loss", "a/b", "30k · x".replace(" · ", " - "), "β₂", "学习率", "a:b", "k4-start_0.5", "x" * LONGEST]
BAD = [
    "",
    " / ",
    "clean@32",
    "β₂ (Adam's)",
    "a//b",
    "a/",
    "/a",
    "..",
    ".",
    "../a",
    "a/../b",
    "50%",
    "a,b",
    "a=1",
    "a·b",
]


@pytest.mark.parametrize("name", [*GOOD, *BAD, "x" * (LONGEST + 1)])
def test_a_name_is_accepted_if_and_only_if_mlflow_stores_it(name: str):
    for mlflow in (
        lambda: _validate_metric_name(name),
        lambda: _validate_param(name, ""),
        lambda: _validate_tag(name, ""),
    ):
        try:
            mlflow()
            stored = len(name) <= LONGEST  # of a metric MLflow checks the length elsewhere
        except MlflowException:
            stored = False
        assert accepted(name) == stored


@pytest.mark.parametrize("name", BAD)
def test_the_name_that_is_suggested_is_accepted(name: str):
    assert accepted(renamed(name), room=50)
    assert is_folder(renamed(name))


@pytest.mark.parametrize(("name", "good"), [("a@b", True), ("β₂ 1", True), ("", False), ("../a", False), ("/a", False),
                                            ("a\nb", False), (" a", False), ("x" * 300, False)])  # fmt: skip
def test_the_name_of_a_study_names_a_folder_below_its_parent(name: str, good: bool):
    assert is_folder(name) == good
