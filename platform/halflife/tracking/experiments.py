"""A study's experiment in MLflow: found, made, restored after its deletion, or pointed to a folder that was moved."""

from __future__ import annotations

import re
import sqlite3
import warnings
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from halflife.secrets import masked
from halflife.tracking import schema
from halflife.tracking.page import KIND

_SECONDS = 5.0
"""How long to wait for a locked database."""
_PERMANENT = {
    "INVALID_PARAMETER_VALUE",
    "RESOURCE_DOES_NOT_EXIST",
    "RESOURCE_ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "BAD_REQUEST",
    "INVALID_STATE",
    "FEATURE_DISABLED",
}
_UNWRITABLE = (PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError)
"""Of a folder of artifacts on this machine."""


class Rejected(Exception):
    """The server will never accept this; retrying is useless."""


def find(
    client: Any, uri: str, name: str, *, description: str, artifacts: Path | None, page: Mapping[str, str] | None = None
) -> str:
    """The id of the experiment, which is created if there is none. `artifacts` is where its files are stored, `page`
    further tags: of an experiment that is there, the views are renewed, and the kind stays as people chose it."""
    found = client.get_experiment_by_name(name)
    if found is None:
        location = artifacts.resolve().as_uri() if artifacts else None
        tags = {
            "mlflow.note.content": description,
            schema.TAG_STUDY: name,
            schema.TAG_SCHEMA: str(schema.SCHEMA),
            **(page or {}),
        }
        try:
            return client.create_experiment(name, artifact_location=location, tags=tags)
        except Exception as error:
            if getattr(error, "error_code", None) != "RESOURCE_ALREADY_EXISTS":
                raise
        found = client.get_experiment_by_name(name)  # another sweep has just created it
    if artifacts and uri.startswith("sqlite:"):
        _follow(found, schema.sqlite_path(uri).resolve(), artifacts.resolve())
    if found.lifecycle_stage != "active":  # MLflow keeps its name, so another cannot take its place
        _restore(client, name, found.experiment_id)
    for tag, value in (page or {}).items():
        if tag not in found.tags or (tag != KIND[0] and found.tags[tag] != value):
            client.set_experiment_tag(found.experiment_id, tag, value)
    return found.experiment_id


def _restore(client: Any, name: str, experiment_id: str) -> None:
    try:
        client.restore_experiment(experiment_id)
    except Exception as error:
        if transient(error):
            raise
        raise Rejected(
            f"experiment {name!r} was deleted in MLflow and cannot be restored ({one_line(error)}): "
            f"run `mlflow experiments restore --experiment-id {experiment_id}` with the right to do so"
        ) from error
    warnings.warn(f"experiment {name!r} was deleted in MLflow: it is restored, with its runs", stacklevel=2)


def _follow(experiment: Any, database: Path, artifacts: Path) -> None:
    """In a results folder that was moved or copied, point the experiment and its runs to the artifacts next to their
    database. MLflow has no call for that."""
    old, new, number = experiment.artifact_location, artifacts.as_uri(), int(experiment.experiment_id)
    if database.parent != artifacts.parent or old == new or not re.fullmatch("file:.*/artifacts", old):
        return
    length = len(old) + 1
    try:
        with closing(sqlite3.connect(database, timeout=_SECONDS)) as connection, connection:
            connection.execute(
                "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) "
                "WHERE experiment_id = ? AND substr(artifact_uri, 1, ?) = ?",
                (new, length, number, length, f"{old}/"),
            )
            connection.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (new, number))
    except sqlite3.OperationalError as error:
        raise OSError(f"{database}: {error}") from error  # locked: try again


def transient(error: Exception) -> bool:
    """Whether a retry may help: the server is down or busy, or has an internal error."""
    code = getattr(error, "error_code", None)
    if code is not None:
        return code not in _PERMANENT
    response = getattr(error, "response", None)  # of an artifact upload
    if response is not None and 400 <= response.status_code < 500:
        return response.status_code in (408, 429)
    return isinstance(error, OSError) and not isinstance(error, _UNWRITABLE)  # the errors of requests are OSErrors


def one_line(error: Exception) -> str:
    """The message, without secrets, in at most 300 characters."""
    text = " ".join(masked(str(error)).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
