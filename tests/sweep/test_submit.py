"""--cluster with a fake job client. tests/cluster has the real one."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from halflife.errors import UserError
from halflife.store import provenance
from halflife.sweep import submit
from halflife.sweep.cli import main
from halflife.sweep.submit import run_on_cluster

LINES = ("0/2 stages done\n", "1/2 stages done\n", "2/2 stages done\n")


@dataclass
class Job:
    submission_id: str
    ends_with: int | None
    metadata: dict[str, str]
    entrypoint: str = ""
    runtime_env: dict[str, Any] = field(default_factory=dict)
    ended: bool = False
    message: str = "its driver was lost"

    @property
    def status(self) -> Job:
        return self

    def is_terminal(self) -> bool:
        return self.ended

    @property
    def driver_exit_code(self) -> int | None:
        return self.ends_with


class Cluster:
    """A fake JobSubmissionClient; `breaks` are the lines after which the log is cut off, per connection."""

    def __init__(self, breaks: tuple[int, ...] = (), ends_with: int | None = 0) -> None:
        self.jobs: list[Job] = []
        self.breaks, self.ends_with, self.connections = list(breaks), ends_with, 0

    @contextlib.contextmanager
    def connected(self, cluster: Path) -> Iterator[Cluster]:
        self.connections += 1
        yield self

    def list_jobs(self) -> list[Job]:
        return self.jobs

    def submit_job(self, *, entrypoint: str, submission_id: str, **more: Any) -> str:
        self.jobs.append(Job(submission_id, self.ends_with, more["metadata"], entrypoint, more["runtime_env"]))
        return submission_id

    def get_job_info(self, job: str) -> Job:
        return next(one for one in self.jobs if one.submission_id == job)

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        last = self.breaks.pop(0) if self.breaks else None
        for line in LINES[:last]:
            yield line
        if last is not None:
            raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")
        self.get_job_info(job).ended = True


pytest.importorskip("aiohttp_cors", reason="needs make install-cluster")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "mine.py").touch()
    (tmp_path / "cluster.yaml").touch()
    monkeypatch.setattr(submit, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(submit.head, "token", lambda: "secret")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    return tmp_path


def ran(cluster: Cluster, checkout: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> int:
    monkeypatch.setattr(submit, "_connected", cluster.connected)
    arguments = ["smoke", "--cluster", "cluster.yaml", *more]
    return run_on_cluster(checkout / "studies" / "mine.py", arguments, checkout / "cluster.yaml")


def test_the_head_is_given_the_same_command_and_the_clusters_tracking_server(checkout: Path, monkeypatch):
    cluster = Cluster()
    assert ran(cluster, checkout, monkeypatch, "--sizes", "30k", "6 0k") == 0
    command = ["python", "studies/mine.py", "smoke", "--sizes", "30k", "6 0k"]
    assert shlex.split(cluster.jobs[0].entrypoint) == [*command, "--tracking-uri", "http://127.0.0.1:5000"]
    assert cluster.jobs[0].runtime_env["working_dir"] == str(checkout)
    assert "secret" not in str(cluster.jobs[0])


def test_a_tracking_store_of_ones_own_is_left_as_it_is(checkout: Path, monkeypatch):
    cluster = Cluster()
    ran(cluster, checkout, monkeypatch, "--tracking-uri=http://mlflow.example")
    assert shlex.split(cluster.jobs[0].entrypoint)[3:] == ["--tracking-uri=http://mlflow.example"]


@pytest.mark.parametrize("code", [0, 1, 2])
def test_the_jobs_exit_code_is_the_commands(checkout: Path, monkeypatch, code: int):
    assert ran(Cluster(ends_with=code), checkout, monkeypatch) == code


def test_a_job_that_never_ran_is_a_failure_with_its_reason(checkout: Path, monkeypatch, capsys):
    assert ran(Cluster(ends_with=None), checkout, monkeypatch) == 1
    assert "its driver was lost" in capsys.readouterr().err


def test_a_broken_connection_is_reopened_and_nothing_is_printed_twice(checkout: Path, monkeypatch, capsys):
    cluster = Cluster(breaks=(1, 2, 0))
    assert ran(cluster, checkout, monkeypatch) == 0
    assert cluster.connections == 4
    assert len(cluster.jobs) == 1
    said = capsys.readouterr()
    assert [line for line in said.out.splitlines(keepends=True) if "stages" in line] == list(LINES)
    assert said.err.count("reconnecting") == 3


def test_the_same_command_follows_the_job_that_runs(checkout: Path, monkeypatch, capsys):
    cluster = Cluster()
    ran(cluster, checkout, monkeypatch)
    cluster.jobs[0].ended = False
    ran(cluster, checkout, monkeypatch)
    assert len(cluster.jobs) == 1
    assert "different code" not in capsys.readouterr().err


def test_following_a_job_with_different_code_warns(checkout: Path, monkeypatch, capsys):
    cluster = Cluster()
    ran(cluster, checkout, monkeypatch)
    cluster.jobs[0].ended = False
    monkeypatch.setattr(provenance, "code", lambda: "changed")
    ran(cluster, checkout, monkeypatch)
    assert "submitted with different code" in capsys.readouterr().err


def test_a_cluster_that_refuses_is_one_line(checkout: Path, monkeypatch):
    def refuse(**more: Any) -> str:
        raise RuntimeError("Request failed with status code 401:\nInvalid token")

    cluster = Cluster()
    monkeypatch.setattr(cluster, "submit_job", refuse)
    reason = "^the cluster does not accept the job: Request failed with status code 401: Invalid"
    with pytest.raises(UserError, match=reason):
        ran(cluster, checkout, monkeypatch)


def test_a_job_that_has_ended_is_followed_by_the_next(checkout: Path, monkeypatch):
    cluster = Cluster()
    for flags in ((), (), ("--seeds", "2")):
        ran(cluster, checkout, monkeypatch, *flags)
    first, second, other = (job.submission_id for job in cluster.jobs)
    assert (first.rpartition("-")[0], first[-2:], second[-2:]) == (second.rpartition("-")[0], "-1", "-2")
    assert other.rpartition("-")[0] != first.rpartition("-")[0]


def test_a_study_outside_the_folder_that_is_shipped_is_refused(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory
):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "mine.py"
    elsewhere.touch()
    with pytest.raises(UserError, match=r"mine\.py is not in .*, the folder of cluster\.yaml"):
        run_on_cluster(elsewhere, ["smoke", "--cluster", "cluster.yaml"], checkout / "cluster.yaml")


def test_a_cluster_file_that_is_not_there_is_refused(checkout: Path):
    with pytest.raises(UserError, match=r"no cluster file .*other\.yaml"):
        run_on_cluster(checkout / "studies" / "mine.py", ["smoke"], checkout / "other.yaml")


def test_a_head_that_cannot_be_reached_is_one_line(checkout: Path, monkeypatch, capsys):
    """Through the command line, with Ray's ssh."""
    from halflife.kits.backdoor import Settings
    from halflife.results import study_report
    from halflife.sweep.cli import Preset

    (checkout / "cluster.yaml").write_text(
        "cluster_name: nowhere\n"
        "provider: {type: local, head_ip: 127.0.0.1, worker_ips: []}\n"
        "auth: {ssh_user: nobody, ssh_private_key: /nowhere}\n"
    )
    monkeypatch.setenv("TMPDIR", str(checkout))  # where Ray stores the state of clusters
    monkeypatch.setattr("sys.argv", [str(checkout / "studies" / "mine.py")])
    presets = {"smoke": Preset(summary="", settings=Settings(sizes=("30k",), seeds=1))}
    with pytest.raises(SystemExit) as end:
        main(
            lambda *_: pytest.fail("nothing is built here"),  # pyright: ignore[reportArgumentType]
            presets,
            report=study_report,
            description=None,
            arguments=["smoke", "--cluster", str(checkout / "cluster.yaml")],
        )
    assert end.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: cannot connect to the head of")
    assert "\n" not in error
