"""Hugging Face datasets as corpora: by name or from a local folder, streamed up to a limit, never all in memory.

hf:NAME[@REVISION][:CONFIG[:SPLIT]][#COLUMN][?bytes=2g]        hf:roneneldan/TinyStories#text
hf:FOLDER[...]                                                 hf:/data/stories?bytes=500m

A folder that exists is taken as it stands, whatever signs its name has. Of its files only the text is read, so that
other columns may differ from file to file.
"""

from __future__ import annotations

import glob
import hashlib
import itertools
import math
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from halflife import digests
from halflife.data import files, readers
from halflife.data.deduplication import HeldOut
from halflife.data.embedded import Document
from halflife.data.files import HELD_OUT, SMALLEST
from halflife.errors import UserError
from halflife.extras import require

READING_VERSION = 1
"""To be raised when the same dataset gives other documents."""
SHARED_VERSION = 2
"""The same for a dataset whose own splits share documents, which once stayed in each."""
PREFIX = "hf:"
DEFAULT_BYTES = 256_000_000
"""Of text: about 60 million tokens of a released model's tokenizer, or 256 million of the byte tokenizer."""
OWN: tuple[str, ...] = ("train", "validation", "test")
"""A dataset with all three splits keeps them; otherwise one split is divided into three."""

_OPTIONS = (
    r"(@(?P<revision>[^:#?]+))?(:(?P<config>[^:#?]*))?(:(?P<split>[^:#?]*))?(#(?P<column>[^?]+))?"
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
    named = spec.removeprefix(PREFIX)
    ends = [len(named), *(match.start() for match in reversed([*re.finditer("[@:#?]", named)]))]
    end = next((end for end in ends if end and Path(named[:end]).expanduser().is_dir()), ends[-1])
    match = re.fullmatch(_OPTIONS, named[end:])
    if not match or not end:
        raise UserError(
            f"corpus {spec!r} given: expected hf:NAME[@REVISION][:CONFIG[:SPLIT]][#COLUMN][?bytes=2g], "
            "where NAME is a dataset on the Hugging Face Hub or a folder"
        )
    max_bytes = round(float(match["count"]) * _UNITS[match["unit"]]) if match["count"] else DEFAULT_BYTES
    if max_bytes < 3 * SMALLEST:
        raise UserError(f"corpus {spec!r} given: expected at least {3 * SMALLEST:,} bytes of text")
    return Request(
        spec=spec,
        source=named[:end],
        revision=match["revision"],
        config=match["config"] or None,
        split=match["split"] or None,
        column=match["column"],
        max_bytes=max_bytes,
    )


def label(request: Request) -> str:
    name = request.folder.resolve().name if request.folder else request.source
    return ":".join(part for part in (name, request.config, request.split) if part)


def digests_of(request: Request, results: Path) -> tuple[str, str]:
    """Hash of the commit of a name or the contents of a folder, of the parts that are read, and of the limit: of a
    dataset whose splits share nothing, and of one whose splits do."""
    require("datasets", f"the corpus {request.spec!r}")
    if request.folder:
        data = [path for path in sorted(request.folder.rglob("*")) if path.suffix in _DATA and path.is_file()]
        if not data:
            raise UserError(
                f"corpus {request.spec!r} given: no data in this folder; expected a folder saved by datasets, or "
                "parquet, jsonl or csv files"
            )
        content: Any = digests.of_files(data, results / "corpora" / "digests.json", request.folder)
    else:
        content = [request.source, _commit(request)]
    selection = [request.config, request.split, request.column, request.max_bytes]
    plain, shared = (
        digests.of_text(["dataset", version, content, selection]) for version in (READING_VERSION, SHARED_VERSION)
    )
    return plain, shared


def _commit(request: Request) -> str | None:
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(request.source, revision=request.revision, timeout=20).sha
    except Exception as error:  # any failure of the network or the Hub means that it cannot be read
        raise _unreadable(request, error) from None


def _unreadable(request: Request, error: Exception) -> UserError:
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    what = "this folder" if request.folder else "it is not a local folder and"
    return UserError(f"corpus {request.spec!r} given: {what} cannot be read as a dataset: {line[:160]}")


def read_documents(request: Request, left_out: dict[str, dict[str, int]]) -> Iterator[Document]:
    """The documents in the dataset's order, up to the limit, without exact duplicates.

    Of a dataset's own splits, test comes first, and what it shares with a later split is left out there: copies, and
    texts that hold half of one of its texts. `left_out` is filled with their numbers by split and kind.

    Raises UserError for a dataset without the column or split, when it cannot be read to its end, and when one of the
    three splits is too small.
    """
    parts = _parts(request)
    if len(parts) == 1:
        return _divided(request, *parts.popitem())
    return _own_splits(request, parts, left_out)


def _divided(request: Request, name: str, part: _Part) -> Iterator[Document]:
    """By the hash of each text, independent of the others; if that leaves a split too small, as files are split."""
    kept, pending = dict.fromkeys(OWN, 0), []
    for row, text, key in _texts(request, name, part):
        full = min(kept.values()) >= SMALLEST
        length = len(text.encode())
        if full and sum(kept.values()) + length > request.max_bytes:
            break
        split = _split_of(key)
        kept[split] += length
        pending.append(Document(split, row, row, text))
        if full:
            yield from pending
            pending.clear()
    if min(kept.values()) < SMALLEST:
        yield from files.split([(document.name, document.text) for document in pending], label(request))
    else:
        yield from pending


def _own_splits(request: Request, parts: dict[str, _Part], left_out: dict[str, dict[str, int]]) -> Iterator[Document]:
    kept = dict.fromkeys(OWN, 0)
    held_out: list[str] = []
    for split, part in parts.items():
        earlier = HeldOut(held_out)
        cap = math.inf if split == "train" else HELD_OUT * request.max_bytes
        for row, text, _ in _texts(request, split, part):
            length = len(text.encode())
            full = min(kept.values()) >= SMALLEST and sum(kept.values()) + length > request.max_bytes
            if full or kept[split] >= cap:
                break
            if kind := earlier.find(text):
                left_out.setdefault(split, {"copies": 0, "near copies": 0})[kind] += 1
                continue
            if split != "train":
                held_out.append(text)
            kept[split] += length
            yield Document(split, row, row, text)
    if min(kept.values()) < SMALLEST:
        given = ", ".join(f"{name} {count:,}" for name, count in kept.items())
        shared = sum(sum(counts.values()) for counts in left_out.values())
        without = f" without the {shared} documents that they share" if shared else ""
        raise UserError(
            f"corpus {request.spec!r} given: its splits have {given} bytes{without}; expected at least "
            f"{SMALLEST:,} each"
        )


def _texts(request: Request, name: str, part: _Part) -> Iterator[tuple[str, str, bytes]]:
    """Name, text and hash of each row that has text, each text once."""
    seen: set[bytes] = set()
    for number, value in enumerate(part.values(_column(request, part))):
        text = readers.cleaned(value or "")
        key = hashlib.sha256(text.encode()).digest()[:12]
        if text.strip() and key not in seen:
            seen.add(key)
            yield f"{name}#{number}", text, key


def _split_of(key: bytes) -> str:
    uniform = int.from_bytes(key[:8], "big") / 2**64
    return "validation" if uniform < HELD_OUT else "test" if uniform < 2 * HELD_OUT else "train"


class _Part(Protocol):
    """A split of a dataset, read row by row."""

    def columns(self) -> dict[str, str]:
        """The kind of each column, as `readers` names them."""
        ...

    def values(self, column: str) -> Iterator[str | None]:
        """The text of each row, None where it is missing."""
        ...


@dataclass(frozen=True)
class _Files:
    """Files of a folder, each read by itself."""

    paths: list[Path]
    separator: str

    def columns(self) -> dict[str, str]:
        return next(filter(None, (readers.columns(path, self.separator) for path in self.paths)), {})

    def values(self, column: str) -> Iterator[str | None]:
        for path in self.paths:
            yield from readers.values(path, column, self.separator)


@dataclass(frozen=True)
class _Rows:
    """What the datasets library reads: saved by it, on the Hub, or in a format of its own."""

    request: Request
    name: str
    rows: Any

    def columns(self) -> dict[str, str]:
        if self.rows.features:
            return readers.kinds_of_schema(self.rows.features.arrow_schema)
        try:
            return readers.kinds_of_rows(itertools.islice(self.rows, readers.HEAD))
        except Exception as error:  # other people's data may raise anything
            raise self._damaged(0, error) from None

    def values(self, column: str) -> Iterator[str | None]:
        rows, number = iter(self.rows.select_columns([column])), 0
        while True:
            try:
                value = readers.text_of(next(rows)[column])
            except StopIteration:
                return
            except Exception as error:  # other people's data may raise anything
                raise self._damaged(number, error) from None
            yield value
            number += 1

    def _damaged(self, number: int, error: Exception) -> UserError:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        return UserError(
            f"corpus {self.request.spec!r} given: {self.name} cannot be read from row {number:,} on: {line[:160]}"
        )


def _parts(request: Request) -> dict[str, _Part]:
    """The splits to read: all three, test first and train last, or the one to divide."""
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


def _splits(request: Request) -> dict[str, _Part]:
    import datasets

    datasets.disable_progress_bars()
    folder = request.folder
    try:
        if folder and ((folder / "dataset_dict.json").exists() or (folder / "state.json").exists()):
            found: Any = datasets.load_from_disk(str(folder))  # mapped, not read
            found = found if isinstance(found, dict) else {"train": found}
        elif folder and (files := _files(request, folder)):
            return files
        else:
            source = str(folder) if folder else request.source
            found = datasets.load_dataset(source, request.config, revision=request.revision, streaming=True)
    except Exception as error:  # other people's data may raise anything
        raise _unreadable(request, error) from None
    return {name: _Rows(request, name, rows) for name, rows in found.items()}


def _files(request: Request, folder: Path) -> dict[str, _Part]:
    """The files of each split, as the datasets library assigns them; none when only the library can read them."""
    import datasets

    with tempfile.TemporaryDirectory() as scratch:
        named = folder.resolve()
        if glob.escape(str(named)) != str(named):  # the library takes signs such as [ for a pattern
            named = _linked(named, Path(scratch).resolve())
        builder = datasets.load_dataset_builder(str(named), request.config)
        found = {
            str(split): [folder / Path(path).relative_to(named) for path in paths]
            for split, paths in (builder.config.data_files or {}).items()
        }
    every = [path for paths in found.values() for path in paths]
    if not every or not all(readers.suffix_of(path) in (*readers.SUFFIXES, *readers.TABLES) for path in every):
        return {}
    separator = getattr(builder.config, "sep", None) or ","
    return {split: _Files(paths, separator) for split, paths in found.items()}


def _linked(folder: Path, scratch: Path) -> Path:
    """`scratch` with links to the folder's files."""
    for path in folder.rglob("*"):
        link = scratch / path.relative_to(folder)
        if path.is_file():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    return scratch


def _column(request: Request, part: _Part) -> str:
    kinds = part.columns()
    texts = [name for name, kind in kinds.items() if kind in ("string", "chat")]
    wanted = request.column or ("text" if "text" in kinds else texts[0] if len(texts) == 1 else "text")
    if wanted not in texts and kinds.get(wanted) != "null":
        given = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        example = f"; name a text column, as in {PREFIX}{request.source}#{texts[0]}" if texts else ""
        raise UserError(f"corpus {request.spec!r} given: no text column {wanted!r}; its columns are {given}{example}")
    return wanted
