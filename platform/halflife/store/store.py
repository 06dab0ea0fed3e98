"""The store: computed stages, as folders below the results root.

    <results>/halflife.json                      {"store": 1}
    <results>/stages/<kind>-<key>/DONE           the stage is complete: names an attempt, its checksums and summary
                                 /lease-<n>.json which process is computing it
                                 /attempts/<id>/ the files of one attempt: stage.json, metrics.parquet, weights, ...

DONE is created exclusively and never changed: the first attempt wins. An attempt found corrupt is marked RETRACTED, and
the next completion creates DONE-2, and so on. The result is the first DONE whose attempt is not retracted.

The results root may be in a bucket. Then `root` is this machine's copy of it; attempts are written to the copy and
uploaded before their DONE.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from halflife.errors import UserError
from halflife.store import files, leases, remote
from halflife.store.files import AnyPath, Manifest
from halflife.store.remote import Remote
from halflife.store.stage import Outcome, Stage

if TYPE_CHECKING:
    import polars as pl

Listing = dict[str, dict[str, int]]
"""Bytes of every object in a bucket, by stage folder and relative name."""
VERSION = 1
METRICS = "metrics.parquet"
RECORD = "stage.json"
RETRACTED = "RETRACTED"
_ATTEMPT = re.compile(r"[0-9A-Za-z-]+")
_FOLDER = re.compile(r"[a-z0-9-]+-[0-9a-f]{20}")


class Corrupt(Exception):
    """A completed stage's files do not match DONE. The result is retracted: run the stage again."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """A DONE file: the outcome, and the manifest of the attempt."""

    outcome: Outcome
    files: Manifest
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
    def decode(text: bytes) -> Done | None:
        """None if the text is incomplete or damaged."""
        body = files.as_json(text) or {}
        if not body or body.pop("digest", None) != _digest(body):
            return None
        if not _ATTEMPT.fullmatch(body["attempt"]) or not all(files.is_inside(name) for name in body["files"]):
            return None
        outcome = Outcome(status=body["status"], attempt=body["attempt"], summary=body["summary"])
        return Done(outcome=outcome, files=body["files"], ended=body["ended"])


class Store:
    """Stages below a results root, a folder or the address of a bucket. Opening it writes nothing.

    Raises UserError when the root is a file, cannot be read, or was written by another version of the store.
    """

    def __init__(self, root: Path | str) -> None:
        address = remote.address_of(root)
        self.root = remote.copy_of(address) if address else Path(root).absolute()
        """The results root on this machine."""
        self.address = address or str(self.root)
        """Opens the same store on another machine."""
        self.location: AnyPath = remote.opened(address) if address else self.root
        """The results root in the store: `root`, or the bucket that `root` is a copy of."""
        self.in_bucket = address is not None
        self._verified: set[tuple[str, str]] = set()
        self._prepared = False
        self._check_version()

    @property
    def stages(self) -> AnyPath:
        """The parent of the stage folders."""
        return self.location / "stages"

    def prepare(self) -> None:
        """Create the root and its version file. Raises UserError when it cannot be written."""
        version, path = json.dumps({"store": VERSION}).encode(), self.location / "halflife.json"
        if self._prepared:
            return
        try:
            files.make_folder(self.stages)
            files.create(path, version)
            if isinstance(path, Remote) and path.create(b"of a second writer"):
                path.write(version)
                raise UserError(
                    f"results in {self.address}: this object storage ignores If-None-Match, so a second writer can "
                    "overwrite the first; expected storage that supports it, such as AWS S3, or a folder"
                )
        except OSError as error:
            why = " ".join((error.strerror or str(error)).split())[:300]
            raise UserError(f"cannot write results to {self.address}: {why}; choose another folder") from error
        self._check_version()
        self._prepared = self.in_bucket

    def _check_version(self) -> None:
        if self.root.exists() and not self.root.is_dir():
            raise UserError(f"results {self.root} is a file: expected a folder")
        path = self.location / "halflife.json"
        try:
            text = files.read(path)
        except OSError as error:
            why = " ".join((error.strerror or str(error)).split())[:300]
            raise UserError(f"results in {self.address} cannot be read: {why}") from error
        version = (files.as_json(text) or {}).get("store")
        if text is not None and version != VERSION:
            raise UserError(
                f"results folder {self.address} has store version {version}, this halflife reads {VERSION}: "
                "choose another folder, or use the version of halflife that wrote it"
            )

    def home(self, stage: Stage) -> AnyPath:
        """The stage's folder in the store."""
        return self.stages / stage.folder_name

    def folder(self, stage: Stage) -> Path:
        """The stage's folder on this machine, where attempts are written and read."""
        return self.local(self.home(stage))

    def local(self, path: AnyPath) -> Path:
        """The path on this machine for a path in the store."""
        return self.root / path.relative_to(self.location)  # pyright: ignore[reportArgumentType]

    def folders(self) -> list[AnyPath]:
        """The folders of all stages, sorted by name."""
        return [self.stages / name for name in files.names(self.stages) if _FOLDER.fullmatch(name)]

    def outcome(self, stage: Stage, listing: Listing | None = None) -> Outcome | None:
        """How the stage ended, or None while it has not; from a listing, if given.

        Checks the sizes of its files and the checksum of its points. An attempt that fails is retracted with a
        warning, so that the stage is computed again.
        """
        folder = self.home(stage)
        done = self.done(folder) if listing is None else self._listed(folder, listing.get(folder.name, {}))
        return done.outcome if done else None

    def done(self, folder: AnyPath) -> Done | None:
        """Like `outcome`, with the manifest, for a stage folder. In a bucket the files are not checked here."""
        return self._checked(folder, sizes=not self.in_bucket)

    def _checked(self, folder: AnyPath, *, sizes: bool) -> Done | None:
        while (done := valid_done(folder)) and (problem := self._problem(folder, done) if sizes else None):
            self._retract(folder, done, problem)
        return done

    def listing(self) -> Listing | None:
        """A listing of the bucket, to look up many outcomes at once; None on disk, where each lookup is cheap."""
        if not isinstance(self.stages, Remote):
            return None
        found: Listing = {}
        for name, size in self.stages.sizes().items():
            folder, _, rest = name.partition("/")
            found.setdefault(folder, {})[rest] = size
        return found

    def _listed(self, folder: AnyPath, listed: dict[str, int]) -> Done | None:
        """Like `done`, from the sizes of all files below the folder. DONE never changes, so the local copy has it
        cached."""
        if "DONE" not in listed:
            return None
        cached = self.local(folder) / "DONE"
        text = files.read(cached) or files.read(folder / "DONE") or b""
        done = Done.decode(text)
        whole = done and all(
            listed.get(f"attempts/{done.outcome.attempt}/{name}") == entry["bytes"]
            for name, entry in done.files.items()
        )
        if done is None or not whole or f"attempts/{done.outcome.attempt}/{RETRACTED}" in listed:
            files.remove(cached)
            return self._checked(folder, sizes=True)
        files.make_folder(cached.parent)
        files.write(cached, text)
        return done

    def verified(self, stage: Stage) -> Path | None:
        """Folder of the completed attempt on this machine, or None while there is none.

        Every file's checksum is verified once per Store. A corrupt attempt is retracted with a warning.
        """
        folder = self.home(stage)
        while done := self.done(folder):
            attempt = self.folder(stage) / "attempts" / done.outcome.attempt
            if (stage.key, done.outcome.attempt) in self._verified:
                return attempt
            problem = files.fetch(folder / "attempts" / done.outcome.attempt, attempt, done.files)
            if not problem:
                self._verified.add((stage.key, done.outcome.attempt))
                return attempt
            self._retract(folder, done, problem)
        return None

    def upload(self, folder: Path, names: Iterable[str]) -> None:
        """Upload these files of a folder below `root` if the store is in a bucket."""
        files.upload(folder, names, self.location / folder.relative_to(self.root).as_posix())

    def points(self, stage: Stage) -> pl.DataFrame:
        """The points of a completed stage: step (tokens since it began), name (`<task>/<measure>`), value.

        Raises Corrupt when the stage is not complete or its points are damaged.
        """
        folder = self.home(stage)
        done = self.done(folder)
        if not done:
            raise Corrupt(f"stage {stage.folder_name} is not complete: run the same command again")
        attempt = self.folder(stage) / "attempts" / done.outcome.attempt
        source = folder / "attempts" / done.outcome.attempt
        if self.in_bucket and (problem := files.fetch(source, attempt, _metrics(done))):
            self._retract(folder, done, problem)
            raise Corrupt(f"stage {stage.folder_name} is corrupt ({problem}): run the same command again")
        return read_points(attempt)

    def retracted(self, stage: Stage) -> int:
        """For an unfinished stage: how many of its completions were found corrupt."""
        return sum(name.startswith("DONE") for name in files.names(self.home(stage)))

    def holder(self, stage: Stage) -> leases.Lease | None:
        """The lease on the stage, with its progress; None if there is none, or its holder has certainly ended."""
        lease = leases.current(self.home(stage))
        return None if lease is None or lease.gone else lease

    def complete(
        self, stage: Stage, outcome: Outcome, *, sent: Mapping[str, dict[str, Any]] = MappingProxyType({})
    ) -> Outcome:
        """Make an attempt the stage's result. Returns the valid outcome: another attempt's, if that was first.

        `sent` is the manifest of its files that other hosts have uploaded."""
        folder = self.home(stage)
        attempt = self.folder(stage) / "attempts" / outcome.attempt
        own = {name: entry for name, entry in files.manifest(attempt).items() if name not in sent}
        self.upload(attempt, own)
        done = Done(outcome=outcome, files={**sent, **own}, ended=datetime.now(UTC).isoformat())
        for name in _done_names():
            if files.create(folder / name, done.encode()) or valid_done(folder):
                break
        result = valid_done(folder)
        if result is None:
            raise Corrupt(f"DONE of {folder} could not be read back")
        return result.outcome

    def _problem(self, folder: AnyPath, done: Done) -> str | None:
        """What is wrong, or None, without reading all files: sizes on disk and in a bucket, and the checksum of the
        points on disk. Objects are written atomically, so their contents are checked only when downloaded."""
        attempt = folder / "attempts" / done.outcome.attempt
        if isinstance(attempt, Remote):
            sizes = attempt.sizes()
            return next(
                (f"{name} is missing" for name, entry in done.files.items() if sizes.get(name) != entry["bytes"]), None
            )
        return files.mismatch(attempt, done.files, checksums=False) or files.mismatch(
            attempt, _metrics(done), checksums=True
        )

    def _retract(self, folder: AnyPath, done: Done, problem: str) -> None:
        attempt = folder / "attempts" / done.outcome.attempt
        warnings.warn(f"stage {folder.name} is corrupt ({problem}): it will be computed again", stacklevel=3)
        files.make_folder(attempt)  # the whole folder may be gone
        files.write(attempt / RETRACTED, problem.encode())


def _metrics(done: Done) -> Manifest:
    """The manifest's entry for the points, if there is one."""
    return {name: entry for name, entry in done.files.items() if name == METRICS}


def valid_done(folder: AnyPath) -> Done | None:
    """The first DONE in a stage folder whose attempt is not retracted."""
    for name in _done_names():
        text = files.read(folder / name)
        if text is None:
            return None
        done = Done.decode(text)
        if done and not (folder / "attempts" / done.outcome.attempt / RETRACTED).exists():
            return done
    return None


def _done_names() -> Iterator[str]:
    yield "DONE"
    number = 2
    while True:
        yield f"DONE-{number}"
        number += 1


def read_points(folder: Path) -> pl.DataFrame:
    """The points in an attempt or a checkpoint, ordered by step; empty if there is no such file.

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
    """Write points (step, name, value). The last one counts if several have the same step and name."""
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
    """`value` as strict JSON data: numpy and torch scalars as Python numbers, NaN and infinity as None (missing)."""
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
