from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from analysis.decay.retention import half_lives, main_measure, retention_curves
from analysis.report.other_outcomes import outcome_tables, summaries
from analysis.report.page import report_page
from analysis.runs.study import StudyData
from halflife.tracking import schema
from tests.analysis import planted
from tests.analysis.conftest import SMALL

CHANCE = {"30k": 0.1, "100k": 0.25, "330k": 0.5}
CHOICE = schema.Outcome(
    name="choice", label="Forced choice", phase="branch", task="choice", chance=0.9, skill="backdoor", answer="payload"
)
AGAIN = schema.Outcome(name="again", label="The same again", phase="branch", task="backdoor")


@pytest.fixture(scope="module")
def several(small) -> StudyData:
    """`small` and a forced choice among 1 / chance answers, by size, without a log-probability: its skill above chance
    is that of the attack, so its retention and half-life by success are the planted ones too."""
    here = pl.col("phase") == "branch"
    counts = small.points.filter(here & pl.col("name").is_in(["backdoor/hits", "backdoor/trials"]))
    of = small.trials.select("trial", guess=pl.col("size").replace_strict(CHANCE, return_dtype=pl.Float64))
    wide = counts.pivot(on="name", index=["trial", "phase", "step"], values="value").join(of, on="trial")
    hits = pl.col("backdoor/hits") + pl.col("guess") * (pl.col("backdoor/trials") - pl.col("backdoor/hits"))
    guess = pl.when(pl.col("step") == 0).then("guess")  # a constant is logged once
    index = ["trial", "phase", "step"]
    wide = wide.select(*index, **{"choice/hits": hits, "choice/trials": "backdoor/trials", "choice/chance": guess})
    long = wide.unpivot(index=index, variable_name="name", value_name="value").drop_nulls("value")
    points = pl.concat([small.points, long.select(small.points.columns)])
    outcomes = (*small.declaration.outcomes, CHOICE, AGAIN)
    return replace(small, points=points, declaration=replace(small.declaration, outcomes=outcomes))


def test_chance_is_the_trials_own_where_it_logged_one(several):
    curves = retention_curves(several, CHOICE)
    assert dict(curves.select("size", "chance").unique().iter_rows()) == CHANCE
    assert (retention_curves(several)["chance"] == 0).all()


def test_retention_above_chance_is_that_of_the_same_skill_without_guessing(several):
    first, choice = (
        half_lives(retention_curves(several, outcome)).filter(pl.col("criterion") == "success").drop("outcome")
        for outcome in (several.declaration.outcomes[0], CHOICE)
    )
    assert_frame_equal(first, choice, rel_tol=1e-9)


def test_without_a_log_probability_effects_ratios_and_answer_are_by_success(several):
    choice = next(found for found in summaries(several) if found.outcome == CHOICE)
    assert choice.measure == "success"
    assert choice.ratios is not None
    assert choice.ratios.effects["ratio"].drop_nulls().len() == choice.ratios.effects.height
    assert choice.effects["area"].null_count() == 0
    rate = choice.ratios.effects.filter(pl.col("term") == "learning_rate").row(0, named=True)
    assert rate["coefficient"] == pytest.approx(-0.9, abs=0.1)


def test_an_outcome_that_was_never_measured_is_left_out(several):
    none = schema.Outcome(name="none", label="none", phase="branch", task="none")
    data = replace(several, declaration=replace(several.declaration, outcomes=(AGAIN, none)))
    assert summaries(data) == []
    assert outcome_tables([]) == {}


def test_a_study_of_one_outcome_has_no_others_and_a_main_measure(small):
    assert summaries(small) == []
    assert main_measure(retention_curves(small)) == "logprob"


def test_the_report_leads_with_the_first_outcome_and_summarises_the_others(several, tmp_path, monkeypatch):
    monkeypatch.setattr("analysis.report.panels.rendered", lambda figure, kind: f"<svg>{kind}</svg>".encode())
    for folder in ("figures", "tables"):
        (tmp_path / folder).mkdir()
    html = report_page(several, tmp_path, "sqlite:///nowhere")
    body = html[html.index("<main>") :]
    assert body.index("This study declares no questions") < body.index('id="sizes"') < body.index('id="outcomes"')
    assert "<h3>Forced choice</h3>" in body
    assert "0.25" in body[body.index('id="outcomes"') :]
    for name in ("outcomes", "outcome_effects", "outcome_time_ratios"):
        frame = pl.read_csv(tmp_path / "tables" / f"{name}.csv")
        assert frame["outcome"].unique(maintain_order=True).to_list() == ["choice", "again"]
    assert (tmp_path / "figures" / "retention-choice.svg").exists()
    sizes = pl.read_csv(tmp_path / "tables" / "outcomes.csv")
    assert sizes.filter(pl.col("outcome") == "choice")["size"].to_list() == list(SMALL.sizes)
    assert planted.SIZES["30k"] in sizes["parameters"]
