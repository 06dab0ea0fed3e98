from __future__ import annotations

import math
import sqlite3
from dataclasses import replace

import polars as pl
import pytest

from analysis.errors import UserError
from analysis.runs.load import find_sweeps, load_study, trial_frame
from analysis.runs.open import open_store
from analysis.runs.records import Run
from halflife.tracking import schema
from halflife.tracking.questions import Contrast
from tests.analysis import planted
from tests.analysis.conftest import TINY


def run(**fields) -> Run:
    given = {
        "id": "1", "name": "", "experiment": "1", "status": "FINISHED", "started": 0, "ended": None, "artifacts": "",
        "tags": {}, "params": {},
    }  # fmt: skip
    return Run(**{**given, **fields})


def test_parameters_are_typed(small):
    types = {name: small.trials.schema[name] for name in small.parameters}
    assert (types["size"], types["parameters"], types["seed"]) == (pl.String, pl.Int64, pl.Int64)
    assert types["learning_rate"] == pl.Float64
    assert small.trials["learning_rate"].unique().sort().to_list() == [0.25, 1.0]


def test_missing_parameters_stay_missing_and_grouped_names_lose_their_group():
    frame, names = trial_frame([
        run(id="a", params={"model/size": "30k", "seed": "0", "trigger": "None", "tied": "True"}),
        run(id="b", params={"model/size": "1m", "rate": "1e-3", "tied": "False"}),
    ])  # fmt: skip
    assert set(names) == {"size", "seed", "trigger", "rate", "tied"}
    assert frame["seed"].to_list() == [0, None]
    assert frame["rate"].to_list() == [None, 0.001]
    assert frame["trigger"].to_list() == [None, None]
    assert frame["tied"].to_list() == [True, False]


def test_a_shared_stage_is_joined_to_every_trial_that_has_it(small):
    trunks = small.points.filter(pl.col("phase") == "trunk")
    assert trunks["trial"].n_unique() == small.trials.height
    one = small.trials.filter((pl.col("role") == "treatment") & (pl.col("size") == "30k") & (pl.col("seed") == 0))
    losses = [
        trunks.filter((pl.col("trial") == trial) & (pl.col("name") == "clean/loss"))["value"].to_list()
        for trial in one["trial"]
    ]
    assert len(losses) > 1
    assert all(loss == losses[0] for loss in losses)


def test_a_trials_own_points_take_precedence_over_a_shared_stages(tmp_path):
    writer = planted.Writer(tmp_path)
    parent = writer.run("s", "sweep", 1, {schema.TAG_STUDY: TINY.study, schema.TAG_SWEEP: "s"})
    writer.artifact(parent, schema.DECLARATION, planted.declaration(TINY).to_json())
    tags = {schema.PARENT_RUN: parent, schema.TAG_TRIAL: "t", schema.TAG_STAGE_PREFIX + "trunk": "train-1"}
    writer.points(writer.run("t", "trial", 1, tags), "trunk/", {"a/loss": [(0, 1.0)]})
    writer.points(writer.run("st", "stage", 1, {schema.TAG_STAGE: "train-1"}), "stage/", {"a/loss": [(0, 2.0)]})
    writer.close()
    assert load_study(writer.uri, TINY.study).points["value"].to_list() == [1.0]


def test_the_newest_of_points_logged_twice_is_kept_and_nan_is_absent(tmp_path):
    writer = planted.Writer(tmp_path)
    parent = writer.run("s", "sweep", 1, {schema.TAG_STUDY: TINY.study, schema.TAG_SWEEP: "s"})
    writer.artifact(parent, schema.DECLARATION, planted.declaration(TINY).to_json())
    trial = writer.run("t", "trial", 1, {schema.PARENT_RUN: parent, schema.TAG_TRIAL: "t"})
    writer.points(trial, "branch/", {"a/loss": [(0, 9.0), (5, 5.0)]}, timestamp=20)
    writer.points(trial, "branch/", {"a/loss": [(0, 1.0), (7, math.nan)]}, timestamp=10)
    writer.close()
    points = load_study(writer.uri, TINY.study).points
    assert points.select("step", "value").rows() == [(0, 9.0), (5, 5.0)]


def test_the_newest_sweep_is_read_unless_another_is_named(tmp_path):
    old = replace(TINY, sweep="aaaa", started=1_000_000, preset="old")
    new = replace(TINY, sweep="bbbb", started=2_000_000_000_000, preset="new")
    planted.write(tmp_path, new)
    uri = planted.write(tmp_path, old)
    assert load_study(uri, TINY.study).declaration.preset == "new"
    assert load_study(uri, TINY.study, sweep="aa").declaration.preset == "old"
    with pytest.raises(UserError, match="expected one of aaaa, bbbb"):
        load_study(uri, TINY.study, sweep="cc")


def test_a_sweep_that_was_run_again_is_the_newest(tmp_path):
    planted.write(tmp_path, replace(TINY, sweep="aaaa", started=1_000, preset="first"))
    uri = planted.write(tmp_path, replace(TINY, sweep="bbbb", started=2_000, preset="second"))
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("UPDATE runs SET end_time = 99999999999999 WHERE name LIKE '% first'")
    assert load_study(uri, TINY.study).declaration.preset == "first"


def test_deleted_runs_are_not_read(tmp_path):
    uri = planted.write(tmp_path, replace(TINY, preset="kept"))
    writer = planted.Writer(tmp_path)
    gone = {schema.TAG_STUDY: TINY.study, schema.TAG_SWEEP: "gone"}
    writer.run("newer", "sweep", TINY.started + 10**9, gone, deleted=True)
    writer.close()
    assert load_study(uri, TINY.study).declaration.preset == "kept"
    assert len(find_sweeps(open_store(uri))) == 1


def test_of_a_trial_that_was_deleted_published_again_and_restored_the_newest_run_counts(tmp_path):
    writer = planted.Writer(tmp_path)
    parent = writer.run("s", "sweep", 1, {schema.TAG_STUDY: TINY.study, schema.TAG_SWEEP: "s"})
    writer.artifact(parent, schema.DECLARATION, planted.declaration(TINY).to_json())
    for started, loss in ((2, 1.0), (3, 2.0)):
        tags = {schema.PARENT_RUN: parent, schema.TAG_TRIAL: "t"}
        writer.points(writer.run(f"t{started}", "trial", started, tags), "branch/", {"a/loss": [(0, loss)]})
    writer.close()
    data = load_study(writer.uri, TINY.study)
    assert (data.trials.height, data.points["value"].to_list()) == (1, [2.0])


def test_artifacts_are_found_when_the_results_folder_was_moved(tmp_path):
    planted.write(tmp_path / "here", TINY)
    (tmp_path / "here").rename(tmp_path / "there")
    data = load_study(f"sqlite:///{tmp_path / 'there' / 'mlflow.db'}", TINY.study)
    assert data.declaration.study == TINY.study


def test_totals_are_the_parents_own_metrics(small):
    assert small.totals["sweep/efficiency"] == pytest.approx(0.87, abs=1e-3)
    assert "sweep/efficiency" not in set(small.points["name"])


def test_totals_of_a_resumed_sweep_add_what_its_runs_spent(tmp_path):
    uri = planted.write(tmp_path, TINY)
    connection = sqlite3.connect(tmp_path / "mlflow.db")
    (run,) = connection.execute("SELECT run_uuid FROM metrics WHERE key = 'sweep/slots'").fetchone()
    later = {"wall_seconds": 820.0, "compute_seconds": 1467.0, "stages_run": 8.0, "stages_cached": 412.0, "slots": 2.0,
             "efficiency": 0.89, "tokens_trained": 1.2e9}  # fmt: skip
    rows = [(run, f"sweep/{name}", value, 2_000_000, 9, False) for name, value in later.items()]
    connection.executemany(
        "INSERT INTO metrics (run_uuid, key, value, timestamp, step, is_nan) VALUES (?, ?, ?, ?, ?, ?)", rows
    )
    connection.commit()
    connection.close()
    totals = load_study(uri, TINY.study).totals
    assert {name: totals[f"sweep/{name}"] for name in later} == {
        "wall_seconds": 4000.0, "compute_seconds": 7000.0, "stages_run": 420.0, "stages_cached": 0.0, "slots": 2.0,
        "efficiency": 7000 / 8000, "tokens_trained": 1.2e9,
    }  # fmt: skip


@pytest.mark.parametrize("content", [None, b"", b"not a database"])
def test_a_missing_or_invalid_store_is_one_clear_line(tmp_path, content):
    path = tmp_path / "mlflow.db"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_study(f"sqlite:///{path}", "x")
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_an_unknown_study_is_refused_with_the_known_ones(small_uri):
    with pytest.raises(UserError, match="it has backdoor_persistence"):
        load_study(small_uri, "nope")


def test_a_newer_schema_is_refused(tmp_path):
    uri = planted.write(tmp_path, TINY)
    for path in tmp_path.glob("artifacts/**/study.json"):
        path.write_text(path.read_text().replace(f'"schema": {schema.SCHEMA}', '"schema": 99'))
    with pytest.raises(UserError, match="schema 99"):
        load_study(uri, TINY.study)


def test_a_sweep_without_its_declaration_is_one_clear_line(tmp_path):
    uri = planted.write(tmp_path, TINY)
    for path in tmp_path.glob("artifacts/**/study.json"):
        path.unlink()
    with pytest.raises(UserError, match=r"no study\.json"):
        load_study(uri, TINY.study)


def mlflow_store(folder) -> tuple[str, str]:
    """A tiny sweep written through MLflow's own client: tracking URI and the trial's run."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("it's a study", artifact_location=(folder / "artifacts").as_uri())
    kind = {schema.TAG_SCHEMA: "1", schema.TAG_STUDY: "it's a study"}
    sweep = {schema.TAG_KIND: "sweep", schema.TAG_SWEEP: "s", **kind}
    parent = client.create_run(experiment, tags=sweep, run_name="the sweep").info.run_id
    declaration = replace(planted.declaration(TINY), study="it's a study")
    client.log_text(parent, declaration.to_json(), schema.DECLARATION)
    trial_tags = {
        schema.TAG_KIND: "trial", schema.TAG_TRIAL: "t", schema.PARENT_RUN: parent, schema.TAG_ROLE: "treatment",
        schema.TAG_STAGE_PREFIX + "trunk": "train-1", **kind,
    }  # fmt: skip
    trial = client.create_run(experiment, tags=trial_tags).info.run_id
    stage_tags = {schema.TAG_KIND: "stage", schema.TAG_STAGE: "train-1", **kind}
    stage = client.create_run(experiment, tags=stage_tags).info.run_id
    client.log_param(trial, "seed", 3)
    for step, value in ((0, 1.5), (1, math.nan), (2, -0.5)):
        client.log_metric(trial, "branch/backdoor/logprob", value, step=step)
        client.log_metric(stage, "stage/clean/loss", value, step=step)
    client.log_metric(parent, "sweep/efficiency", 0.9)
    client.set_terminated(trial)
    return uri, parent


EXPECTED = [
    ("t", "branch", 0, "backdoor/logprob", 1.5), ("t", "branch", 2, "backdoor/logprob", -0.5),
    ("t", "trunk", 0, "clean/loss", 1.5), ("t", "trunk", 2, "clean/loss", -0.5),
]  # fmt: skip


@pytest.mark.slow
def test_sql_and_client_read_the_same_from_what_mlflow_wrote(tmp_path):
    from analysis.runs.client import ClientStore

    uri, parent = mlflow_store(tmp_path)
    data = load_study(uri, "it's a study")
    assert data.points.rows() == EXPECTED
    assert data.trials.select("trial", "role", "seed").rows() == [("t", "treatment", 3)]
    assert (data.totals, data.sweep.id) == ({"sweep/efficiency": 0.9}, parent)
    through_client = pytest.MonkeyPatch()
    with through_client.context() as patch:
        patch.setattr("analysis.runs.load.open_store", lambda _: ClientStore(uri))
        again = load_study("any", "it's a study")
    assert again.points.rows() == EXPECTED
    assert (again.totals, again.declaration, again.sweep.tags) == (data.totals, data.declaration, data.sweep.tags)


def test_a_server_that_does_not_respond_is_one_clear_line(monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match="does not respond") as caught:
        load_study("http://127.0.0.1:9", "x")
    assert "\n" not in str(caught.value)


def test_the_empty_database_of_a_study_that_stopped_early_asks_to_run_the_study(tmp_path):
    (tmp_path / "mlflow.db").touch()
    with pytest.raises(UserError, match="run the study first"):
        load_study(schema.sqlite_uri(tmp_path / "mlflow.db"), "fakes")


def test_a_declaration_dates_from_the_first_sweep_that_published_it(tmp_path, monkeypatch):
    asked = Contrast(name="q", label="q", quantity="kept", axis="role", high="treatment", low="absent")
    made = replace(planted.declaration(TINY), questions=(asked,))
    monkeypatch.setattr(planted, "declaration", lambda plan: made)
    uri = planted.write(tmp_path, TINY)
    planted.write(tmp_path, replace(TINY, sweep="m0re5eed5", started=TINY.started + 1))
    assert load_study(uri, TINY.study).declaration.declared == ""
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        sweeps = connection.execute("SELECT run_uuid FROM tags WHERE key = ? AND value = 'sweep'", (schema.TAG_KIND,))
        for day, (run,) in enumerate(sweeps.fetchall()):
            row = (made.declared_parameter, f"2026-01-0{2 - day}T00:00:00+00:00", run)
            connection.execute("INSERT INTO params VALUES (?,?,?)", row)
    assert load_study(uri, TINY.study).declaration.declared == "2026-01-01T00:00:00+00:00"
    assert load_study(uri, TINY.study).declaration.digest == made.digest
