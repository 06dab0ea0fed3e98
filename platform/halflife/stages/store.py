"""The store: what has been computed, as folders below the results root.

    <results>/halflife.json                      {"store": 1}
    <results>/stages/<kind>-<key>/DONE           names one attempt, its checksums and summary: the stage is complete
                                 /lease-<n>.json who computes it now
                                 /attempts/<id>/ what one attempt made: stage.json, metrics.parquet, weights, ...

DONE is created exclusively and never changed: the first attempt wins. An attempt found corrupt is marked
RETRACTED, and the next completion is named DONE-2, and so on; the first DONE whose attempt stands is the truth.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halflife.errors import UserError
from halflife.stages import files, leases
from halflife.stages.base import Outcome, Stage

if TYPE_CHECKING:
    import polars as pl

VERSION = 1
METRICS = "metrics.parquet"
RECORD = "stage.json"
RETRACTED = "RETRACTED"
_ATTEMPT = re.compile(r"[0-9A-Za-z-]+")


class Corrupt(Exception):
    """A completed stage's files are not what DONE says. It has been retracted: running the stage mends it."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """A DONE file: the outcome, and what the attempt's files are."""

    outcome: Outcome
    files: dict[str, dict[str, Any]]
    ended: str
    """ISO 8601, UTC."""

    def encode(self) -> bytes:
        body = {
            "status": self.outcome.status,
            "attempt": self.outcome.attempt,
            "summary": plain(self.outcome.summary),
            "files": self.files,
            "ended": self.ended,
        }
        return json.dumps({**body, "digest": _digest(body)}, indent=1).encode()

    @staticmethod
    def read(path: Path) -> Done | None:
        """None when the file is absent, or does not prove its own content."""
        body = files.read_json(path) or {}
        if not body or body.pop("digest", None) != _digest(body):
            return None
        if not _ATTEMPT.fullmatch(body["attempt"]) or not all(_stays_below(name) for name in body["files"]):
            return None
        outcome = Outcome(status=body["status"], attempt=body["attempt"], summary=body["summary"])
        return Done(outcome=outcome, files=body["files"], ended=body["ended"])


class Store:
    """Stages below a results root. Opening writes nothing.

    Raises UserError when the root is no folder, or holds results of another version of the store.
    """

    def __init__(self, root: Path | str) -> None:
        if re.match(r"[a-z][a-z0-9+.-]+:/", str(root)):  # Path makes one slash of two
            raise UserError(f"results in {root}: expected a folder of this machine or a mounted one, such as 'results'")
        self.root = Path(root).absolute()
        self._verified: set[tuple[str, str]] = set()
        self._check_version()

    def prepare(self) -> None:
        """Make the root and its version file. Raises UserError when it cannot be written."""
        try:
            (self.root / "stages").mkdir(parents=True, exist_ok=True)
            files.create(self.root / "halflife.json", json.dumps({"store": VERSION}).encode())
        except OSError as error:
            raise UserError(f"cannot write results to {self.root}: {error.strerror}; name another folder") from error
        self._check_version()

    def _check_version(self) -> None:
        if self.root.exists() and not self.root.is_dir():
            raise UserError(f"results {self.root} is a file: expected a folder")
        path = self.root / "halflife.json"
        version = (files.read_json(path) or {}).get("store")
        if path.exists() and version != VERSION:
            raise UserError(
                f"results folder {self.root} has store version {version}, this halflife reads {VERSION}: "
                "name another folder, or use the version of halflife that wrote it"
            )

    def folder(self, stage: Stage) -> Path:
        return self.root / "stages" / stage.folder_name

    def folders(self) -> list[Path]:
        """The folders of all stages that the store holds, in the order of names."""
        paths = (self.root / "stages" / name for name in files.names(self.root / "stages"))
        return [path for path in paths if path.is_dir()]

    def outcome(self, stage: Stage) -> Outcome | None:
        """How the stage ended, or None while it has not.

        Sizes of its files and the checksum of its points are looked at; an attempt that fails is retracted,
        with a warning, so that the stage is computed again.
        """
        done = self.done(self.folder(stage))
        return done.outcome if done else None

    def done(self, folder: Path) -> Done | None:
        """As `outcome`, with checksums, for a stage known by its folder."""
        while (done := standing(folder)) and (problem := self._problem(folder, done, thorough=False)):
            self._retract(folder, done, problem)
        return done

    def verified(self, stage: Stage) -> Path | None:
        """Folder of the completed attempt, every file's checksum seen once by this store; None while there is none.

        A corrupt attempt is retracted with a warning.
        """
        folder = self.folder(stage)
        while done := self.done(folder):
            attempt = folder / "attempts" / done.outcome.attempt
            if (stage.key, done.outcome.attempt) in self._verified:
                return attempt
            problem = self._problem(folder, done, thorough=True)
            if not problem:
                self._verified.add((stage.key, done.outcome.attempt))
                return attempt
            self._retract(folder, done, problem)
        return None

    def points(self, stage: Stage) -> pl.DataFrame:
        """Every point of a completed stage: step (tokens since it began), name (`<task>/<measure>`), value.

        Raises Corrupt when the stage is not complete or its points are damaged.
        """
        done = self.done(self.folder(stage))
        if not done:
            raise Corrupt(f"stage {stage.folder_name} is not complete: run the same command again")
        return read_points(self.folder(stage) / "attempts" / done.outcome.attempt)

    def holder(self, stage: Stage) -> leases.Lease | None:
        """The lease on the stage, with its progress; None when there is none, or its holder has surely ended."""
        lease = leases.current(self.folder(stage))
        return None if lease is None or lease.gone else lease

    def complete(self, stage: Stage, outcome: Outcome) -> Outcome:
        """Name an attempt as the stage's result. Returns the outcome that stands: another's, if it came first."""
        folder = self.folder(stage)
        attempt = folder / "attempts" / outcome.attempt
        done = Done(outcome=outcome, files=files.manifest(attempt), ended=datetime.now(UTC).isoformat())
        for name in _done_names():
            if files.create(folder / name, done.encode()) or standing(folder):
                break
        result = standing(folder)
        if result is None:
            raise Corrupt(f"DONE of {folder} could not be read back")
        return result.outcome

    def _problem(self, folder: Path, done: Done, *, thorough: bool) -> str | None:
        attempt = folder / "attempts" / done.outcome.attempt
        metrics = {name: entry for name, entry in done.files.items() if name == METRICS}
        return files.mismatch(attempt, done.files, checksums=thorough) or files.mismatch(
            attempt, metrics, checksums=True
        )

    def _retract(self, folder: Path, done: Done, problem: str) -> None:
        attempt = folder / "attempts" / done.outcome.attempt
        warnings.warn(f"stage {folder.name} is corrupt ({problem}): it will be computed again", stacklevel=3)
        attempt.mkdir(parents=True, exist_ok=True)  # its files may be gone altogether
        files.write(attempt / RETRACTED, problem.encode())


def standing(folder: Path) -> Done | None:
    """The first DONE of a stage folder whose attempt has not been retracted."""
    for name in _done_names():
        path = folder / name
        done = Done.read(path)
        if done is None:
            if not path.exists():
                return None
        elif not (folder / "attempts" / done.outcome.attempt / RETRACTED).exists():
            return done
    return None


def _done_names() -> Iterator[str]:
    yield "DONE"
    number = 2
    while True:
        yield f"DONE-{number}"
        number += 1


def read_points(folder: Path) -> pl.DataFrame:
    """The points kept in an attempt or a checkpoint, in the order of steps; none when there is no file of them.

    Raises Corrupt when the file cannot be read.
    """
    import polars as pl

    data = files.read(folder / METRICS)
    if data is None:
        return pl.DataFrame(schema=_point_schema())
    try:
        return pl.read_parquet(io.BytesIO(data))
    except pl.exceptions.PolarsError as error:
        raise Corrupt(f"{folder / METRICS} cannot be read: {error}") from error


def write_points(folder: Path, rows: list[tuple[int, str, float]]) -> None:
    """Keep points (step, name, value); of two at the same step and name the later stands."""
    import polars as pl

    frame = pl.DataFrame(rows, schema=_point_schema(), orient="row")
    frame = frame.unique(["step", "name"], keep="last", maintain_order=True).sort("step", maintain_order=True)
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    files.write(folder / METRICS, buffer.getvalue())


def _point_schema() -> dict[str, Any]:
    import polars as pl

    return {"step": pl.Int64, "name": pl.String, "value": pl.Float64}


def plain(value: Any) -> Any:
    """`value` as strict JSON data: numbers of other libraries as Python's, what is not finite as None (missing)."""
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _stays_below(name: str) -> bool:
    return not name.startswith("/") and ".." not in name.split("/")
