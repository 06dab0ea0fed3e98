"""Where the runs of `--results` are read, and where reports go: a folder, or this machine's copy of a bucket."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from analysis.errors import UserError

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/+(.+)")
"""Also one whose slashes Path has made one."""
Place = str | os.PathLike[str]


def results_folder(results: Place | None) -> Path:
    """The folder that stands for `--results` (or HALFLIFE_RESULTS) here: of a bucket, its copy, or results."""
    given = Path(results or os.environ.get("HALFLIFE_RESULTS") or "results")
    if address := _address(given):
        return _copy_of(address) or Path("results")
    return given


def tracking_uri_of(results: Place | None) -> str:
    """The MLflow store of `--results`. Raises UserError when that is a bucket whose runs nothing here has published."""
    given = Path(results or os.environ.get("HALFLIFE_RESULTS") or "results")
    database = (results_folder(results) / "mlflow.db").absolute()
    address = _address(given)
    if address and not (_copy_of(address) and database.exists()):
        raise UserError(
            f"results in {address}: the bucket keeps what was computed, its runs are in MLflow; give --tracking-uri (a "
            "cluster's is http://127.0.0.1:5000 after `ray attach cluster.yaml -p 5000`), or run the study's command "
            "here with these --results, which computes nothing again and publishes them"
        )
    return f"sqlite:///{database}"


def store_of(results: Place | None, tracking_uri: str | None) -> tuple[str, Path | None]:
    """The MLflow store to read, and where points read from a server are cached (None: `load_study` decides)."""
    uri = tracking_uri or tracking_uri_of(results)
    return uri, results_folder(results) / "cache" if uri.startswith(("http://", "https://")) else None


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
