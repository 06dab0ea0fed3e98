"""What the figures of questions show is what their answers say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from matplotlib.figure import Figure

from analysis.answers.judging import answers
from analysis.answers.questions import Answer
from analysis.errors import UserError
from analysis.figures import asked, drawn, style
from analysis.figures.asked_titles import title
from analysis.figures.points import over_seeds
from analysis.figures.scale import scale_of
from analysis.gallery.page import asked as generated_questions
from analysis.runs.study import StudyData
from halflife.tracking.questions import Against, Contrast, Crossing, Quantity, Trend
from tests.analysis.answers.made import study

GENERATED = {figure.name: (figure.answer, data) for figure, data, _ in generated_questions()}
TIME = Quantity(name="time", label="the time", measure="branch/task/level", moment=Crossing(threshold=0.5),
                transform="log", unit="tokens")  # fmt: skip
SIZES = (10, 100, 1000)


def times(changes: dict[tuple[int, int], float], **fields: Any) -> StudyData:
    """Two seeds whose time is the size, or what `changes` gives for (seed, size); the phase ends at 2000 tokens."""

    def curves(row: dict[str, Any]) -> dict[str, list[tuple[int, float]]]:
        time = changes.get((row["seed"], row["parameters"]), row["parameters"])
        time *= row.get("factor", 1.0)
        end = [(2 * 10**6, 0.0)] if time < 2000 else []
        return {"branch/task/level": [(0, 1.0), (math.floor(time * 1000 - 1), 0.5), *end]}

    trials = fields.pop("trials", [{"seed": seed, "parameters": size} for seed in (0, 1) for size in SIZES])
    return study(trials, curves, [TIME], **fields)


def estimates(answer: Answer) -> np.ndarray:
    assert answer.estimates is not None
    return answer.estimates.values


def trend(data: StudyData) -> pl.DataFrame:
    return asked.table(answers(data)[0], data)


SLOPE = Trend(name="slope", label="Is it slower?", quantity="time", axis="parameters", margin=0.1, reason="small")


def test_a_trend_shows_each_seed_the_means_and_the_lines_of_the_answer():
    data = times({}, questions=[SLOPE])
    table = trend(data)
    seeds, means = (table.filter(pl.col("part") == part) for part in ("seed", "mean"))
    assert seeds.height == 6
    assert means["value"].to_numpy() == pytest.approx(seeds.filter(pl.col("seed") == "0")["value"].to_numpy())
    for line in table.filter(pl.col("part") == "line").partition_by("seed"):
        (x0, y0), (x1, y1) = np.log(line.select("x", "value").to_numpy())
        assert (y1 - y0) / (x1 - x0) == pytest.approx(estimates(answers(data)[0])[0])
    assert title(answers(data)[0]).startswith("exponent 1.0")


def test_a_value_that_was_not_reached_is_a_bound_and_an_arrow():
    data = times({(1, 1000): 5000}, questions=[SLOPE])
    table = trend(data)
    [late] = table.filter((pl.col("part") == "seed") & (pl.col("kind") == "above")).to_dicts()
    assert (late["seed"], late["x"], late["value"]) == ("1", 1000, None)
    figure = asked.draw(table, answers(data)[0], data.declaration)
    arrows = [np.asarray(line.get_xdata()) for line in figure.axes[0].lines if line.get_marker() is style.BEYOND]
    assert [at.round(-3).tolist() for at in arrows if at.size] == [[1000], [1000]]  # the seed, and the mean of both


def test_a_contrast_shows_the_differences_that_the_answer_rests_on():
    arms = [{"seed": seed, "parameters": size, "factor": factor}
            for seed in range(3) for size in SIZES[:2] for factor in (1.0, 0.25)]  # fmt: skip
    question = Contrast(
        name="arms", label="?", quantity="time", axis="factor", high=0.25, low=1.0, margin=0.1, reason="r"
    )
    data = times({(0, 10): 8, (1, 10): 11, (2, 100): 120}, trials=arms, questions=[question])
    [answer] = answers(data)
    table = asked.table(answer, data).filter(pl.col("part") == "difference")
    whole = table.filter(pl.col("size") == "all pairs")
    each = whole.drop_nulls("seed").sort("seed")["value"].to_numpy()
    assert np.log(each) == pytest.approx(estimates(answer))
    [mean] = whole.filter(pl.col("seed").is_null()).to_dicts()
    assert answer.verdict is not None
    found = answer.verdict.interval
    assert found is not None
    assert np.log([mean["value"], mean["low"], mean["high"]]) == pytest.approx([found.estimate, found.low, found.high])
    assert set(table["parameters"].drop_nulls()) == {10, 100}


def test_a_frontier_joins_the_settings_that_the_answer_names():
    answer, data = GENERATED["frontier"]
    table = asked.table(answer, data)
    assert sorted(table.filter("front")["setting"]) == sorted(answer.further["frontier"])
    assert table.height == 6


def test_an_association_shows_every_item_of_every_seed():
    answer, data = GENERATED["association"]
    table = asked.table(answer, data)
    assert table.filter(pl.col("part") == "item").height == 6 * 8
    own = table.filter(pl.col("part") == "correlation").sort("seed")["value"].to_numpy()
    assert own == pytest.approx(estimates(answer))


def test_a_question_is_drawn_by_its_name_and_an_unknown_name_lists_both():
    _, data = GENERATED["association"]
    assert isinstance(drawn("association", data), Figure)
    with pytest.raises(
        UserError,
        match=r"no figure 'asociation', did you mean association\?; figures: retention, .*; questions: association$",
    ):
        drawn("asociation", data)


def test_a_question_without_a_number_has_an_empty_figure_with_its_reason():
    data = study([{"seed": 0, "parameters": 10}], lambda row: {"branch/other/level": [(0, 1.0)]}, [TIME], [SLOPE])
    [answer] = answers(data)
    assert asked.table(answer, data).is_empty()
    with pytest.raises(UserError, match="has nothing to draw as slope"):
        drawn("slope", data)


@pytest.mark.parametrize(
    ("changes", "label", "number", "shown"),
    [
        ({"transform": "log"}, "Time (tokens)", 0.0, 1.0),
        ({"transform": "none"}, "Time (tokens)", 0.3, 0.3),
        ({"transform": "logit", "unit": ""}, "Time", 0.0, 0.5),
        ({"transform": "log", "against": Against(role="absent")}, "Time (ratio)", 0.0, 1.0),
        ({"transform": "log", "against": Against(role="absent", how="retention")}, "Time (tokens)", 0.0, 1.0),
        ({"transform": "none", "against": Against(role="absent", how="ratio")}, "Time (ratio)", 2.0, 2.0),
    ],
)
def test_quantities_are_shown_on_their_own_scale(changes, label, number, shown):
    fields = {"name": "time", "label": "the time", "measure": "branch/task/level", "unit": "tokens", **changes}
    scale = scale_of(Quantity(**fields))
    assert scale.label == label
    assert float(scale.back(np.array(number))) == pytest.approx(shown)
    assert scale.log == (changes["transform"] == "log")


def test_a_mean_of_mostly_censored_seeds_is_a_bound():
    low, high = np.array([1.0, 2.0, 3.0]), np.array([1.0, np.inf, np.inf])
    assert over_seeds(low, high) == {"value": 2.0, "low": None, "high": None, "kind": "above", "seeds": 3}
    assert over_seeds(np.array([-np.inf, 1.0]), np.array([0.0, 1.0]))["kind"] == "below"
    assert over_seeds(np.array([-np.inf, 1.0]), np.array([0.0, np.inf]))["value"] is None
