"""Where the runs of `--results` are read and reports are written: a folder, or this machine's copy of a bucket."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from analysis.errors import UserError
from analysis.runs.tables import is_tables
from halflife.tracking import schema

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/+(.+)")
"""Matches also if Path collapsed the slashes into one."""
Place = str | os.PathLike[str]


def results_folder(results: Place | None) -> Path:
    """The local folder of `--results` (or HALFLIFE_RESULTS): for a bucket its copy, if there is one, otherwise
    `results`."""
    given = Path(results or os.environ.get("HALFLIFE_RESULTS") or "results")
    if address := _address(given):
        return _copy_of(address) or Path("results")
    return given


def tracking_uri_of(results: Place | None) -> str:
    """The MLflow store of `--results`. Raises UserError if that is a bucket not published from this machine."""
    given = Path(results or os.environ.get("HALFLIFE_RESULTS") or "results")
    database = (results_folder(results) / "mlflow.db").absolute()
    address = _address(given)
    if address and not (_copy_of(address) and database.exists()):
        raise UserError(
            f"results in {address}: the bucket holds stages, while runs are in MLflow; pass --tracking-uri (on a "
            "cluster http://127.0.0.1:5000 after `ray attach cluster.yaml -p 5000`), or run the study's command here "
            "with these --results, which recomputes nothing and publishes them"
        )
    return schema.sqlite_uri(database)


def store_of(results: Place | None, tracking_uri: str | None) -> tuple[str, Path | None]:
    """The MLflow store to read, and where points read from a server are cached (None: `load_study` decides)."""
    uri = _store_at(tracking_uri) if tracking_uri else tracking_uri_of(results)
    return uri, results_folder(results) / "cache" if uri.startswith(("http://", "https://")) else None


def _store_at(given: str) -> str:
    """The store in a folder, or what was given if it is an address. Raises UserError if the folder holds none."""
    if re.match(r"[a-z][a-z0-9+.-]+:|databricks$", given):
        return given
    place = Path(given)
    if place.suffix == ".db" or (place / "mlflow.db").is_file():
        return schema.sqlite_uri((place if place.suffix == ".db" else place / "mlflow.db").absolute())
    if is_tables(given) or any(place.glob("*/meta.yaml")):
        return given
    if (place / "mlruns").is_dir():
        return str(place / "mlruns")
    what = "holds no runs" if place.exists() else "does not exist"
    raise UserError(
        f"--tracking-uri {given} {what}: expected a folder with mlflow.db or mlruns, one written by export, or an "
        "address such as http://127.0.0.1:5000 or sqlite:////tmp/mlflow.db"
    )


def _address(place: Path) -> str | None:
    match = _ADDRESS.fullmatch(str(place))
    return f"{match[1]}://{match[2].rstrip('/')}" if match else None


def _copy_of(address: str) -> Path | None:
    """This machine's copy of a bucket: the folder whose `bucket.json` names it."""
    above = Path(os.environ.get("HALFLIFE_CACHE") or Path.home() / ".cache" / "halflife").absolute()
    for mark in sorted(above.glob("*/bucket.json")):
        try:
            if json.loads(mark.read_bytes()).get("bucket") == address:
                return mark.parent
        except (OSError, ValueError, AttributeError):
            continue
    return None
