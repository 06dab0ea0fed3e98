"""Results in object storage: paths there, with the verbs of a disk, and the local folder that stands for a bucket.

An address such as s3://bucket/path is opened by fsspec. What is computed is made in a folder of this machine, its copy
of the bucket: it may be deleted at any time. That folder names the bucket in `bucket.json`, so that to give
the folder is to give the bucket.
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
from pathlib import Path
from typing import Any

from halflife.errors import UserError

MARK = "bucket.json"
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/+(.+)")


def address_of(place: Path | str) -> str | None:
    """The bucket that is meant: by an address, also one whose slashes Path has made one, or by its local copy."""
    if match := _ADDRESS.fullmatch(str(place)):
        return f"{match[1]}://{match[2].rstrip('/')}"
    try:
        return json.loads((Path(place) / MARK).read_bytes())["bucket"]
    except (OSError, ValueError, KeyError):
        return None


def copy_of(address: str) -> Path:
    """This machine's folder for a bucket, made if need be: below HALFLIFE_CACHE, or ~/.cache/halflife.

    Raises UserError when the folder cannot be made, or when the address holds a password.
    """
    if "@" in address:
        raise UserError(
            "results in a bucket whose address holds credentials: leave them to the environment or to ~/.aws"
        )
    above = Path(os.environ.get("HALFLIFE_CACHE") or Path.home() / ".cache" / "halflife").absolute()
    folder = above / hashlib.sha256(address.encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if address_of(folder) is None:
            (folder / MARK).write_text(json.dumps({"bucket": address}))
    except OSError as error:
        raise UserError(
            f"cannot keep a copy of {address} in {folder} ({error.strerror}): name another folder by HALFLIFE_CACHE"
        ) from error
    return folder


def opened(address: str) -> Remote:
    """Raises UserError when no package for this kind of address is installed, or the address is none."""
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
    """An object, or what stands for a folder: all objects below it. Every failure is an OSError."""

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

    def below(self, other: Any) -> str:
        """The rest of the path from a folder above."""
        return self.path.removeprefix(f"{other.path}/")

    def read(self) -> bytes | None:
        try:
            return self._ask("cat_file", self.path)
        except (FileNotFoundError, IsADirectoryError):
            return None

    def write(self, data: bytes) -> None:
        self._ask("pipe_file", self.path, data)

    def create(self, data: bytes) -> bool:
        """First wins, by the store's own condition (S3: If-None-Match).

        A request that was repeated because its answer was lost finds its own object: that is no other's.
        """
        try:
            self._ask("pipe_file", self.path, data, mode="create")
        except FileExistsError:
            return self.read() == data
        return True

    def exists(self) -> bool:
        return self._ask("isfile", self.path)

    def names(self) -> list[str]:
        """Names of what lies directly below."""
        try:
            found = self._ask("ls", self.path, detail=False)
        except FileNotFoundError:
            return []
        return sorted({path.rstrip("/").rpartition("/")[2] for path in found if path.rstrip("/") != self.path})

    def contents(self) -> list[Remote]:
        """Every object below, in the order of names."""
        return [Remote(file_system=self.file_system, path=path) for path in sorted(self._ask("find", self.path))]

    def sizes(self) -> dict[str, int]:
        """Bytes of every object below, by its name from here on."""
        found = self._ask("find", self.path, detail=True)
        return {path.removeprefix(f"{self.path}/"): entry["size"] for path, entry in found.items()}

    def size(self) -> int:
        """Bytes of the object, or of all below."""
        try:
            return int(self._ask("du", self.path))
        except FileNotFoundError:
            return 0

    def silence(self) -> float:
        """Seconds since the object, or the newest one below, was written; 0 when there is none."""
        entries = self._ask("find", self.path, detail=True).values()
        changed = [_seconds(entry.get("LastModified") or entry.get("created")) for entry in entries]
        return max(0.0, time.time() - max(changed)) if changed else 0.0

    def remove(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._ask("rm", self.path, recursive=True)

    def upload(self, folder: Path, names: Iterable[str]) -> None:
        """Put the files of a folder of this machine, by their names below it."""
        pairs = [(str(folder / name), f"{self.path}/{name}") for name in names]
        if pairs:
            self._ask("put", [local for local, _ in pairs], [remote for _, remote in pairs])

    def download(self, folder: Path, names: Iterable[str]) -> None:
        """Bring objects into a folder of this machine. Each appears there whole; FileNotFoundError when one is gone."""
        names = list(names)
        targets = [folder / name for name in names]
        parts = [target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp") for target in targets]
        for target in targets:
            target.parent.mkdir(parents=True, exist_ok=True)
        try:
            if names:
                self._ask("get", [f"{self.path}/{name}" for name in names], [str(part) for part in parts])
            for part, target in zip(parts, targets, strict=True):
                os.replace(part, target)
        finally:
            for part in parts:
                part.unlink(missing_ok=True)

    def _ask(self, verb: str, *arguments: Any, **how: Any) -> Any:
        try:
            return getattr(self.file_system, verb)(*arguments, **how)
        except OSError:
            raise
        except Exception as error:  # of the client library: no credentials, nobody there
            raise OSError(f"{self}: {' '.join(str(error).split())[:300] or type(error).__name__}") from error


def _seconds(moment: Any) -> float:
    """A time as file systems give it, since the epoch."""
    if isinstance(moment, datetime):
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return float(moment or 0.0)
