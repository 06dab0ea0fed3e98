"""What a report says is added to the runs that it is about: files, numbers of trials, links."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from halflife.errors import UserError
from halflife.tracking import attaching, page, schema
from halflife.tracking.attaching import attach
from halflife.tracking.publisher import Run, RunRef
from halflife.tracking.questions import Contrast, Crossing, Quantity
from tests.sweep.helpers import declaration
from tests.tracking.fake_store import FakeStore
from tests.tracking.test_publisher import SWEEP, publisher, run_named


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> FakeStore:
    found = FakeStore()
    first = publisher(found, page=page.experiment_tags(declaration()))
    first.ensure(Run(ref=SWEEP, name="study smoke"))
    first.ensure(Run(ref=RunRef("trial", "t1"), name="a trial"))
    assert first.close() == []
    monkeypatch.setattr(attaching, "connect", lambda uri: found)
    return found


def test_a_report_is_attached_to_its_sweep(tmp_path: Path, store: FakeStore):
    run_id = attach("unused", experiment="study", sweep="s1", folder=tmp_path, name="report")
    assert run_id == run_named(store, "study smoke").info.run_id
    assert store.runs[run_id].data.artifacts["report"] == str(tmp_path)
    with pytest.raises(UserError, match="no run of sweep s2"):
        attach("unused", experiment="study", sweep="s2", folder=tmp_path, name="report")
    store.down = True
    with pytest.raises(UserError, match=r"could not be stored in http://\*\*\*@host: the server is down"):
        attach("http://me:secret@host", experiment="study", sweep="s1", folder=tmp_path, name="report")


def test_numbers_of_trials_become_metrics_of_their_runs_once(tmp_path: Path, store: FakeStore):
    for _ in range(2):
        attach(
            "unused", experiment="study", sweep="s1", folder=tmp_path, name="report",
            numbers={"t1": {"half_life": 50_002.3}, "t9": {"half_life": 1.0}},
        )  # fmt: skip
    points = [point[:3] for point in run_named(store, "a trial").data.points]
    assert points == [("result/half_life", 0, 5e4)]


def test_the_experiments_description_links_to_the_newest_report_and_keeps_what_people_wrote(
    tmp_path: Path, store: FakeStore
):
    (experiment,) = store.experiments.values()
    experiment.tags[page.NOTE] += "\n\nMine: rerun with more seeds."
    attach("unused", experiment="study", sweep="s1", folder=tmp_path, name="report")
    run_id = attach("unused", experiment="study", sweep="s1", folder=tmp_path, name="report")
    note = experiment.tags[page.NOTE]
    assert note.count(f"#/experiments/1/runs/{run_id}/artifacts/report/report.html") == 1
    assert "Mine: rerun with more seeds." in note
    assert f"?viewStateShareKey={page.VIEW}" in note


def test_the_view_has_results_role_size_seed_and_what_varies_and_nothing_that_is_constant():
    quantities = tuple(
        Quantity(name=name, label=name, measure="branch/skill/hits", moment=Crossing(threshold=0.5))
        for name in ("area", "half_life")
    )
    asked = Contrast(name="q", label="Q?", quantity="half_life", high="treatment", low="absent", primary=True)
    axes = (
        schema.Axis(name="size", label="size", values=("1k", "2k")),
        schema.Axis(name="parameters", label="N", values=(1000, 2000)),
        schema.Axis(name="rate", label="rate", values=(1.0,)),
        schema.Axis(name="arm", label="arm", values=("a", "b")),
    )
    tags = page.experiment_tags(declaration(axes=axes, quantities=quantities, questions=(asked,)))
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    view = json.loads(tags[f"mlflow.sharedViewState.{page.VIEW}"])
    assert view["selectedColumns"] == [
        "metrics.`result/success_at_drop`", "metrics.`result/half_life`", "metrics.`result/area`",
        "tags.`halflife.role`", "params.`size`", "params.`seed`", "params.`arm`",
    ]  # fmt: skip


def test_a_kind_that_people_chose_stays_and_the_view_is_renewed(store: FakeStore):
    (experiment,) = store.experiments.values()
    view = f"mlflow.sharedViewState.{page.VIEW}"
    experiment.tags |= {page.KIND[0]: "genai_development", view: "old"}
    again = publisher(store, page=page.experiment_tags(declaration()))
    again.ensure(Run(ref=SWEEP, name="study smoke"))
    assert again.close() == []
    assert experiment.tags[page.KIND[0]] == "genai_development"
    assert experiment.tags[view] != "old"


def test_the_views_of_a_local_store_have_addresses(tmp_path: Path):
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
        database.execute("CREATE TABLE experiments (experiment_id INTEGER, name TEXT, lifecycle_stage TEXT)")
        database.execute("CREATE TABLE experiment_tags (key TEXT, value TEXT, experiment_id INTEGER)")
        database.execute("INSERT INTO experiments VALUES (0, 'Default', 'active'), (7, 'study', 'active')")
        database.execute("INSERT INTO experiments VALUES (8, 'older', 'active')")
        database.execute("INSERT INTO experiment_tags VALUES ('mlflow.sharedViewState.halflife', '{}', 7)")
        database.execute("INSERT INTO experiment_tags VALUES ('halflife.study', 'study', 7), ('halflife.study', '', 8)")
    uri = schema.sqlite_uri(tmp_path / "mlflow.db")
    found = page.addresses(uri, "http://127.0.0.1:5000")
    assert found == [
        "older: http://127.0.0.1:5000/#/experiments/8/runs",
        "study: http://127.0.0.1:5000/#/experiments/7/runs?viewStateShareKey=halflife",
    ]
    assert page.addresses(schema.sqlite_uri(tmp_path / "none.db"), "http://x") == []
    assert page.addresses("http://host", "http://x") == []
