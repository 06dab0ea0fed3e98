from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from analysis.__main__ import main
from analysis.answers.judging import answers
from analysis.answers.questions import Answer
from analysis.answers.sentences import sentence
from analysis.answers.write import document, lines, table, write_answers
from analysis.decay.numbers import reference_times
from analysis.decay.retention import retention_curves
from analysis.errors import UserError
from analysis.stats.scaling import by_size, slope
from analysis.stats.verdicts import Verdict
from halflife.tracking import schema
from halflife.tracking.questions import (
    Against,
    Association,
    Contrast,
    Crossing,
    Curve,
    Decay,
    Frontier,
    Mean,
    Quantity,
    Question,
    Trend,
)
from tests.analysis import planted
from tests.analysis.answers.made import study
from tests.analysis.conftest import SMALL

SIZES = (1000, 2000, 4000, 8000)
GLOW = Quantity(name="glow", label="the glow of the probe", measure="lamp/glow/lumens", unit="lm")
"""A quantity that nobody foresaw: nothing in analysis knows its phase, task or measure."""
TIME = Quantity(name="time", label="the time to dim", measure="lamp/glow/lumens", unit="tokens", transform="log",
                moment=Crossing(threshold=0.5))  # fmt: skip
UP = Trend(name="up", label="Does size raise the glow?", quantity="glow", axis="parameters")
WAYS = Contrast(name="ways", label="Is b brighter than a?", quantity="glow", axis="way", high="b", low="a")


def lamps(
    questions, *, slope=0.0, effect=0.0, noise=0.05, seeds=8, sizes=SIZES, quantities=(GLOW, TIME), drop=(), items=(),
    **changes,
):  # fmt: skip
    """The glow is 1 + slope ln N + effect of way b + noise of the seed (shared by all its trials) and of the trial."""
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 1.0, seeds)
    trials = [
        {"parameters": n, "seed": seed, "way": way, "own": float(rng.normal(0, noise))}
        for seed in range(seeds) for n in sizes for way in ("a", "b")
    ]  # fmt: skip

    def curves(row):
        if (row["parameters"], row["seed"], row["way"]) in drop:
            return {}
        level = (
            1 + slope * math.log(row["parameters"]) + effect * (row["way"] == "b") + shared[row["seed"]] + row["own"]
        )
        return {"lamp/glow/lumens": [(0, 0.0), (100, level)]}

    data = study(trials, curves, quantities, questions, **changes)
    return replace(data, parameters=tuple(name for name in data.parameters if name != "own"))


def answer(question: Question, **changes: Any) -> Answer:
    return answers(lamps([question], **changes))[0]


def judged(found: Answer) -> Verdict:
    assert found.verdict is not None
    return found.verdict


def interval(found: Answer) -> Any:
    """Of the verdict; Any, as the ends may be None."""
    return judged(found).interval


def test_a_planted_slope_is_found():
    found = answer(UP, slope=0.3)
    assert found.word == "effect"
    assert interval(found).contains(0.3)
    assert interval(found).count == 8


def test_a_contrast_is_paired_by_seed_and_size():
    """Seeds differ by twenty times the effect: unpaired, nothing would be seen."""
    found = answer(WAYS, effect=0.1, slope=0.5)
    assert found.word == "effect"
    assert interval(found).contains(0.1)
    assert interval(found).high - interval(found).low < 0.1


def test_no_effect_is_equivalent_within_a_margin_or_undecided_without():
    null = answer(replace(WAYS, margin=0.1, reason="a tenth of a lumen is not seen"))
    assert null.word == "equivalent"
    assert answer(WAYS).word == "undecided"
    unclear = answer(replace(WAYS, margin=0.01, reason="r"))
    assert unclear.word == "undecided"
    assert "To settle it with probability 0.8 takes" in sentence(unclear, lamps([]))


def test_a_null_is_called_an_effect_in_one_of_twenty_studies():
    rng, found = np.random.default_rng(5), 0
    trials = [{"seed": seed, "way": way} for seed in range(5) for way in ("a", "b")]
    for _ in range(60):
        data = study(trials, lambda row: {"lamp/glow/lumens": [(0, float(rng.normal()))]}, [GLOW], [WAYS])
        found += answers(data)[0].word == "effect"
    assert 1 <= found <= 8


def test_roles_are_compared_at_the_same_seed_and_size():
    question = replace(WAYS, axis="role", high="treatment", low="absent")
    trials = [{"role": role, "seed": seed, "parameters": n}
              for seed in range(5) for n in SIZES for role in ("treatment", "absent")]  # fmt: skip
    data = study(
        trials,
        lambda row: {"lamp/glow/lumens": [(0, row["seed"] + row["parameters"] + 2.0 * (row["role"] == "treatment"))]},
        [GLOW], [question],
    )  # fmt: skip
    assert interval(answers(data)[0]).estimate == pytest.approx(2.0)


def test_settings_are_kept_apart_by_the_declared_axes():
    """`steps` differs with the size within each setting, and is no axis: settings match across sizes all the same."""
    trials = [
        {"parameters": n, "seed": seed, "pair": pair, "steps": n * pair}
        for n in SIZES for seed in range(5) for pair in (1, 2)
    ]  # fmt: skip
    rng = np.random.default_rng(4)
    data = study(
        trials,
        lambda row: {"lamp/glow/lumens": [(0, 0.3 * math.log(row["parameters"]) + row["pair"] + rng.normal(0, 0.01))]},
        [GLOW], [UP],
    )  # fmt: skip
    axes = tuple(axis for axis in data.declaration.axes if axis.name != "steps")
    found = answers(replace(data, declaration=replace(data.declaration, axes=axes)))[0]
    assert interval(found).contains(0.3)


def test_a_value_is_found_as_the_column_holds_it():
    """Parameters are logged as text and typed on reading: "12" becomes 12, and True stays True."""
    trials = [{"seed": seed, "way": way, "code": 12, "on": on}
              for seed in range(5) for way in ("a", "b") for on in (True, False)]  # fmt: skip
    question = replace(WAYS, where={"code": "12", "on": True})
    data = study(trials, lambda row: {"lamp/glow/lumens": [(0, row["seed"] + (row["way"] == "b"))]}, [GLOW], [question])
    assert interval(answers(data)[0]).estimate == pytest.approx(1.0)
    assert answers(data)[0].trials == 10


def test_a_missing_trial_is_told_and_its_seed_gives_no_estimate():
    found = answer(UP, slope=0.3, drop={(1000, 2, "a")})
    assert interval(found).count == 7
    assert found.estimates is not None
    assert math.isnan(found.estimates.values[2])
    assert found.missing == {"lamp/glow/lumens was not measured": 1}
    text = sentence(found, lamps([UP]))
    assert "1 of 64 trials have no number (lamp/glow/lumens was not measured: 1)" in text


def test_pilot_seeds_are_left_out_and_named():
    data = lamps([UP], slope=0.3, pilot_seeds=(0, 1))
    assert interval(answers(data)[0]).count == 6
    estimates = answers(data)[0].estimates
    assert estimates is not None
    assert estimates.seeds == [2, 3, 4, 5, 6, 7]
    assert "pilot 2 seeds left out: 0, 1" in lines(data)[-1]


def times(censored):
    """ln T = ln 50 + 0.5 ln (N / 1000) exactly, with the noise of the seed; runs end at 1000 tokens, or at 140."""
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 0.1, 6)

    def curves(row):
        half = 50 * (row["parameters"] / 1000) ** 0.5 * math.exp(noise[row["seed"]])
        ends = 140 if censored else 1000
        at = np.unique(np.geomspace(1, ends, 120).round())
        return {"lamp/glow/lumens": [(int(step), float(2.0 ** (-step / half))) for step in [0, *at]]}

    trials = [{"parameters": n, "seed": seed} for seed in range(6) for n in SIZES]
    question = Trend(name="g", label="Does size slow the dimming?", quantity="time", axis="parameters")
    return study(trials, curves, [TIME], [question])


@pytest.mark.parametrize("censored", [False, True])
def test_a_planted_exponent_of_a_time_is_found_with_a_fifth_censored(censored):
    found = answers(times(censored))[0]
    assert (found.censored > 0) is censored
    assert found.word == "effect"
    assert interval(found).contains(0.5)
    text = sentence(found, times(censored))
    assert "the time to dim goes as parameters to the power 0.5" in text
    assert ("values are censored" in text) is censored


def test_a_contrast_of_times_bounds_what_is_censored():
    """With way b the time is three times that with a, and one of eight runs with b never gets there."""
    rng = np.random.default_rng(1)
    spread = rng.normal(0, 0.05, 8)

    def curves(row):
        half = 30 * (3 if row["way"] == "b" else 1) * math.exp(spread[row["seed"]] * (row["way"] == "b"))
        ends = 60 if row["seed"] == 4 else 300
        return {"lamp/glow/lumens": [(step, float(2.0 ** (-step / half))) for step in range(0, ends + 1, 2)]}

    trials = [{"seed": seed, "way": way} for seed in range(8) for way in ("a", "b")]
    found = answers(study(trials, curves, [TIME], [replace(WAYS, quantity="time")]))[0]
    assert found.censored == 1
    assert found.word == "effect"
    assert interval(found).contains(math.log(3))
    assert interval(found).count == 8
    text = sentence(found, lamps([]))
    assert "times that with way a" in text
    assert "1 of 16 values are censored" in text


def test_a_curve_tells_where_it_reaches_a_threshold_and_where_it_saturates():
    """Level 1 - 2 ** -k over k = 0 to 8: reaches 0.75 at 2, and within a tenth of the whole at about 3.3."""
    trials = [{"seed": seed, "k": k} for seed in range(5) for k in range(9)]
    question = Curve(name="c", label="How much is enough?", quantity="glow", axis="k", threshold=0.75)
    data = study(
        trials, lambda row: {"lamp/glow/lumens": [(0, 1 - 2.0 ** -row["k"] + 1e-3 * row["seed"])]}, [GLOW], [question]
    )
    found = answers(data)[0]
    assert interval(found).estimate == pytest.approx(1 - 2**-8)
    assert found.further["threshold"].estimate == pytest.approx(2.0, abs=0.05)
    assert found.further["saturation"].estimate == pytest.approx(3.3, abs=0.2)
    assert "the threshold is reached at 1.99 [" in sentence(found, data)
    lacking = replace(data, points=data.points.filter(pl.col("trial") != "t4"))
    assert answers(lacking)[0].further["threshold"].count == 4


def association(seeds):
    other = replace(GLOW, name="heat", label="the heat", measure="lamp/heat/kelvin")
    question = Association(name="a", label="Are bright ones hot?", quantity="glow", other="heat", items="lamp")
    rng = np.random.default_rng(2)
    trials = [{"seed": seed, "lamp": lamp} for seed in range(seeds) for lamp in "abcdefgh"]

    def curves(row):
        level = float(ord(row["lamp"]))
        return {"lamp/glow/lumens": [(0, level + rng.normal())], "lamp/heat/kelvin": [(0, level + rng.normal())]}

    return study(trials, curves, [GLOW, other], [question])


def test_an_association_over_items_is_one_correlation_per_seed_from_five_seeds_on():
    found = answers(association(6))[0]
    assert found.word == "effect"
    assert 0.5 < interval(found).estimate < 1
    few = answers(association(4))[0]
    assert (few.word, few.verdict) == ("undecided", None)
    assert "5 or more" in sentence(few, association(4))


def test_a_frontier_is_told_without_a_verdict():
    other = replace(GLOW, name="heat", label="the heat", measure="lamp/heat/kelvin")
    question = Frontier(
        name="f", label="Which lamp?", quantity="glow", other="heat", axis="lamp", better=("high", "low")
    )
    levels = {"a": (1.0, 1.0), "b": (2.0, 2.0), "c": (1.5, 3.0)}  # c is beaten by b

    def curves(row):
        glow, heat = levels[row["lamp"]]
        return {"lamp/glow/lumens": [(0, glow)], "lamp/heat/kelvin": [(0, heat)]}

    data = study([{"seed": s, "lamp": lamp} for s in range(2) for lamp in levels], curves, [GLOW, other], [question])
    found = answers(data)[0]
    assert (found.word, found.further["frontier"]) == ("reported", ["a", "b"])
    assert "no other setting beats lamp a and b in both the glow of the probe and the heat" in sentence(found, data)


def test_primaries_share_one_error_rate_and_the_others_do_not():
    asked = [replace(UP, name=f"p{i}", primary=True) for i in range(3)] + [replace(UP, name="alone")]
    found = answers(lamps(asked, slope=0.3))
    assert [judged(each).family for each in found] == [3, 3, 3, 1]
    wide, narrow = (interval(found[i]) for i in (0, 3))
    assert wide.high - wide.low > narrow.high - narrow.low
    text = lines(lamps(asked, slope=0.3))
    assert "These 3 share an error rate of 5%" in text[3]
    assert text[4] == "Exploratory, 1 looked at, not corrected for that:"


def test_a_primary_that_cannot_be_answered_yet_keeps_its_share_of_the_error_rate():
    asked = [replace(UP, name="p", primary=True), replace(UP, name="q", primary=True, axis="nothing")]
    one, other = answers(lamps(asked, slope=0.3))
    assert (judged(one).family, other.word) == (2, "undecided")
    assert "no trial has 'nothing'" in sentence(other, lamps(asked))


def test_a_margin_has_no_sign_and_a_lower_value_is_called_lower():
    found = answer(replace(WAYS, margin=0.5, reason="r"), effect=-0.2)
    text = sentence(found, lamps([]))
    assert "Effect, smaller than the margin: the glow of the probe is 0.1" in text
    assert "lm lower with way b than with way a over 8 seeds (margin ±0.5; p = 3.2e-07)" in text


def test_before_the_first_look_there_is_an_estimate_and_no_interval():
    found = answer(UP, slope=0.3, seeds=4, looks=(5, 8))
    assert (found.word, interval(found).low) == ("undecided", None)
    assert "(no interval)" in sentence(found, lamps([UP]))
    said = sentence(found, lamps([UP]))
    assert "? No verdict yet: " in said
    assert "no verdict before 5 seeds" in said
    assert judged(answer(UP, slope=0.3, seeds=6, looks=(5, 8))).look == 5


def test_a_prediction_is_compared_with_what_came():
    said = [
        sentence(answer(replace(UP, prediction=prediction), slope=0.3), lamps([UP]))
        for prediction in ("positive", "negative")
    ]
    assert said[0].endswith("As predicted.")
    assert said[1].endswith("The prediction was negative.")


def test_a_decay_says_what_the_decay_room_says(small):
    decay = Decay(name="d", label="How long does it last?", outcome="attack")
    data = replace(small, declaration=replace(small.declaration, questions=(decay,)))
    found = answers(data)[0]
    assert set(found.further) >= {
        "half-life by log-probability at 30k",
        "half-life by log-probability at 330k",
        "savings of old-old",
    }
    text = sentence(found, data)
    assert "3 of 9 trials have no number (retention has not settled: 3)" in text
    assert "half-life by log-probability at 100k " in text
    assert "the level at which the backdoor settles cannot be estimated, because no seed has all its numbers" in text
    known = by_size(reference_times(retention_curves(small))).filter(pl.col("size") == "100k").row(0, named=True)
    half = found.further["half-life by log-probability at 100k"]
    assert (half.estimate, half.low, half.high) == (known["estimate"], known["low"], known["high"])
    without = replace(data, declaration=replace(data.declaration, pilot_seeds=(0,)))
    assert answers(without)[0].further["half-life by log-probability at 100k"].count == half.count - 1


def test_the_exponent_of_the_half_life_is_that_of_the_report(small):
    """The declared question over `parameters` gives the slope of analysis.stats.scaling, at the reference setting."""
    quantity = Quantity(
        name="t", label="the half-life", measure="branch/backdoor/logprob", transform="log",
        moment=Crossing(threshold=0.5), against=Against(role="absent", how="retention"),
    )  # fmt: skip
    where = {"arm": "equal-exposure", "learning_rate": 1.0, "branch_regularizer": "none"}
    gamma = Trend(name="g", label="Does size slow it?", quantity="t", axis="parameters", where=where)
    data = replace(small, declaration=replace(small.declaration, quantities=(quantity,), questions=(gamma,)))
    found, known = interval(answers(data)[0]), slope(reference_times(retention_curves(small))).interval
    assert known is not None
    assert (found.estimate, found.low, found.high) == pytest.approx((known.estimate, known.low, known.high))


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (replace(UP, quantity="glowe"), "no quantity 'glowe' is declared, did you mean glow?"),
        (replace(UP, axis="parameter"), "no trial has 'parameter', did you mean parameters?"),
        (replace(UP, where={"way": "c"}), "no trial has way = 'c': expected one of a, b"),
        (replace(WAYS, low="c"), "no trial has way = 'c': expected one of a, b"),
    ],
)
def test_what_cannot_be_answered_is_undecided_with_the_reason(question, said):
    found = answer(question)
    assert (found.word, found.verdict) == ("undecided", None)
    assert said in sentence(found, lamps([]))


def every_kind() -> list[Question]:
    return [
        replace(UP, primary=True, margin=0.05, reason="r", prediction="positive"), WAYS,
        Curve(name="c", label="How much is enough?", quantity="glow", axis="parameters", threshold=2.0),
        Frontier(name="f", label="Which?", quantity="glow", other="time", axis="way"),
        replace(UP, name="x", axis="nothing"),
    ]  # fmt: skip


def test_interval_and_margin_are_in_every_sentence_with_a_verdict():
    data = lamps(every_kind(), slope=0.3)
    for found in answers(data):
        text = sentence(found, data)
        assert text.startswith(found.question.label)
        assert "\n" not in text
        if found.verdict is not None:
            assert "[" in text
            assert "margin" in text


def test_the_files_hold_the_same_answers_as_the_sentences(tmp_path):
    data = lamps(every_kind(), slope=0.3)
    paths = write_answers(data, tmp_path / "new")
    written = json.loads(paths[0].read_text())
    assert written == document(data)
    assert written["digest"] == data.declaration.digest
    rows = pl.read_csv(paths[1])
    assert (
        rows["sentence"].to_list()
        == [each["sentence"] for each in written["questions"]]
        == table(data)["sentence"].to_list()
    )
    assert all(each["sentence"] in lines(data) for each in written["questions"])
    first = written["questions"][0]
    assert (first["verdict"], first["margin"], first["seeds"], len(first["estimates"])) == ("effect", 0.05, 8, 8)
    assert first["low"] <= first["estimate"] <= first["high"]


def test_a_study_without_questions_is_one_line(tmp_path):
    with pytest.raises(UserError, match="declares no questions"):
        write_answers(lamps([]), tmp_path)


def test_the_command_prints_the_sentences_and_writes_the_files(tmp_path, capsys, monkeypatch):
    quantity = Quantity(name="kept", label="the retention", measure="branch/backdoor/logprob", moment=Mean(),
                        against=Against(role="absent", how="retention"))  # fmt: skip
    question = Contrast(name="rate", label="Does a slower branch keep more?", quantity="kept", axis="learning_rate",
                        high=0.25, low=1.0)  # fmt: skip
    asked = replace(planted.declaration(SMALL), quantities=(quantity,), questions=(question,))
    monkeypatch.setattr(planted, "declaration", lambda plan: asked)
    uri = planted.write(tmp_path / "runs", SMALL)
    main(["answers", SMALL.study, "--tracking-uri", uri, "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "Does a slower branch keep more? Effect: the retention is" in printed
    assert "higher with branch rate 0.25 than with branch rate 1.0 over 3 seeds" in printed
    written = json.loads((tmp_path / "out" / "answers.json").read_text())
    assert written["questions"][0]["sentence"] in printed
    assert written["declared"].startswith("2025-06-15")
    assert schema.Declaration.from_json(asked.to_json()) == asked


def test_questions_that_were_declared_when_the_sweep_had_begun_are_said_to_be():
    data = lamps([UP])
    begun = datetime.fromtimestamp(data.sweep.started / 1000, UTC)
    for after, said in ((-5, False), (0, False), (3600, True)):
        time = (begun + timedelta(seconds=after)).isoformat(timespec="seconds")
        asked = replace(data, declaration=replace(data.declaration, declared=time))
        assert lines(asked)[-1].startswith("The sweep began before that") == said


def test_settings_without_the_phase_do_not_keep_a_treatment_from_its_control():
    """Only the reference is relearned from; the control has no dose."""
    rng = np.random.default_rng(0)
    kinds = (("treatment", 250, "s1"), ("treatment", 1000, None), ("absent", 0, "s2"))
    trials = [
        {"parameters": 1000, "seed": seed, "role": role, "documents": dose, "stage_lamp": stage}
        for seed in range(6) for role, dose, stage in kinds
    ]  # fmt: skip
    levels = {"treatment": 2.0, "absent": 1.0}

    def curves(row):
        level = levels[row["role"]] + rng.normal(0, 0.01)
        return {"lamp/glow/lumens": [(0, 0.0), (100, level)]} if row["stage_lamp"] else {}

    asked = Contrast(name="roles", label="?", quantity="glow", high="treatment", low="absent")
    data = study(trials, curves, [GLOW], [asked])
    found = answers(replace(data, parameters=("parameters", "seed", "documents")))[0]
    assert found.word == "effect"
    assert interval(found).contains(1.0)
    assert (found.trials, found.missing) == (12, {})
