"""Readings of attributions: planted numbers come back under their items; a positive control that fails is told."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from analysis.answers.derived import READINGS
from analysis.checks.attribution import attribution_checks
from analysis.gallery.generated_attributions import ALIGNED, attributions
from analysis.interpret.attribution import latents
from analysis.runs.study import POINTS, StudyData


@pytest.fixture(scope="module")
def data() -> StudyData:
    return attributions()


def with_points(data: StudyData, points: dict[str, float]) -> StudyData:
    rows = [("treatment 0", "attribution", 0, name, value) for name, value in points.items()]
    return replace(data, points=pl.DataFrame(rows, schema=POINTS, orient="row"))


def test_alignments_are_read_by_dictionary_loss_way_and_score(data: StudyData) -> None:
    names = {
        "d0.dot.active/alignment": 0.5,
        "d0.kl.change/alignment_raw": 0.2,
        "d1.dot.everywhere/alignment_single": 0.1,
    }
    found = READINGS["feature_alignment"](with_points(data, names | {"d0.dot.active/reliability": 0.9}))
    rows = set(found.select("dictionary", "loss", "way", "score", "value").iter_rows())
    assert rows == {
        ("d0", "dot", "active", "cosine", 0.5), ("d0", "kl", "change", "raw", 0.2),
        ("d1", "dot", "everywhere", "one text", 0.1),
    }  # fmt: skip


def test_edits_are_read_beside_matched_features_and_the_mean_difference(data: StudyData) -> None:
    names = {"d0.dot.active.5/explained": 0.5, "d0.dot.active.5/explained_random": 0.1,
             "d0.dot.active.5/undone": 0.4, "mean-difference/explained": 0.3}  # fmt: skip
    found = READINGS["feature_edits"](with_points(data, names))
    rows = set(found.select("features", "compared", "made", "value").iter_rows())
    assert rows == {
        (5, "attributed", "reproduced", 0.5), (5, "matched", "reproduced", 0.1), (5, "attributed", "undone", 0.4),
        (5, "mean difference", "reproduced", 0.3),
    }  # fmt: skip


def test_scores_of_features_are_read_from_summaries(data: StudyData) -> None:
    found = latents(data).join(data.trials.select("trial", "role"), on="trial")
    for role, aligned in ALIGNED.items():
        part = found.filter(pl.col("role") == role)
        assert part.select(pl.corr("score", "truth")).item() == pytest.approx(aligned, abs=0.25)


@pytest.mark.parametrize(("share", "passed"), [(1.0, True), (0.5, False)])
def test_planted_features_that_are_not_found_leave_the_runs_not_valid(
    data: StudyData, share: float, passed: bool
) -> None:
    (check,) = attribution_checks(with_points(data, {"planted.active/first": share, "planted.everywhere/first": 1.0}))
    assert check.required
    assert check.passed is passed
    assert f"{share:.0%}" in check.found
    assert attribution_checks(data) == []
