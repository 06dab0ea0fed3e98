from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest

from analysis.errors import UserError
from analysis.runs import client as client_store
from analysis.runs.client import ClientStore
from analysis.runs.load import load_study
from halflife.tracking import schema
from tests.analysis import planted
from tests.analysis.conftest import TINY

RUNS, STEPS = 90, 7
"""More runs than fit one request."""


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """The same sweep as a server and as the SQLite file behind it, and the runs of its trials."""
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    folder = tmp_path_factory.mktemp("server")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment(TINY.study, artifact_location=(folder / "artifacts").as_uri())
    kind = {schema.TAG_STUDY: TINY.study, schema.TAG_SCHEMA: "1"}
    parent = client.create_run(experiment, tags={**kind, schema.TAG_KIND: "sweep", schema.TAG_SWEEP: "s"}).info.run_id
    client.log_text(parent, planted.declaration(TINY).to_json(), schema.DECLARATION)
    client.log_metric(parent, "sweep/slots", 2.0)
    rng = np.random.default_rng(0)
    runs = []
    for number in range(RUNS):
        tags = {**kind, schema.TAG_KIND: "trial", schema.TAG_TRIAL: f"{number:03}", schema.PARENT_RUN: parent}
        runs.append(client.create_run(experiment, tags=tags).info.run_id)
        points = [
            Metric(f"branch/{name}", float(value), 1000 + step, step)
            for name in ("a/loss", "b/loss")
            for step, value in enumerate([*rng.normal(size=STEPS - 1), float("nan")])
        ]
        client.log_batch(runs[-1], points)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--backend-store-uri", uri], stdout=log, stderr=log, env={**os.environ}, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(address, server, folder / "log")
        yield address, uri, client, runs
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)


def _wait(address, server, log):
    for _ in range(240):
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            pass
        assert server.poll() is None, log.read_text()
        time.sleep(0.5)
    raise AssertionError(log.read_text())


@pytest.fixture
def requests(monkeypatch):
    """The runs of each request for points."""
    counts = []
    plain = ClientStore._fetch

    def counted(self, key, runs):
        counts.append(len(runs))
        return plain(self, key, runs)

    monkeypatch.setattr(ClientStore, "_fetch", counted)
    return counts


@pytest.mark.slow
def test_a_server_returns_the_same_as_its_database_in_few_requests(stores, requests):
    address, uri, _, _ = stores
    by_rest, by_sql = load_study(address, TINY.study), load_study(uri, TINY.study)
    assert by_rest.points.equals(by_sql.points)
    assert by_rest.points.height == RUNS * 2 * (STEPS - 1)  # what is NaN is absent
    assert by_rest.trials.equals(by_sql.trials)
    assert (by_rest.totals, by_rest.declaration) == (by_sql.totals, by_sql.declaration)
    assert sorted(requests) == [1, 10, 10, 80, 80]


@pytest.mark.slow
def test_a_server_that_leaves_points_out_is_queried_again_for_fewer_runs(stores, monkeypatch):
    """Down to one run, which the client reads if its points alone reach the limit."""
    address, uri, _, _ = stores
    whole = load_study(uri, TINY.study).points
    for most in (50, STEPS):
        monkeypatch.setattr(client_store, "MAX_POINTS", most)
        assert load_study(address, TINY.study).points.equals(whole)


@pytest.mark.slow
def test_a_server_without_the_endpoint_is_read_metric_by_metric(stores, monkeypatch, requests):
    address, uri, _, _ = stores
    monkeypatch.setattr(client_store, "BULK", "/ajax-api/2.0/mlflow/metrics/no-such-thing")
    assert load_study(address, TINY.study).points.equals(load_study(uri, TINY.study).points)


@pytest.mark.slow
def test_only_changed_runs_are_read_again_from_a_server(stores, tmp_path, requests):
    address, uri, client, runs = stores
    load_study(address, TINY.study, cache=tmp_path)
    requests.clear()
    first = load_study(address, TINY.study, cache=tmp_path)
    assert requests == []
    client.log_metric(runs[3], "branch/a/loss", 4.5, step=99, timestamp=2000)
    again = load_study(address, TINY.study, cache=tmp_path)
    assert requests == [1, 1]  # its two metrics
    assert again.points.height == first.points.height + 1
    assert again.points.equals(load_study(uri, TINY.study).points)
    client.delete_run(runs[3])
    assert load_study(address, TINY.study, cache=tmp_path).trials.height == RUNS - 1
    client.restore_run(runs[3])


@pytest.mark.slow
def test_a_server_that_stops_is_one_clear_line(stores, monkeypatch):
    from mlflow import MlflowClient

    address, *_ = stores
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    store = ClientStore(address)
    found = store.runs(schema.TAG_KIND, ["trial"])
    store._client = MlflowClient(tracking_uri="http://127.0.0.1:9")  # where no server listens
    for ask in (lambda: store.read(found, {}), lambda: store.runs(schema.TAG_KIND, ["trial"])):
        with pytest.raises(UserError, match="does not respond") as caught:
            ask()
        assert "\n" not in str(caught.value)
