"""`ray up cluster.yaml` for real: three hosts with sshd on this machine, a sweep submitted from outside, `ray down`.

One cluster serves all of these tests, in their order. Each host has one CPU, so that a sweep needs them all, and a
stage on two workers two of them.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from halflife.store.store import read_points
from tests.cluster.lab import OUTSIDE, ROOT, S3_PORT, Lab, lacking
from tests.cluster.variant import of_hosts
from tests.store import s3

pytestmark = pytest.mark.cluster
HEAD = "10.77.0.10"
RESULTS = "halflife"
FEW = "--sizes 30k --poison-counts 10 --trunk-tokens 60000 --branch-tokens 20000 --relearn-tokens 10000"
FEW += " --strength None"  # so few tokens implant nothing
SMOKE = ["python", "studies/backdoor_persistence.py", "smoke", "--cluster", "cluster.yaml", *FEW.split()]
STUDY, STAGES = [*SMOKE, "--seeds", "2"], 28
SECONDS = 1200.0
"""Timeout for what takes a minute or two on an idle machine."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    if reason := lacking():
        pytest.skip(reason)
    lab = Lab(tmp_path_factory.mktemp("lab"), 3)
    yield lab
    lab.close()


@pytest.fixture(scope="module")
def checkout(lab: Lab) -> Path:
    """The user's checkout, its cluster.yaml for these hosts, on a cluster that `ray up` has started."""
    folder = lab.checkout()
    (folder / "cluster.yaml").write_text(variant(lab))
    made = lab.run(["ray", "get-auth-token", "--generate"], folder, seconds=120.0)
    assert made.returncode == 0, made.stdout
    up = lab.run(["ray", "up", "-y", "cluster.yaml"], folder, seconds=SECONDS)
    assert up.returncode == 0, up.stdout
    await_true(lambda: f"{lab.count} local.cluster.node" in lab.on(0, "ray status"), "every host")
    await_true(lambda: "startup complete" in lab.on(0, "ray job logs mlflow"), "MLflow")
    return folder


def variant(lab: Lab) -> str:
    """cluster.yaml with its block for hosts of one's own in use, naming the lab's; Ray is told of one CPU a host, as
    they all have the machine's."""
    text = of_hosts((ROOT / "cluster.yaml").read_text())
    workers = ", ".join(f"10.77.0.{10 + host}" for host in range(1, lab.count))
    for given, here in {
        "HOST0": HEAD,
        "HOST1, HOST2": workers,
        "/shared/halflife": f"/srv/shared/{RESULTS}",
        "~/.ssh/id_ed25519": str(lab.key),
        # a worker host ends soon after its head: `ray down` waits a minute otherwise
        "ray start --": "RAY_gcs_rpc_server_reconnect_timeout_s=10 ray start "
        "--num-cpus=1 --object-store-memory=100000000 --",
    }.items():
        assert given in text
        text = text.replace(given, here)
    return text


def await_true(found: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
    give_up = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < give_up, f"waited for {what}"
        time.sleep(2.0)


def stages(lab: Lab, results: str = RESULTS) -> list[Path]:
    return sorted(done.parent for done in (lab.shared / results / "stages").glob("*/DONE"))


def records(lab: Lab, results: str = RESULTS) -> list[dict]:
    return [json.loads(path.read_text()) for path in lab.shared.glob(f"{results}/stages/*/attempts/*/stage.json")]


@pytest.fixture(scope="module")
def account(lab: Lab, checkout: Path) -> dict[str, str]:
    password = lab.run(["python", "-m", "halflife.sweep.head", "password"], checkout, seconds=120.0).stdout.strip()
    return {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": password}


@pytest.fixture(scope="module")
def tunnel(lab: Lab, checkout: Path) -> Iterator[None]:
    """The head's MLflow and dashboard on loopback outside, as the README has it."""
    line = lab.outside(["ray", "attach", "cluster.yaml", "-p", "5000", "-p", "8265"], checkout)
    forwarding = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    await_true(lambda: answer(lab, "http://127.0.0.1:5000/health") == 200, "the tunnel", 120.0)
    yield
    assert forwarding.stdin
    forwarding.stdin.close()
    forwarding.terminate()
    forwarding.wait(60.0)


def answer(lab: Lab, url: str, **headers: str) -> int:
    """The status that a client outside the hosts gets; 0 if there is no response."""
    program = (
        "import json, sys, urllib.request, urllib.error\n"
        "request = urllib.request.Request(sys.argv[1], headers=json.loads(sys.argv[2]))\n"
        "try: print(urllib.request.urlopen(request, timeout=30).status)\n"
        "except urllib.error.HTTPError as error: print(error.code)\n"
        "except OSError: print(0)\n"
    )
    line = ["python", "-I", "-c", program, url, json.dumps(headers)]
    return int(lab.run(line, lab.scratch, seconds=60.0).stdout)


def basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def test_a_sweep_submitted_from_outside_runs_on_several_hosts_and_outlives_its_client(lab: Lab, checkout: Path):
    client = subprocess.Popen(lab.outside(STUDY, checkout), stdout=subprocess.PIPE, text=True, start_new_session=True)
    await_true(lambda: len(stages(lab)) >= 1, "the first stage")
    os.killpg(client.pid, signal.SIGKILL)  # the laptop is closed
    said = client.communicate()[0]
    before = len(stages(lab))
    await_true(lambda: len(stages(lab)) > before, "a stage that ends without a client")
    again = lab.run(STUDY, checkout, seconds=SECONDS)
    assert again.returncode == 0, again.stdout
    assert re.findall(r"^job (\S+):", again.stdout, re.MULTILINE) == re.findall(r"^job (\S+):", said, re.MULTILINE)
    assert f"{STAGES} stages run, 0 cached of {STAGES}" in again.stdout
    assert "report: file:///srv/shared/" in again.stdout
    hosts = [record["host"] for record in records(lab)]
    assert len(hosts) == STAGES, "no stage was computed twice"
    # a host whose worker starts last may find every stage taken: two are several, and none is unknown
    assert len(set(hosts)) > 1
    assert set(hosts) <= {"host0", "host1", "host2"}
    assert {record["commit"] for record in records(lab)} != {None}, "the checkout's commit is recorded on the hosts"


def test_the_same_command_again_computes_nothing(lab: Lab, checkout: Path):
    again = lab.run(STUDY, checkout, seconds=SECONDS)
    assert again.returncode == 0, again.stdout
    assert f"0 stages run, {STAGES} cached of {STAGES}" in again.stdout


@pytest.fixture(scope="module")
def bucket(lab: Lab) -> Iterator[str]:
    """In object storage outside, which the hosts' environment leads to."""
    pytest.importorskip("moto", reason="moto[server] is a local S3 (make test installs it)")
    line = lab.outside(["python", "-m", "tests.store.s3", OUTSIDE, str(S3_PORT)], ROOT)
    server = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin
    assert server.stdout
    assert server.stdout.readline() == "ready\n"
    yield s3.BUCKET
    server.stdin.close()
    server.wait(60.0)


# What a bucket says of each stage, as a folder's files would.
COPY = """
import sys
from pathlib import Path
from halflife.store.store import Store
store = Store(sys.argv[1])
for object in store.stages.contents():
    if object.name in ("DONE", "metrics.parquet"):
        path = Path(sys.argv[2], "stages", object.relative_to(store.stages))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(object.read())
"""


@pytest.mark.parametrize("place", [pytest.param("folder", marks=pytest.mark.nightly), "bucket"])
def test_two_workers_of_a_deepspeed_stage_on_two_hosts_get_the_losses_of_one(
    lab: Lab, checkout: Path, bucket: str, place: str
):
    results = {"folder": "/srv/shared/deepspeed-folder", "bucket": f"{bucket}/results"}[place]
    settings = ["--seeds", "1", "--no-relearn", "--results", results, "--engine", "deepspeed", "--workers", "2"]
    ran = lab.run([*SMOKE, *settings], checkout, seconds=SECONDS)
    assert ran.returncode == 0, ran.stdout
    if place == "bucket":
        copied = ["python", "-c", COPY, results, str(lab.shared / "deepspeed-bucket")]
        copy = lab.run(copied, checkout, seconds=300.0, **lab.object_storage)
        assert copy.returncode == 0, copy.stdout
    compared = 0
    for folder in stages(lab, f"deepspeed-{place}"):
        done = json.loads((folder / "DONE").read_text())
        assert len(set(done["summary"]["hosts"])) == 2
        alone = lab.shared / RESULTS / "stages" / folder.name  # the same stage: the engine is not part of its key
        if (alone / "DONE").exists():
            compared += 1
            assert losses(folder, done) == pytest.approx(
                losses(alone, json.loads((alone / "DONE").read_text())), rel=1e-4
            )
    assert compared


def losses(folder: Path, done: dict) -> list[float]:
    points = read_points(folder / "attempts" / done["attempt"])
    return points.filter(pl.col("name").str.ends_with("loss"))["value"].to_list()


def test_nothing_is_compiled_on_the_hosts(lab: Lab, checkout: Path):
    for host in range(lab.count):
        assert lab.on(host, "find ~/.cache/torch_extensions -type f 2>/dev/null | wc -l").strip() == "0"


def test_mlflow_shows_the_runs_only_with_the_password(lab: Lab, checkout: Path, tunnel: None, account: dict):
    runs = "http://127.0.0.1:5000/api/2.0/mlflow/experiments/get-by-name?experiment_name=backdoor_persistence"
    known = {"Authorization": basic(*account.values())}
    assert answer(lab, runs) == 401
    assert answer(lab, runs, Authorization=basic("admin", "password1234")) == 401
    assert answer(lab, runs, **known) == 200
    assert answer(lab, runs, **known, Host="evil.example") == 403
    listed = lab.run(
        ["python", "-m", "analysis", "sweeps", "--tracking-uri", "http://127.0.0.1:5000"],
        checkout,
        seconds=300.0,
        **account,
    )
    assert "backdoor_persistence" in listed.stdout, listed.stdout


def test_the_report_is_drawn_from_outside(lab: Lab, checkout: Path, tunnel: None, account: dict):
    line = ["python", "-m", "analysis", "report", "backdoor_persistence", "--tracking-uri", "http://127.0.0.1:5000"]
    drawn = lab.run([*line, "--out", str(lab.home / "report")], checkout, seconds=SECONDS, **account)
    assert drawn.returncode == 0, drawn.stdout
    html = next((lab.home / "report").glob("*.html")).read_text()
    assert "backdoor_persistence" in html
    assert list((lab.home / "report").rglob("*.png"))


def test_jobs_are_accepted_only_with_the_token(lab: Lab, checkout: Path, tunnel: None):
    token = (lab.home / ".ray" / "auth_token").read_text().strip()
    jobs = "http://127.0.0.1:8265/api/jobs/"
    assert answer(lab, jobs) in (401, 403)
    assert answer(lab, jobs, Authorization=f"Bearer {'0' * len(token)}") in (401, 403)
    assert answer(lab, jobs, Authorization=f"Bearer {token}") == 200


def test_dashboard_and_mlflow_answer_only_on_the_heads_loopback(lab: Lab, checkout: Path):
    """What else listens is sshd, and Ray for its other hosts."""
    sockets = re.compile(r'^LISTEN\s+\d+\s+\d+\s+(\S+):(\d+)\s+\S+\s+users:\(\("([^"]+)"', re.MULTILINE)
    for host in range(lab.count):
        listening = sockets.findall(lab.on(host, "ss -ltnp"))
        beyond = {(port, program) for address, port, program in listening if not address.startswith(("127.", "[::1]"))}
        assert not {port for port, _ in beyond} & {"5000", "8265"}
        ours = {program for _, program in beyond if not program.startswith(("sshd", "ray", "gcs_server", "python"))}
        assert not ours
    for port in (5000, 8265):
        assert answer(lab, f"http://{HEAD}:{port}/") == 0


def test_ray_itself_answers_only_with_the_token(lab: Lab, checkout: Path):
    """From within its network, where its ports can be reached."""
    status = ["ray", "status", "--address", f"{HEAD}:6379"]
    assert "Autoscaler status" in lab.run(status, checkout, seconds=300.0, RAY_AUTH_MODE="token").stdout
    for stranger in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}):
        refused = lab.run(status, checkout, seconds=300.0, **stranger)
        assert "Autoscaler status" not in refused.stdout
        assert refused.returncode != 0


def test_secrets_are_in_no_log_and_no_record(lab: Lab, checkout: Path, account: dict):
    secrets = [(lab.home / ".ray" / "auth_token").read_text().strip(), account["MLFLOW_TRACKING_PASSWORD"]]
    for secret in secrets:
        for host in range(lab.count):
            assert lab.on(host, f"grep -rlF {secret} /tmp/ray/ /srv/shared 2>/dev/null | head").strip() == ""


def test_ray_down_leaves_nothing_behind(lab: Lab, checkout: Path):
    down = lab.run(["ray", "down", "-y", "cluster.yaml"], checkout, seconds=SECONDS)
    assert down.returncode == 0, down.stdout
    left = (
        "ps -wweo args | grep -E 'ray|raylet|gcs_server|mlflow|halflife' | grep -vE 'grep|ps -wweo|sshd|bash' || true"
    )
    await_true(
        lambda: all(not lab.on(host, left).strip() for host in range(lab.count)), "an end of every process", 300.0
    )
