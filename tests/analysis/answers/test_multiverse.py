from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from analysis.answers.judging import answers
from analysis.answers.leading import leading_trend, quantities, times
from analysis.answers.multiverse import SPECIFICATIONS, multiverse
from analysis.gallery import generated
from analysis.gallery.page import _dosed, _overlap
from analysis.runs.study import StudyData


@pytest.fixture(scope="module")
def dosed() -> StudyData:
    return _dosed()


@pytest.fixture(scope="module")
def found(dosed: StudyData) -> pl.DataFrame:
    return multiverse(dosed)


def estimate(data: StudyData) -> float:
    """The first question's own, over all five seeds."""
    own = answers(data)[0].estimates
    assert own is not None
    found = own.at(5).estimate
    assert found is not None
    return found


def test_the_declared_specification_has_the_questions_own_estimate(dosed, found):
    own = found.filter("declared").to_dicts()
    assert len(own) == 1
    assert own[0]["estimate"] == pytest.approx(estimate(dosed), rel=1e-12)
    assert (own[0]["left_out"], own[0]["threshold"], own[0]["clock"]) == ("nothing", 0.5, "tokens")


def test_the_planted_exponent_lies_in_most_intervals_on_the_planted_clock(found):
    """The half-life's exponent, floor included: at threshold h it is T ln((1 - f) / (h - f)) / ln 2."""
    planted = found.filter(pl.col("clock") == "tokens")
    sizes = ("30k", "60k", "120k", "300k")
    n = np.log([generated.SIZES[size] for size in sizes])
    holds = []
    for row in planted.iter_rows(named=True):
        rest = [generated.floor(size) for size in sizes]
        steps = [generated.log_time(size, {}) + np.log(np.log2((1 - f) / (row["threshold"] - f)))
                 for size, f in zip(sizes, rest, strict=True)]  # fmt: skip
        kept = [
            i for i in range(4) if row["left_out"] != "size" or row["left_out_value"] != str(generated.SIZES[sizes[i]])
        ]
        truth = np.polyfit(n[kept], np.array(steps)[kept], 1)[0]
        holds.append(row["low"] <= truth <= row["high"])
    assert np.mean(holds) > 0.8


def test_every_size_and_every_seed_is_left_out_once_under_each_choice(found):
    one = found.filter((pl.col("clock") == "tokens") & (pl.col("threshold") == 0.6))
    assert one.group_by("left_out").len().sort("left_out").rows() == [("nothing", 1), ("seed", 5), ("size", 4)]
    assert one.filter(pl.col("left_out") == "seed")["seeds"].to_list() == [4] * 5
    assert set(found["threshold"]) == {0.4, 0.5, 0.6}


def test_clocks_that_are_proportional_count_once(found):
    assert set(found["clock"]) == {"tokens", "clock/displacement"}


def test_choices_that_change_nothing_are_left_out(found):
    assert found["span"].unique().to_list() == ["whole"]
    assert found["crossing"].unique().to_list() == ["last"]
    assert found.select(set(SPECIFICATIONS) - {"declared"}).is_duplicated().sum() == 0


def test_censored_values_enter_while_they_are_few(dosed):
    late = next(question for question in dosed.declaration.questions if question.name == "trend_censored")
    data = replace(dosed, declaration=replace(dosed.declaration, questions=(late,)))
    table = multiverse(data)
    own = table.filter("declared").row(0, named=True)
    assert own["censored"] == answers(data)[0].censored > 0
    assert own["estimate"] == pytest.approx(estimate(data), rel=1e-12)
    assert table["estimate"].null_count() > 0  # with the threshold of 0.096 most never get there


def test_without_a_trend_the_half_life_leads_and_without_two_sizes_nothing_does(dosed):
    plain = replace(dosed, declaration=replace(dosed.declaration, questions=(), quantities=()))
    found = leading_trend(plain)
    assert found is not None
    quantity, question = found
    assert (quantity.name, question.axis, question.where["documents"]) == ("half_life", "parameters", 250)
    assert [each.name for each in times(plain)] == [each.name for each in quantities(plain)] == ["half_life"]
    single = replace(plain, trials=plain.trials.filter(pl.col("size") == "30k"))
    assert leading_trend(single) is None
    assert multiverse(single).is_empty()
    assert multiverse(_overlap())["estimate"].null_count() == 0


def test_without_log_probabilities_the_half_life_is_that_of_success(dosed):
    bare = replace(dosed.declaration, questions=(), quantities=())
    counts = dosed.points.filter(~pl.col("name").str.ends_with("logprob"))
    [quantity] = times(replace(dosed, points=counts, declaration=bare))
    assert quantity.measure == "branch/backdoor/hits"
    assert multiverse(replace(dosed, points=counts, declaration=bare)).filter("declared")["estimate"][0] > 0
