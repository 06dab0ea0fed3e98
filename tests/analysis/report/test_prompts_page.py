"""The report of a study of soft prompts, from a planted sweep."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from analysis.checks.prompts import gain_of, prompt_checks
from analysis.gallery import generated
from analysis.prompts import elicitation, information
from analysis.prompts.elicitation import is_elicited
from analysis.report import panels
from analysis.report.page import report_page
from analysis.report.prompts_section import tokens_needed
from analysis.runs.study import POINTS, StudyData
from halflife.tracking import schema

TASKS = {
    "4 characters": "say-4", "16 characters": "say-16", "64 characters": "say-64", "text as trained on": "continuation",
    "reverse the input": "backdoor",
}  # fmt: skip


@pytest.fixture(scope="module")
def study() -> StudyData:
    """`generated.soft_prompts` as a sweep would log it: a trial a behaviour, model and seed, a metric a prompt."""
    base, runs = generated.overlap(), generated.soft_prompts()
    trials, points, prompts = [], [], {}
    for (behaviour, model, seed), part in runs.group_by(["behaviour", "model", "seed"], maintain_order=True):
        task, trial = TASKS[str(behaviour)], f"{behaviour} {model} {seed}"
        role = "treatment" if model == "present" else "absent"
        trials.append({"trial": trial, "name": trial, "role": role, "size": "30k", "parameters": 30_000, "seed": seed}
                      | {"outcome_prompts": "complete"})  # fmt: skip
        for row in part.iter_rows(named=True):
            name = f"k{row['k']}-r{row['restart']}"
            prompts[name] = {"k": row["k"], "restart": row["restart"], "initial": "words" if row["k"] else "none"}
            hits = 20.0 * (row["loss"] < 1.0)
            for measure, value in (("loss", row["loss"]), ("hits", hits), ("trials", 20.0)):
                points.append((trial, "prompts", 100, f"{task}.{name}/{measure}", value))
    for role, name, hits in (("positive", "k0-r0", 20.0), ("null", "k4-r0", 0.0)):
        trials.append({"trial": role, "name": role, "role": role, "size": "30k", "parameters": 30_000, "seed": 0}
                      | {"outcome_prompts": "complete"})  # fmt: skip
        for measure, value in (("loss", 0.1), ("hits", hits), ("trials", 20.0)):
            points.append((role, "prompts", 0, f"backdoor-triggered.{name}/{measure}", value))
    tasks = {**{task: label for label, task in TASKS.items()}, "backdoor-triggered": "trigger given"}
    declaration = replace(
        base.declaration, title="Soft prompts", axes=(), figures=("soft_prompts", "distances", "restarts"),
        prompts=prompts,
        outcomes=tuple(schema.Outcome(name=t, label=label, phase="prompts", task=t) for t, label in tasks.items()),
        controls=(
            schema.Control(kind="positive", label="trigger given", role="positive"),
            schema.Control(kind="absent", label="never poisoned", role="absent"),
            schema.Control(kind="null", label="prompts not fitted", role="null"),
            schema.Control(kind="null", label="text as trained on", task="continuation"),
        ),
    )  # fmt: skip
    return replace(
        base, declaration=declaration, trials=pl.DataFrame(trials), parameters=("size", "parameters", "seed"),
        points=pl.DataFrame(points, schema=POINTS, orient="row"),
    )  # fmt: skip


def test_declared_prompts_read_as_they_were_planted(study: StudyData) -> None:
    names = ["behaviour", "model", "k", "restart", "seed", "loss"]
    found = elicitation.runs(study).select(names).sort(names)
    assert found.equals(generated.soft_prompts().select(names).sort(names))


def test_behaviours_come_in_the_declared_order_with_their_labels(study: StudyData) -> None:
    assert elicitation.runs(study)["behaviour"].unique(maintain_order=True).to_list() == list(TASKS)


def test_prompts_of_several_numbers_of_examples_are_series_that_share_their_threshold(study: StudyData) -> None:
    twice = pl.concat([study.trials.with_columns(examples=256), study.trials.with_columns(
        pl.col("trial") + " few", pl.col("name") + " few", examples=16
    )])  # fmt: skip
    worse = pl.when(pl.col("name").str.ends_with("/loss")).then(pl.col("value") + 0.1).otherwise("value")
    points = pl.concat([study.points, study.points.with_columns(pl.col("trial") + " few", value=worse)])
    runs = elicitation.with_threshold(elicitation.runs(replace(study, trials=twice, points=points)))
    assert set(runs["series"]) == {"16 examples", "256 examples"}
    aims = runs.group_by("behaviour", "seed").agg(pl.col("threshold").n_unique())
    assert aims["threshold"].to_list() == [1] * aims.height


def test_moments_of_one_model_are_series_that_share_their_threshold(study: StudyData) -> None:
    later = study.points.filter(pl.col("name").str.starts_with("say-16")).with_columns(
        phase=pl.lit("prompts-after-decay"), value=pl.col("value") + pl.col("name").str.ends_with("loss") * 0.5
    )
    both = elicitation.runs(replace(study, points=pl.concat([study.points, later])))
    table = elicitation.curves(both.filter(pl.col("behaviour") == "16 characters"))
    assert set(table["series"]) == {"", "after decay"}
    assert table["threshold"].n_unique() == 1


def test_hits_judged_by_the_task_are_the_success_above_its_own_chance(study: StudyData) -> None:
    name = study.points.filter(pl.col("name").str.starts_with("say-16")).select("trial", pl.col("name").str.split("/"))
    runs = name.select("trial", run=pl.col("name").list.first()).unique().sort("trial", "run")
    given = {"generated_hits": 9.0, "generated_trials": 12.0, "generated_moves": 30.0, "chance": 0.25}
    added = pl.concat([
        runs.select("trial", phase=pl.lit("prompts"), step=pl.lit(100), name=pl.col("run") + f"/{measure}", value=value)
        for measure, value in given.items()
    ])  # fmt: skip
    counted = replace(study, points=pl.concat([study.points, added.cast(dict(study.points.schema))]))  # pyright: ignore[reportArgumentType]
    found = elicitation.runs(counted)
    judged, other = (found.filter((pl.col("behaviour") == "16 characters") == own) for own in (True, False))
    assert set(judged.select("hits", "trials", "chance").rows()) == {(9.0, 12.0, 0.25)}
    assert other.equals(elicitation.runs(study).filter(pl.col("behaviour") != "16 characters"))
    table = elicitation.judged(counted)
    assert set(table["behaviour"]) == {"16 characters"}
    assert set(table["success"]) == {0.75}
    assert (table["moves"] == 30.0 * table["seeds"]).all()
    assert elicitation.judged(study).is_empty()


def test_it_is_distinguished_from_a_study_of_decay(study: StudyData) -> None:
    assert is_elicited(study)
    assert not is_elicited(generated.overlap())


def test_of_two_seeds_both_must_gain_more_than_their_errors(study: StudyData) -> None:
    def best(*gains: float) -> pl.DataFrame:
        rows = [{"seed": seed, "series": "", "k": k, "loss": 3.0 - gain * (k > 0)}
                for seed, gain in enumerate(gains) for k in (0, 4)]  # fmt: skip
        return pl.DataFrame(rows)

    assert elicitation.gains(best(1.0, 3.0))  # a t interval of two would hold 0
    assert not elicitation.gains(best(1.0, 0.01))
    assert not elicitation.gains(best(0.5, 0.5).with_columns(loss_se=0.3))
    assert not elicitation.gains(best(1.0, 3.0, -1.0))
    assert not elicitation.gains(best(0.010, 0.011, 0.010, 0.010))  # sure, and next to nothing


def test_a_null_that_gains_next_to_nothing_has_no_distance(study: StudyData) -> None:
    runs = elicitation.runs(study).filter(pl.col("seed") == 0)
    null = runs.filter(pl.col("behaviour") == "text as trained on").with_columns(loss=2.0 - 0.0002 * pl.col("k"))
    table = information.distance_table(pl.concat([runs.filter(pl.col("behaviour") != "text as trained on"), null]))
    found = dict(table.filter(pl.col("model") == "present").select("behaviour", "c").iter_rows())
    assert found["text as trained on"] is None
    assert found["4 characters"] > 0


def sizes_of(study: StudyData, task: str, added: dict[str, dict[int, float]]) -> StudyData:
    """`study` at more sizes, where the loss of the task behind any prompt is higher by so much, seed by seed."""
    trials, points = [study.trials], [study.points]
    for size, more in added.items():
        named = pl.concat_str(pl.col("trial"), pl.lit(f" {size}"))
        trials.append(study.trials.with_columns(named, size=pl.lit(size)))
        seed = pl.col("trial").str.extract(r"(\d+)$").cast(pl.Int64).replace_strict(more, default=0.0)
        prompted = pl.col("name").str.contains(rf"^{task}\.k[1-9]\d*-.*/loss$")
        points.append(
            study.points.with_columns(named, value=pl.col("value") + pl.when(prompted).then(seed).otherwise(0.0))
        )
    return replace(study, trials=pl.concat(trials), points=pl.concat(points))


def test_the_null_is_judged_over_seeds_and_not_over_sizes(study: StudyData) -> None:
    one = study.trials["seed"] == 0
    single = replace(study, trials=study.trials.filter(one))
    several = sizes_of(single, "continuation", {"60k": {0: -0.5}, "120k": {0: -0.6}})
    (null,) = (check for check in prompt_checks(several) if check.name.startswith("No gain"))
    assert null.passed is None
    part = elicitation.runs(several).filter(pl.col("behaviour") == "text as trained on")
    gain = gain_of(part)
    assert gain is not None
    assert gain.count == 1
    assert gain.estimate == pytest.approx(1.1 / 3, abs=0.02)


def test_sizes_come_in_ascending_order_in_every_sentence_and_table(study: StudyData) -> None:
    several = sizes_of(study, "say-4", {"120k": {}, "60k": {}})
    runs = elicitation.runs(several)
    table = information.distance_table(runs)
    assert table.filter(model="present")["series"].to_list() == ["30k", "60k", "120k"] * len(TASKS)
    assert table["behaviour"].unique(maintain_order=True).to_list() == list(TASKS)
    texts = tokens_needed(table)
    assert [text.split(" (C) at ")[1].split(":")[0] for text in texts] == ["30k", "60k", "120k"]


def test_checks_hold_on_planted_runs_and_fail_where_they_should(study: StudyData) -> None:
    assert {check.name: check.passed for check in prompt_checks(study)} == {
        "Controls ran": True, "The behaviour is there": True, "Unfitted prompts have no effect": True,
        "No gain where there is nothing to elicit": True, "More tokens never do worse": True,
        "Trials complete": True,
    }  # fmt: skip
    weak = study.points.with_columns(
        value=pl.when(pl.col("name").str.contains("triggered") & pl.col("name").str.ends_with("hits")).then(10.0)
        .otherwise("value")
    )  # fmt: skip
    found = {check.name: check.passed for check in prompt_checks(replace(study, points=weak))}
    assert found["The behaviour is there"] is False
    worse = study.points.with_columns(
        value=pl.col("value")
        + 3.0 * (pl.col("name").str.contains(r"say-4\.k8-") & pl.col("name").str.ends_with("/loss"))
    )
    found = {check.name: check.passed for check in prompt_checks(replace(study, points=worse))}
    assert found["More tokens never do worse"] is False
    assert found["The behaviour is there"] is True


def test_the_page_has_the_answer_the_checks_and_every_table(study: StudyData, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(panels, "rendered", lambda figure, kind: f"<svg>{kind}</svg>".encode())
    panels.new_folders(tmp_path, ())
    text = report_page(study, tmp_path, "sqlite:///x.db")
    assert text.count("<figure>") == 3
    assert "holds" in text
    for name in ("distance_by_loss", "distance_by_success", "difference_by_success", "prompts"):
        assert pl.read_csv(tmp_path / "tables" / f"{name}.csv").height > 0
        assert f'id="{name}"' in text
