"""Commands that cluster.yaml runs on a cluster's head: `python -m halflife.sweep.head results | mlflow | password`.

Ray's token is the only secret and is on every host. MLflow's password is a hash of it, so that someone who may look at
the runs cannot run code.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from halflife.errors import UserError
from halflife.sweep import aws
from halflife.tracking import tables
from halflife.tracking.schema import sqlite_uri

MLFLOW = "http://127.0.0.1:5000"
USER = "admin"


def token() -> str:
    """This machine's Ray token. Raises UserError when there is none."""
    path = Path.home() / ".ray" / "auth_token"
    try:
        return path.read_text().strip()
    except OSError as error:
        raise UserError(f"no cluster token in {path}: create one with `ray get-auth-token --generate`") from error


def mlflow_password() -> str:
    """MLflow's password on the cluster of this machine's token."""
    return _derived("mlflow password")


def log_in(tracking_uri: str) -> None:
    """Log this process's MLflow client in, if the tracking store is the cluster's own server."""
    if tracking_uri == MLFLOW:
        os.environ.setdefault("MLFLOW_TRACKING_USERNAME", USER)
        os.environ.setdefault("MLFLOW_TRACKING_PASSWORD", mlflow_password())


def configuration() -> dict[str, Any]:
    """cluster.yaml as copied here by `ray up`, with all defaults; empty if `ray up` did not start this host."""
    import yaml

    path = Path.home() / "ray_bootstrap_config.yaml"
    return yaml.safe_load(path.read_text()) if path.exists() else {}


def results() -> str:
    """Where the cluster stores results: `provider.results`, with the AWS account number filled in."""
    provider = configuration().get("provider", {})
    if "results" not in provider:
        raise UserError("cluster.yaml has no provider.results: expected a bucket, or a folder that all hosts share")
    return aws.named(provider["results"])


def serve_mlflow() -> None:
    """Replace this process by an MLflow server on loopback, with a password, and artifacts stored with the results.

    Its database is on the head's disk. On a new head, the next sweep fills it from the stage folders.
    """
    folder = Path.home() / "halflife-mlflow"
    folder.mkdir(mode=0o700, exist_ok=True)
    password = mlflow_password()
    users = (
        f"users-{hashlib.sha256(password.encode()).hexdigest()[:8]}.db"  # MLflow reads the password once per database
    )
    (folder / "auth.ini").write_text(
        "[mlflow]\n"
        "default_permission = NO_PERMISSIONS\n"
        f"database_uri = {sqlite_uri(folder / users)}\n"
        f"admin_username = {USER}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        "auth_cache_ttl_seconds = 300\n"  # otherwise every request hashes the password again
    )
    environment = {
        **os.environ,
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # avoids eight unused processes
        "MLFLOW_FLASK_SERVER_SECRET_KEY": _derived("mlflow sessions"),
    }
    environment.pop("MLFLOW_TRACKING_URI", None)  # this server's own address
    tables.make(sqlite_uri(folder / "mlflow.db"))
    os.execvpe(
        "mlflow",
        [
            *("mlflow", "server", "--host", "127.0.0.1", "--port", MLFLOW.rpartition(":")[2], "--workers", "1"),
            *("--app-name", "basic-auth", "--allowed-hosts", "127.0.0.1:*,localhost:*"),
            *("--backend-store-uri", sqlite_uri(folder / "mlflow.db")),
            *("--artifacts-destination", f"{results().rstrip('/')}/artifacts"),
        ],
        environment,
    )


def _derived(use: str) -> str:
    return hashlib.sha256(f"{use}: {token()}".encode()).hexdigest()


COMMANDS: dict[str, Callable[[], None]] = {
    "results": lambda: print(results()),
    "mlflow": serve_mlflow,
    "password": lambda: print(mlflow_password()),
}


def main(arguments: list[str]) -> None:
    """Bad input prints one line and exits with 2."""
    try:
        if len(arguments) != 1 or arguments[0] not in COMMANDS:
            raise UserError(f"unknown command {' '.join(arguments)!r}: expected {', '.join(COMMANDS)}")
        COMMANDS[arguments[0]]()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main(sys.argv[1:])
