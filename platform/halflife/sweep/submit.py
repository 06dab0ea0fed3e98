"""`--cluster cluster.yaml`: submit a study's command to a cluster as a job, and follow it.

The folder of cluster.yaml is shipped, and the head runs the same command in it. Everything goes through one ssh
connection that forwards the head's dashboard. If it breaks, the job continues and we reconnect. Running the same
command again follows the running job, or submits a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import json
import logging
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halflife.errors import UserError
from halflife.store import provenance
from halflife.sweep import head

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

EXCLUDED = [".git", ".venv", "results", "tests", "docs"]
"""Not shipped, in addition to what .gitignore lists."""
CONNECT_SECONDS = 120.0
PAUSE_SECONDS = 5.0
_FORWARD = """
import os, signal, sys, threading
from ray.autoscaler.sdk import run_on_cluster

def end_with_owner():
    os.read(int(sys.argv[3]), 1)
    os.killpg(0, signal.SIGTERM)

threading.Thread(target=end_with_owner, daemon=True).start()
run_on_cluster(sys.argv[1], cmd="sleep infinity", port_forward=(int(sys.argv[2]), 8265))
"""
"""The process that holds the ssh connection. Arguments: cluster file, local port, a pipe that closes when we die."""


def run_on_cluster(script: Path, arguments: list[str], cluster: Path) -> int:
    """Submit the command to the cluster, or find it running there, and print its output until it ends.

    Returns the job's exit code. KeyboardInterrupt leaves the job running. Raises UserError when the cluster cannot be
    reached or the study is not in the shipped folder.
    """
    if importlib.util.find_spec("aiohttp_cors") is None:
        raise UserError("--cluster needs Ray's job client, which is not installed: make install-cluster")
    root = _root(script, cluster)
    os.environ["RAY_AUTH_MODE"] = "token"
    head.token()
    command = _command(script.resolve().relative_to(root), _without_cluster(arguments))
    name = f"{script.stem}-{arguments[0]}-{hashlib.sha256(command.encode()).hexdigest()[:8]}"
    job, echo = None, _Echo()
    while True:
        with _connected(cluster) as client:
            try:
                if job is None:
                    job = _running(client, name) or _submitted(client, name, command, root)
                    print(
                        f"job {job}: it keeps running if you detach; run the same command to follow it again",
                        flush=True,
                    )
                    print(f"to stop it: ray exec {cluster} 'ray job stop {job}'", flush=True)
                asyncio.run(echo.follow(client, job))
                details = client.get_job_info(job)
                if details.status.is_terminal():
                    return _ended(details)
            except (RuntimeError, OSError) as error:  # what Ray raises when the connection breaks
                if job is None:
                    raise UserError(f"the cluster does not accept the job: {_line(error)}") from error
                print(f"lost the connection to the cluster ({_line(error)}): reconnecting", file=sys.stderr)
        time.sleep(PAUSE_SECONDS)


def _root(script: Path, cluster: Path) -> Path:
    """The folder to ship."""
    if not cluster.is_file():
        raise UserError(f"no cluster file {cluster}: expected one for `ray up`, such as cluster.yaml")
    root = cluster.resolve().parent
    if not script.resolve().is_relative_to(root):
        raise UserError(f"{script} is not in {root}, the folder of {cluster.name}: only that folder is shipped")
    return root


def _without_cluster(arguments: list[str]) -> list[str]:
    kept, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == "--cluster":
            skip = True
        elif not argument.startswith("--cluster="):
            kept.append(argument)
    return kept


def _command(script: Path, arguments: list[str]) -> str:
    tracked = any(argument.partition("=")[0] in ("--tracking-uri", "--tracking_uri") for argument in arguments)
    server = [] if tracked else ["--tracking-uri", head.MLFLOW]
    return shlex.join(["python", script.as_posix(), *arguments, *server])


def _running(client: JobSubmissionClient, name: str) -> str | None:
    """The unfinished job of this name."""
    for job in client.list_jobs():
        if _is_of(job, name) and not job.status.is_terminal():
            shipped = job.metadata.get("code") if job.metadata else None
            if shipped != provenance.code():
                print("warning: the running job was submitted with different code", file=sys.stderr)
            return job.submission_id
    return None


def _submitted(client: JobSubmissionClient, name: str, command: str, root: Path) -> str:
    number = sum(_is_of(job, name) for job in client.list_jobs()) + 1
    origin = {key: value for key, value in provenance.gather().items() if key in ("commit", "changes")}
    return client.submit_job(
        entrypoint=command,
        submission_id=f"{name}-{number}",
        metadata={"code": provenance.code()},
        runtime_env={
            "working_dir": str(root),
            "excludes": EXCLUDED,
            "env_vars": {
                "PYTHONPATH": "platform",
                "PYTHONUNBUFFERED": "1",
                "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # MLflow prints one line per run
                provenance.ORIGIN: json.dumps(origin),
            },
        },
    )


def _is_of(job: JobDetails, name: str) -> bool:
    return (job.submission_id or "").rpartition("-")[0] == name


class _Echo:
    """Prints a job's log. After a reconnect, Ray sends the log from the beginning, so this skips what is printed
    already."""

    def __init__(self) -> None:
        self.printed = 0

    async def follow(self, client: JobSubmissionClient, job: str) -> None:
        """Print until the job ends."""
        received = 0
        async for text in client.tail_job_logs(job):
            new = text[max(0, self.printed - received) :]
            received += len(text)
            self.printed = max(self.printed, received)
            print(new, end="", flush=True)


def _ended(details: JobDetails) -> int:
    code = details.driver_exit_code
    if code is None:  # it never started, or its host is gone
        print(f"the job ended: {details.status}: {_line(details.message or '')}", file=sys.stderr)
        return 1
    return code


@contextlib.contextmanager
def _connected(cluster: Path) -> Iterator[JobSubmissionClient]:
    """A job client of the cluster, over an ssh connection that ends with the block."""
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray").setLevel(logging.WARNING)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryFile("w+") as log:
        theirs, ours = os.pipe()
        tunnel = subprocess.Popen(
            [sys.executable, "-c", _FORWARD, str(cluster), str(port), str(theirs)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[theirs],
            start_new_session=True,  # so that Ctrl-C reaches only us
        )
        os.close(theirs)
        try:
            _await_port(port, tunnel, log, cluster)
            yield JobSubmissionClient(f"http://127.0.0.1:{port}")
        finally:
            os.close(ours)
            tunnel.wait()


def _await_port(port: int, tunnel: subprocess.Popen[bytes], log: Any, cluster: Path) -> None:
    give_up = time.monotonic() + CONNECT_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return
        if tunnel.poll() is not None or time.monotonic() > give_up:
            log.seek(0)
            last = (log.read().strip().splitlines() or ["no answer"])[-1]
            raise UserError(f"cannot connect to the head of {cluster} ({last}): start it with `ray up {cluster}`")
        time.sleep(0.2)


def _line(text: object) -> str:
    return " ".join(str(text).split())[:200]
