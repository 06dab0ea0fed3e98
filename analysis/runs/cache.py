"""Points already read are cached as Parquet, so that only new points are read again.

Each sweep has two files in `cache/`: `<run>.parquet`, and `<run>.json` with the Parquet file's digest and what the
store returned for each run (its mark) and for itself (its stamp). Inconsistent files are ignored and written again:
they can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from analysis.runs.records import POINTS, Mark, Run, Store, newest

FORMAT = 1
log = logging.getLogger("analysis")


class Cache:
    """Without a `folder` nothing is cached."""

    def __init__(self, folder: Path | None, name: str, store: str) -> None:
        """`store` distinguishes stores whose runs may have the same name: another store's cache is not used."""
        self._path = folder / re.sub(r"\W", "-", name) if folder else None
        self._store = _digest(store.encode())

    def points(self, store: Store, runs: Sequence[Run]) -> pl.DataFrame:
        """Every logged point: run, key, step, timestamp, value; the newest of points logged twice, without missing
        values. Series are contiguous, with steps in order."""
        stamp = store.stamp()
        kept = self._load()
        points, marks = (kept[0], kept[1]["marks"]) if kept else (pl.DataFrame(schema=POINTS), {})
        if not (kept and stamp is not None and stamp == kept[1]["stamp"] and marks.keys() >= {run.id for run in runs}):
            found = store.read(runs, marks)
            changed = not found.points.is_empty() or set(marks) != found.kept
            if changed:
                points = newest(pl.concat([points.filter(pl.col("run").is_in(list(found.kept))), found.points]))
            self._save(points if changed else None, stamp, found.marks, kept)
        return points.filter(pl.col("run").is_in([run.id for run in runs]) & pl.col("value").is_not_null())

    def _load(self) -> tuple[pl.DataFrame, dict[str, Any]] | None:
        """The cached points and their metadata; None if there are none or they are inconsistent."""
        if self._path is None:
            return None
        try:
            meta = json.loads(self._path.with_suffix(".json").read_text(encoding="utf-8"))
            content = self._path.with_suffix(".parquet").read_bytes()
            if [meta["format"], meta["store"], meta["digest"]] != [FORMAT, self._store, _digest(content)]:
                return None
            points = pl.read_parquet(io.BytesIO(content))
            return (points, meta) if dict(points.schema) == POINTS and isinstance(meta["marks"], dict) else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
            log.warning("ignoring the cache %s, which is written again: %s", self._path, error)
            return None

    def _save(
        self, points: pl.DataFrame | None, stamp: Mark | None, marks: Mapping[str, Mark],
        before: tuple[pl.DataFrame, dict[str, Any]] | None,
    ) -> None:  # fmt: skip
        if self._path is None:
            return
        try:
            if points is None and before is not None:
                digest = before[1]["digest"]
            else:
                content = io.BytesIO()
                (pl.DataFrame(schema=POINTS) if points is None else points).write_parquet(content, compression="lz4")
                digest = _digest(content.getvalue())
                _replace(self._path.with_suffix(".parquet"), content.getvalue())
            meta = {"format": FORMAT, "store": self._store, "digest": digest, "stamp": stamp, "marks": marks}
            _replace(self._path.with_suffix(".json"), json.dumps(meta).encode())
        except OSError as error:
            log.warning("the points read are not cached: %s cannot be written (%s)", self._path, error)


def _replace(path: Path, content: bytes) -> None:
    """Atomic, also when two processes write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(content)
    part.replace(path)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
