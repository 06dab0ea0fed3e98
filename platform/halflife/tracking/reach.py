"""Checks before any compute that the tracking store can be reached, without importing MLflow if possible."""

from __future__ import annotations

import base64
import http.client
import sqlite3
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import unquote, urlsplit

from halflife.errors import UserError
from halflife.secrets import masked
from halflife.tracking.schema import sqlite_path
from halflife.tracking.tables import require_whole

_SECONDS = 5.0
_EXPECTED = "expected sqlite:///PATH, or the http(s) address of a running MLflow server"


def require_reachable(uri: str) -> None:
    """Raises UserError when nothing answers at `uri`, or when it is not an MLflow store."""
    scheme = urlsplit(uri).scheme
    if scheme in ("http", "https"):
        _require_server(uri)
    elif scheme == "sqlite":
        _require_file(uri)
    elif scheme.partition("+")[0] in ("postgresql", "mysql", "mssql"):
        _require_database(uri)
    else:
        raise UserError(f"tracking URI {masked(uri)!r} cannot be used: {_EXPECTED}")


def _require_server(uri: str) -> None:
    parts = urlsplit(uri)
    account, _, host = parts.netloc.rpartition("@")
    address = parts._replace(netloc=host).geturl().rstrip("/") + "/health"
    uri = masked(uri)
    headers = {"Authorization": f"Basic {base64.b64encode(unquote(account).encode()).decode()}"} if account else {}
    try:
        request = urllib.request.Request(address, headers=headers)
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            answer.read(64)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):  # it needs a password, or does not allow this host name
            raise UserError(
                f"the MLflow server at {uri} refuses access ({error.code}): set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, and start the server with --allowed-hosts for this address"
            ) from None
        raise UserError(f"{uri} returned {error.code} for {address}: expected an MLflow server") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"no MLflow server answers at {uri} ({reason}): start it, or omit --tracking-uri to use SQLite"
        ) from None


def _require_file(uri: str) -> None:
    if uri.removeprefix("sqlite:///") in ("", uri):
        raise UserError(f"tracking URI {uri!r} names no file: {_EXPECTED}")
    path = sqlite_path(uri)
    if "%" in uri and (other := _as_opened(uri)) != path:
        raise UserError(f"{path} would be opened as {other} by this SQLAlchemy: choose a folder without % and ?")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with sqlite3.connect(path, timeout=_SECONDS) as connection:
            require_whole(path, connection)
        connection.close()
    except (OSError, sqlite3.Error) as error:
        raise UserError(
            f"the tracking store {path} cannot be opened ({error}): set another with --tracking-uri or --results"
        ) from None


def _as_opened(uri: str) -> Path:
    """The file that MLflow opens: before 2.1, SQLAlchemy did not decode its name."""
    from sqlalchemy import make_url

    return Path(make_url(uri).database or "")


def _require_database(uri: str) -> None:
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError

    try:
        create_engine(uri).connect().close()
    except (SQLAlchemyError, ImportError) as error:
        raise UserError(f"the tracking database {masked(uri)} cannot be reached: {type(error).__name__}") from None
