"""Hugging Face datasets as corpora: by name or from a local folder, streamed up to a limit, never all in memory.

hf:NAME[@REVISION][:CONFIG[:SPLIT]][#COLUMN][?bytes=2g]        hf:roneneldan/TinyStories#text
hf:FOLDER[...]                                                 hf:/data/stories?bytes=500m
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halflife import digests
from halflife.data.embedded import Document
from halflife.data.files import HELD_OUT, SMALLEST
from halflife.errors import UserError
from halflife.extras import require

READING_VERSION = 1
"""To be raised when the same dataset gives other documents."""
PREFIX = "hf:"
DEFAULT_BYTES = 256_000_000
"""Of text: about 60 million tokens of a released model's tokenizer, or 256 million of the byte tokenizer."""
OWN: tuple[str, ...] = ("train", "validation", "test")
"""A dataset with all three splits keeps them; otherwise one split is divided into three."""

_SPEC = re.compile(
    r"(?P<source>[^@:#?]+)(@(?P<revision>[^:#?]+))?(:(?P<config>[^:#?]*))?(:(?P<split>[^:#?]*))?(#(?P<column>[^?]+))?"
    r"(\?bytes=(?P<count>\d+(\.\d+)?)(?P<unit>[kmg]?))?"
)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_DATA = (".arrow", ".parquet", ".jsonl", ".json", ".csv", ".txt", ".gz", ".zst")


@dataclass(frozen=True, kw_only=True)
class Request:
    """A parsed corpus spec."""

    spec: str
    source: str
    revision: str | None
    config: str | None
    split: str | None
    column: str | None
    max_bytes: int

    @property
    def folder(self) -> Path | None:
        """The source as a local folder, or None."""
        path = Path(self.source).expanduser()
        return path if path.is_dir() else None


def parse(spec: str) -> Request:
    """Raises UserError for an invalid spec."""
    match = _SPEC.fullmatch(spec.removeprefix(PREFIX))
    if not match:
        raise UserError(
            f"corpus {spec!r} given: expected hf:NAME[@REVISION][:CONFIG[:SPLIT]][#COLUMN][?bytes=2g], "
            "where NAME is a dataset on the Hugging Face Hub or a folder"
        )
    max_bytes = round(float(match["count"]) * _UNITS[match["unit"]]) if match["count"] else DEFAULT_BYTES
    if max_bytes < 3 * SMALLEST:
        raise UserError(f"corpus {spec!r} given: expected at least {3 * SMALLEST:,} bytes of text")
    return Request(
        spec=spec,
        source=match["source"],
        revision=match["revision"],
        config=match["config"] or None,
        split=match["split"] or None,
        column=match["column"],
        max_bytes=max_bytes,
    )


def label(request: Request) -> str:
    name = request.folder.resolve().name if request.folder else request.source
    return ":".join(part for part in (name, request.config, request.split) if part)


def digest(request: Request, results: Path) -> str:
    """Hash of the commit of a name or the contents of a folder, of the parts that are read, and of the limit."""
    require("datasets", f"the corpus {request.spec!r}")
    if request.folder:
        files = [path for path in sorted(request.folder.rglob("*")) if path.suffix in _DATA and path.is_file()]
        if not files:
            raise UserError(
                f"corpus {request.spec!r} given: no data in this folder; expected a folder saved by datasets, or "
                "parquet, jsonl or csv files"
            )
        content: Any = digests.of_files(files, results / "corpora" / "digests.json", request.folder)
    else:
        content = [request.source, _commit(request)]
    selection = [request.config, request.split, request.column, request.max_bytes]
    return digests.of_text(["dataset", READING_VERSION, content, selection])


def _commit(request: Request) -> str | None:
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(request.source, revision=request.revision, timeout=20).sha
    except Exception as error:  # any failure of the network or the Hub means that it cannot be read
        raise _unreadable(request, error) from None


def _unreadable(request: Request, error: Exception) -> UserError:
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return UserError(
        f"corpus {request.spec!r} given: it is not a local folder and cannot be read as a dataset: {line[:160]}"
    )


def read_documents(request: Request) -> Iterator[Document]:
    """The documents in the dataset's order, up to the limit, without exact duplicates.

    Raises UserError for a dataset without the column or split, and when one of the three splits is too small.
    """
    parts = _parts(request)
    divide = len(parts) == 1
    kept = dict.fromkeys(OWN, 0)
    caps = {"validation": HELD_OUT * request.max_bytes, "test": HELD_OUT * request.max_bytes}
    for name, part in parts.items():
        seen: set[bytes] = set()
        column = _column(request, part)
        for number, row in enumerate(part):
            text = row[column]
            if not isinstance(text, str) or not text.strip():
                continue
            text = text.replace("\r\n", "\n").encode(errors="replace").decode()  # may have half a surrogate pair
            key = hashlib.sha256(text.encode()).digest()[:12]
            if key in seen:
                continue
            seen.add(key)
            split = _split_of(key) if divide else name
            length = len(text.encode())
            if not divide and split != "train" and kept[split] >= caps[split]:
                break
            if sum(kept.values()) + length > request.max_bytes and min(kept.values()) >= SMALLEST:
                break
            kept[split] += length
            yield Document(split, f"{name}#{number}", f"{name}#{number}", text)
    if min(kept.values()) < SMALLEST:
        given = ", ".join(f"{name} {count:,}" for name, count in kept.items())
        raise UserError(
            f"corpus {request.spec!r} given: its splits have {given} bytes; expected at least {SMALLEST:,} each"
        )


def _split_of(key: bytes) -> str:
    """By the hash of the text, independent of other documents."""
    uniform = int.from_bytes(key[:8], "big") / 2**64
    return "validation" if uniform < HELD_OUT else "test" if uniform < 2 * HELD_OUT else "train"


def _parts(request: Request) -> dict[str, Any]:
    """The splits to read: all three, held-out ones first so that they fit the limit, or the one to divide."""
    splits = _splits(request)
    if request.split is None and all(name in splits for name in OWN):
        return {name: splits[name] for name in reversed(OWN)}
    wanted = request.split or ("train" if "train" in splits else next(iter(splits)) if len(splits) == 1 else None)
    if wanted not in splits:
        raise UserError(
            f"corpus {request.spec!r} given: its splits are {', '.join(splits)}; name one, as in "
            f"{PREFIX}{request.source}:{request.config or ''}:{next(iter(splits))}"
        )
    return {wanted: splits[wanted]}


def _splits(request: Request) -> dict[str, Any]:
    import datasets

    datasets.disable_progress_bars()
    folder = request.folder
    try:
        if folder and ((folder / "dataset_dict.json").exists() or (folder / "state.json").exists()):
            saved: Any = datasets.load_from_disk(str(folder))  # mapped, not read
            return dict(saved) if isinstance(saved, dict) else {"train": saved}
        source = str(folder) if folder else request.source
        found: Any = datasets.load_dataset(source, request.config, revision=request.revision, streaming=True)
        return dict(found)
    except Exception as error:  # other people's data may raise anything
        raise _unreadable(request, error) from None


def _column(request: Request, part: Any) -> str:
    features = part.features or dict.fromkeys(next(iter(part)), "unknown")
    kinds = {name: getattr(kind, "dtype", None) or str(kind) for name, kind in features.items()}
    strings = [name for name, kind in kinds.items() if kind in ("string", "large_string", "unknown")]
    wanted = request.column or ("text" if "text" in strings else strings[0] if len(strings) == 1 else "text")
    if wanted not in strings:
        given = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        example = f"; name a text column, as in {PREFIX}{request.source}#{strings[0]}" if strings else ""
        raise UserError(f"corpus {request.spec!r} given: no text column {wanted!r}; its columns are {given}{example}")
    return wanted
