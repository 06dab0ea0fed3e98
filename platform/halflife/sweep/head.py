"""What cluster.yaml has a cluster's head do: `python -m halflife.sweep.head results | mlflow | password`.

One secret, Ray's token, reaches every host. MLflow's password is derived from it one way, so that a colleague who may
look at the runs cannot run code.
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

MLFLOW = "http://127.0.0.1:5000"
USER = "admin"


def token() -> str:
    """Ray's token of this machine. Raises UserError when there is none."""
    path = Path.home() / ".ray" / "auth_token"
    try:
        return path.read_text().strip()
    except OSError as error:
        raise UserError(f"no cluster token in {path}: `ray get-auth-token --generate` makes one") from error


def mlflow_password() -> str:
    """MLflow's password on the cluster that this machine's token opens."""
    return _derived("mlflow password")


def log_in(tracking_uri: str) -> None:
    """Give this process's MLflow client its account, where the store is the cluster's own server."""
    if tracking_uri == MLFLOW:
        os.environ.setdefault("MLFLOW_TRACKING_USERNAME", USER)
        os.environ.setdefault("MLFLOW_TRACKING_PASSWORD", mlflow_password())


def configuration() -> dict[str, Any]:
    """cluster.yaml as `ray up` has left it here, every default filled in; empty where it has not been."""
    import yaml

    path = Path.home() / "ray_bootstrap_config.yaml"
    return yaml.safe_load(path.read_text()) if path.exists() else {}


def results() -> str:
    """Where the cluster keeps its results: `results` of the provider block, an AWS account's number filled in."""
    provider = configuration().get("provider", {})
    if "results" not in provider:
        raise UserError("cluster.yaml names no results: expected provider.results, a bucket or a folder all hosts see")
    return aws.named(provider["results"])


def serve_mlflow() -> None:
    """Become the MLflow server: on loopback, behind a password, artifacts with the results.

    Its database stays on the head's disk; a new head's is filled from the stage folders by the next sweep.
    """
    folder = Path.home() / "halflife-mlflow"
    folder.mkdir(mode=0o700, exist_ok=True)
    password = mlflow_password()
    users = f"users-{hashlib.sha256(password.encode()).hexdigest()[:8]}.db"  # MLflow reads the password once a database
    (folder / "auth.ini").write_text(
        "[mlflow]\n"
        "default_permission = NO_PERMISSIONS\n"
        f"database_uri = sqlite:///{folder / users}\n"
        f"admin_username = {USER}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        "auth_cache_ttl_seconds = 300\n"  # else every request hashes the password anew
    )
    environment = {
        **os.environ,
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight processes that nothing here uses
        "MLFLOW_FLASK_SERVER_SECRET_KEY": _derived("mlflow sessions"),
    }
    environment.pop("MLFLOW_TRACKING_URI", None)  # its own address
    os.execvpe(
        "mlflow",
        [
            *("mlflow", "server", "--host", "127.0.0.1", "--port", MLFLOW.rpartition(":")[2], "--workers", "1"),
            *("--app-name", "basic-auth", "--allowed-hosts", "127.0.0.1:*,localhost:*"),
            *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
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
            raise UserError(f"{' '.join(arguments) or 'nothing'} was asked for: expected {', '.join(COMMANDS)}")
        COMMANDS[arguments[0]]()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main(sys.argv[1:])
