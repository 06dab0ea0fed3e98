"""Results in object storage: paths with file operations, and this machine's local copy of a bucket.

Addresses such as s3://bucket/path are opened by fsspec. Results are computed in the local copy and uploaded; the copy
may be deleted at any time. It names its bucket in `bucket.json`, so that the folder can be used in place of the
address.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from halflife.errors import UserError

MARK = "bucket.json"
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/+(.+)")


def address_of(path: Path | str) -> str | None:
    """The bucket's address, given that address (Path may have collapsed its slashes) or the local copy; else None."""
    if match := _ADDRESS.fullmatch(str(path)):
        return f"{match[1]}://{match[2].rstrip('/')}"
    try:
        return json.loads((Path(path) / MARK).read_bytes())["bucket"]
    except (OSError, ValueError, KeyError):
        return None


def copy_of(address: str) -> Path:
    """This machine's copy of a bucket, created if necessary in HALFLIFE_CACHE or ~/.cache/halflife.

    Raises UserError when the folder cannot be created, or when the address contains credentials.
    """
    if "@" in address:
        raise UserError("the bucket's address contains credentials: put them into the environment or ~/.aws")
    cache = Path(os.environ.get("HALFLIFE_CACHE") or Path.home() / ".cache" / "halflife").absolute()
    folder = cache / hashlib.sha256(address.encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if address_of(folder) is None:
            (folder / MARK).write_text(json.dumps({"bucket": address}))
    except OSError as error:
        raise UserError(
            f"cannot create {folder}, the local copy of {address} ({error.strerror}): set HALFLIFE_CACHE to another "
            "folder"
        ) from error
    return folder


def opened(address: str) -> Remote:
    """Raises UserError when the address is invalid, or the package for its scheme is not installed."""
    try:
        from fsspec.core import url_to_fs

        file_system, path = url_to_fs(address, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise UserError(
            f"results in {address}: expected a folder, or a bucket such as s3://bucket/path, which needs "
            f"pip install -c constraints.txt -e '.[train,s3]' ({' '.join(str(error).split())[:120]})"
        ) from error
    return Remote(file_system=file_system, path=path.rstrip("/"))


@dataclass(frozen=True, kw_only=True)
class Remote:
    """An object, or a prefix used like a folder. Every failure is an OSError."""

    file_system: Any
    path: str

    def __truediv__(self, name: str) -> Remote:
        return Remote(file_system=self.file_system, path=f"{self.path}/{name}")

    def __str__(self) -> str:
        return self.file_system.unstrip_protocol(self.path)

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> Remote:
        return Remote(file_system=self.file_system, path=self.path.rpartition("/")[0])

    def relative_to(self, other: Any) -> PurePosixPath:
        """As pathlib's, for a folder `other` above."""
        return PurePosixPath(self.path).relative_to(other.path)

    def read(self) -> bytes | None:
        try:
            return self._call("cat_file", self.path)
        except (FileNotFoundError, IsADirectoryError):
            return None

    def write(self, data: bytes) -> None:
        self._call("pipe_file", self.path, data)

    def create(self, data: bytes) -> bool:
        """Exclusive, by a conditional request (S3: If-None-Match).

        If the client library repeats a request whose response was lost, it finds its own object: that counts as
        created.
        """
        try:
            self._call("pipe_file", self.path, data, mode="create")
        except FileExistsError:
            return self.read() == data
        return True

    def exists(self) -> bool:
        return self._call("isfile", self.path)

    def names(self) -> list[str]:
        """Sorted names directly below."""
        try:
            found = self._call("ls", self.path, detail=False)
        except FileNotFoundError:
            return []
        return sorted({path.rstrip("/").rpartition("/")[2] for path in found if path.rstrip("/") != self.path})

    def contents(self) -> list[Remote]:
        """Every object below, sorted by name."""
        return [Remote(file_system=self.file_system, path=path) for path in sorted(self._call("find", self.path))]

    def sizes(self) -> dict[str, int]:
        """Bytes of every object below, by relative name."""
        found = self._call("find", self.path, detail=True)
        return {path.removeprefix(f"{self.path}/"): entry["size"] for path, entry in found.items()}

    def size(self) -> int:
        """Bytes of the object, or of all below."""
        try:
            return int(self._call("du", self.path))
        except FileNotFoundError:
            return 0

    def age(self) -> float:
        """Seconds since the object, or the newest one below, was written; 0 if there is none."""
        entries = self._call("find", self.path, detail=True).values()
        changed = [_seconds(entry.get("LastModified") or entry.get("created")) for entry in entries]
        return max(0.0, time.time() - max(changed)) if changed else 0.0

    def remove(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._call("rm", self.path, recursive=True)

    def upload(self, folder: Path, names: Iterable[str]) -> None:
        """Upload these files of a local folder, concurrently."""
        pairs = [(str(folder / name), f"{self.path}/{name}") for name in names]
        if pairs:
            self._call("put", [local for local, _ in pairs], [remote for _, remote in pairs])

    def download(self, folder: Path, names: Iterable[str]) -> None:
        """Download objects into a local folder, concurrently; each file appears whole. FileNotFoundError if one is
        missing."""
        names = list(names)
        targets = [folder / name for name in names]
        parts = [target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp") for target in targets]
        for target in targets:
            target.parent.mkdir(parents=True, exist_ok=True)
        try:
            if names:
                self._call("get", [f"{self.path}/{name}" for name in names], [str(part) for part in parts])
            for part, target in zip(parts, targets, strict=True):
                os.replace(part, target)
        finally:
            for part in parts:
                part.unlink(missing_ok=True)

    def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        try:
            return getattr(self.file_system, method)(*arguments, **options)
        except OSError:
            raise
        except Exception as error:  # of the client library: no credentials, no connection
            raise OSError(f"{self}: {' '.join(str(error).split())[:300] or type(error).__name__}") from error


def _seconds(moment: Any) -> float:
    """A time as fsspec reports it, in seconds since the epoch."""
    if isinstance(moment, datetime):
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return float(moment or 0.0)
