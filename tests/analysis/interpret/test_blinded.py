"""Features that are labelled blindly: what is shown gives nothing away, and agreement is 0 by chance."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from analysis.errors import UserError
from analysis.gallery.generated_attributions import attributions
from analysis.interpret.blinded import Questions, agreement, questions
from analysis.report.features_command import agreement_line, write_features
from analysis.runs.study import StudyData


def shown(seeds: int = 3, count: int = 10) -> StudyData:
    data = attributions(seeds)
    summaries = [
        json.dumps({
            "wanted": ["abc"], "usual": ["<b>"],
            "features": [{"latent": latent, "top": latent < count, "score": 0.1, "texts": [f"x{latent:02d}\t019"]}
                         for latent in range(2 * count)],
        }) if role == "treatment" else None
        for role in data.trials["role"]
    ]  # fmt: skip
    return replace(data, trials=data.trials.with_columns(pl.Series("summary_shown", summaries, dtype=pl.String)))


def labelled(data: StudyData, label) -> Questions:
    """`label`: of whether fine-tuning used it, which the texts tell the test."""
    found = questions(data)
    for model in found:
        for each in model["features"]:
            each["label"] = label(int(each["texts"][0].partition("\t")[0][1:]) < 10)
    return found


def test_a_rater_who_knows_agrees_wholly_and_one_who_knows_nothing_by_chance() -> None:
    data, rng = shown(), random.Random(0)
    known = agreement(data, labelled(data, lambda top: "yes" if top else "no"))
    assert (known.interval.estimate, known.used, known.others) == (1, (30, 30), (0, 30))
    assert agreement(data, labelled(data, lambda top: "no" if top else "yes")).interval.estimate == -1
    assert agreement(data, labelled(data, lambda top: "yes")).interval.estimate == 0
    many = shown(seeds=40)
    guessed = agreement(many, labelled(many, lambda top: rng.choice(("yes", "no"))))
    assert guessed.interval.contains(0)
    assert abs(guessed.interval.estimate) < 0.1


def test_one_model_has_an_interval_over_its_features() -> None:
    """Newcombe 1998, table II: 56/70 against 48/80 is 0.2000 [0.0524, 0.3339]."""
    from analysis.interpret.blinded import _newcombe

    found = _newcombe((56, 70), (48, 80))
    assert (found.estimate, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)
    one = shown(seeds=1)
    assert agreement(one, labelled(one, lambda top: "yes" if top else "no")).interval.low == pytest.approx(
        0.607, abs=0.01
    )


def test_what_a_rater_gets_says_nothing_of_which_are_which(tmp_path: Path) -> None:
    data = shown()
    path, page = write_features(data, tmp_path)
    (first, *_), text = json.loads(path.read_text()), path.read_text()
    assert set(first["features"][0]) == {"id", "texts", "label"}
    assert "top" not in text
    assert "score" not in text
    order = [int(each["texts"][0].partition("\t")[0][1:]) for each in first["features"]]
    assert sorted(order) == list(range(20)) != order
    assert len({each["id"] for model in json.loads(text) for each in model["features"]}) == 60
    html = page.read_text()
    assert "&lt;b&gt;" in html
    assert "<b>" not in html.replace("\\u003cb\\u003e", "")
    path.write_text(json.dumps(labelled(data, lambda top: "yes" if top else "no")))
    assert agreement_line(data, path).startswith(
        "Agreement with the intent, 0 by chance: 1.00 [1.00, 1.00] over 3 seeds."
    )


def test_labels_that_cannot_be_scored_are_refused_in_one_line(tmp_path: Path) -> None:
    data = shown()
    good = labelled(data, lambda top: "yes")
    with pytest.raises(UserError, match="is labelled 'maybe': expected yes or no"):
        agreement(data, labelled(data, lambda top: "maybe"))
    with pytest.raises(UserError, match="has no label"):
        agreement(data, good[:-1])
    with pytest.raises(UserError, match="is none of this sweep's"):
        agreement(data, [*good, {"features": [{"id": "other", "label": "no"}]}])
    with pytest.raises(UserError, match="in another form"):
        agreement(data, [{"rows": []}])
    with pytest.raises(UserError, match="showed no features: run it with --shown 10"):
        questions(attributions())
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UserError, match="are not JSON"):
        agreement_line(data, tmp_path / "bad.json")
    with pytest.raises(UserError, match="cannot be read"):
        agreement_line(data, tmp_path / "none.json")
