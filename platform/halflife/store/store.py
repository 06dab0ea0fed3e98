"""The store: what has been computed, as folders below the results root.

    <results>/halflife.json                      {"store": 1}
    <results>/stages/<kind>-<key>/DONE           names one attempt, its checksums and summary: the stage is complete
                                 /lease-<n>.json who computes it now
                                 /attempts/<id>/ what one attempt made: stage.json, metrics.parquet, weights, ...

DONE is created exclusively and never changed: the first attempt wins. An attempt found corrupt is marked
RETRACTED, and the next completion is named DONE-2, and so on; the first DONE whose attempt stands is the truth.

The results root may be a bucket. Then all of this lies there, `root` is this machine's copy of it, and an attempt is
made in the copy and uploaded before its DONE is.
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
from halflife.store.files import Where
from halflife.store.remote import Remote
from halflife.store.stage import Outcome, Stage

if TYPE_CHECKING:
    import polars as pl

Listing = dict[str, dict[str, int]]
"""By stage folder: bytes of every object below, by its name."""
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
    def decode(text: bytes) -> Done | None:
        """None when the text does not prove its own content."""
        body = files.as_json(text) or {}
        if not body or body.pop("digest", None) != _digest(body):
            return None
        if not _ATTEMPT.fullmatch(body["attempt"]) or not all(files.stays_below(name) for name in body["files"]):
            return None
        outcome = Outcome(status=body["status"], attempt=body["attempt"], summary=body["summary"])
        return Done(outcome=outcome, files=body["files"], ended=body["ended"])


class Store:
    """Stages below a results root. Opening writes nothing there.

    Raises UserError when the root is no folder and no bucket, cannot be reached, or holds results of another version
    of the store.
    """

    def __init__(self, root: Path | str) -> None:
        address = remote.address_of(root)
        self.root = remote.copy_of(address) if address else Path(root).absolute()
        """The results root on this machine."""
        self.address = address or str(self.root)
        """What opens the same store on another machine."""
        self.location: Where = remote.opened(address) if address else self.root
        """The results root where the store is: `root`, or the bucket that `root` is a copy of."""
        self._verified: set[tuple[str, str]] = set()
        self._prepared = False
        self._check_version()

    @property
    def stages(self) -> Where:
        """Where the folders of stages are."""
        return self.location / "stages"

    def prepare(self) -> None:
        """Make the root and its version file. Raises UserError when it cannot be written."""
        version, path = json.dumps({"store": VERSION}).encode(), self.location / "halflife.json"
        if self._prepared:
            return
        try:
            files.make_folder(self.stages)
            files.create(path, version)
            if isinstance(path, Remote) and path.create(b"of a second writer"):
                path.write(version)
                raise UserError(
                    f"results in {self.address}: this object storage lets a second writer overwrite the first "
                    "(it ignores If-None-Match); expected one that does not, such as AWS S3, or a folder"
                )
        except OSError as error:
            why = " ".join((error.strerror or str(error)).split())[:300]
            raise UserError(f"cannot write results to {self.address}: {why}; name another folder") from error
        self._check_version()
        self._prepared = isinstance(path, Remote)

    def _check_version(self) -> None:
        if self.root.exists() and not self.root.is_dir():
            raise UserError(f"results {self.root} is a file: expected a folder")
        path = self.location / "halflife.json"
        try:
            text = files.read(path)
        except OSError as error:
            if isinstance(path, Path):
                raise
            why = " ".join((error.strerror or str(error)).split())[:300]
            raise UserError(f"results in {self.address} cannot be read: {why}") from error
        version = (files.as_json(text) or {}).get("store")
        if text is not None and version != VERSION:
            raise UserError(
                f"results folder {self.address} has store version {version}, this halflife reads {VERSION}: "
                "name another folder, or use the version of halflife that wrote it"
            )

    def home(self, stage: Stage) -> Where:
        return self.stages / stage.folder_name

    def folder(self, stage: Stage) -> Path:
        """The stage's folder on this machine: where an attempt is made, and its parents are read."""
        return self.local(self.home(stage))

    def local(self, where: Where) -> Path:
        """The place on this machine that stands for one in the store."""
        return self.root / where.below(self.location) if isinstance(where, Remote) else where

    def folders(self) -> list[Where]:
        """The folders of all stages that the store holds, in the order of names."""
        paths = [self.stages / name for name in files.names(self.stages)]
        return [path for path in paths if isinstance(path, Remote) or path.is_dir()]

    def outcome(self, stage: Stage, listing: Listing | None = None) -> Outcome | None:
        """How the stage ended, or None while it has not; told from a listing, if there is one.

        Sizes of its files and the checksum of its points are looked at; an attempt that fails is retracted,
        with a warning, so that the stage is computed again.
        """
        folder = self.home(stage)
        done = self.done(folder) if listing is None else self._glimpsed(folder, listing.get(folder.name, {}))
        return done.outcome if done else None

    def done(self, folder: Where) -> Done | None:
        """As `outcome`, with checksums, for a stage known by its folder."""
        return self._looked_at(folder, sizes=isinstance(folder, Path))

    def _looked_at(self, folder: Where, *, sizes: bool) -> Done | None:
        while (done := standing(folder)) and (problem := self._problem(folder, done) if sizes else None):
            self._retract(folder, done, problem)
        return done

    def listing(self) -> Listing | None:
        """What lies in a bucket, for who asks for many outcomes; None on disk, where to look at each costs nothing."""
        if not isinstance(self.stages, Remote):
            return None
        found: Listing = {}
        for name, size in self.stages.sizes().items():
            folder, _, rest = name.partition("/")
            found.setdefault(folder, {})[rest] = size
        return found

    def _glimpsed(self, folder: Where, listed: dict[str, int]) -> Done | None:
        """As `done`, given the sizes of all that lies below the folder. DONE never changes: this machine keeps it."""
        if "DONE" not in listed:
            return None
        kept = self.local(folder) / "DONE"
        text = files.read(kept) or files.read(folder / "DONE") or b""
        done = Done.decode(text)
        whole = done and all(
            listed.get(f"attempts/{done.outcome.attempt}/{name}") == entry["bytes"]
            for name, entry in done.files.items()
        )
        if done is None or not whole or f"attempts/{done.outcome.attempt}/{RETRACTED}" in listed:
            files.remove(kept)
            return self._looked_at(folder, sizes=True)
        files.make_folder(kept.parent)
        files.write(kept, text)
        return done

    def verified(self, stage: Stage) -> Path | None:
        """Folder of the completed attempt on this machine, every file's checksum seen once by this store; None while
        there is none.

        A corrupt attempt is retracted with a warning.
        """
        folder = self.home(stage)
        while done := self.done(folder):
            attempt = self.folder(stage) / "attempts" / done.outcome.attempt
            if (stage.key, done.outcome.attempt) in self._verified:
                return attempt
            problem = self.brought(folder / "attempts" / done.outcome.attempt, attempt, done.files)
            if not problem:
                self._verified.add((stage.key, done.outcome.attempt))
                return attempt
            self._retract(folder, done, problem)
        return None

    def brought(self, source: Where, folder: Path, expected: dict[str, dict[str, Any]]) -> str | None:
        """Let the files of a manifest be in `folder`, whole. Returns what is wrong with them, in words, or None."""
        if isinstance(source, Remote):
            return files.bring(source, folder, expected)
        return files.mismatch(folder, expected, checksums=True)

    def send(self, folder: Path, names: Iterable[str]) -> None:
        """Let these files of a folder below `root` be where the store is, if that is elsewhere."""
        if isinstance(self.location, Remote):
            (self.location / folder.relative_to(self.root).as_posix()).upload(folder, names)

    def points(self, stage: Stage) -> pl.DataFrame:
        """Every point of a completed stage: step (tokens since it began), name (`<task>/<measure>`), value.

        Raises Corrupt when the stage is not complete or its points are damaged.
        """
        folder = self.home(stage)
        done = self.done(folder)
        if not done:
            raise Corrupt(f"stage {stage.folder_name} is not complete: run the same command again")
        attempt = self.folder(stage) / "attempts" / done.outcome.attempt
        source = folder / "attempts" / done.outcome.attempt
        if isinstance(source, Remote) and (problem := files.bring(source, attempt, _metrics(done))):
            self._retract(folder, done, problem)
            raise Corrupt(f"stage {stage.folder_name} is corrupt ({problem}): run the same command again")
        return read_points(attempt)

    def retracted(self, stage: Stage) -> int:
        """How many completions of a stage that has none standing were found corrupt."""
        return sum(name.startswith("DONE") for name in files.names(self.home(stage)))

    def holder(self, stage: Stage) -> leases.Lease | None:
        """The lease on the stage, with its progress; None when there is none, or its holder has surely ended."""
        lease = leases.current(self.home(stage))
        return None if lease is None or lease.gone else lease

    def complete(
        self, stage: Stage, outcome: Outcome, *, sent: Mapping[str, dict[str, Any]] = MappingProxyType({})
    ) -> Outcome:
        """Name an attempt as the stage's result. Returns the outcome that stands: another's, if it came first.

        `sent` are those of its files that other hosts have put where the store is."""
        folder = self.home(stage)
        attempt = self.folder(stage) / "attempts" / outcome.attempt
        here = {name: entry for name, entry in files.manifest(attempt).items() if name not in sent}
        self.send(attempt, here)
        done = Done(outcome=outcome, files={**sent, **here}, ended=datetime.now(UTC).isoformat())
        for name in _done_names():
            if files.create(folder / name, done.encode()) or standing(folder):
                break
        result = standing(folder)
        if result is None:
            raise Corrupt(f"DONE of {folder} could not be read back")
        return result.outcome

    def _problem(self, folder: Where, done: Done) -> str | None:
        """What can be seen without reading all: sizes, and the checksum of the points. An object is put whole or not at
        all, and keeps; what was removed is found when it is fetched, or in a listing."""
        attempt = folder / "attempts" / done.outcome.attempt
        if isinstance(attempt, Remote):
            sizes = attempt.sizes()
            return next(
                (f"{name} is missing" for name, entry in done.files.items() if sizes.get(name) != entry["bytes"]), None
            )
        return files.mismatch(attempt, done.files, checksums=False) or files.mismatch(
            attempt, _metrics(done), checksums=True
        )

    def _retract(self, folder: Where, done: Done, problem: str) -> None:
        attempt = folder / "attempts" / done.outcome.attempt
        warnings.warn(f"stage {folder.name} is corrupt ({problem}): it will be computed again", stacklevel=3)
        files.make_folder(attempt)  # its files may be gone altogether
        files.write(attempt / RETRACTED, problem.encode())


def _metrics(done: Done) -> dict[str, dict[str, Any]]:
    """The points' entry in the manifest, if there is one."""
    return {name: entry for name, entry in done.files.items() if name == METRICS}


def standing(folder: Where) -> Done | None:
    """The first DONE of a stage folder whose attempt has not been retracted."""
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
