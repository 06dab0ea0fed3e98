"""Files of text as people have them: plain or compressed, JSON lines or an array, parquet, tables; strings or chats.

Files are read row by row, and of a row only its text, so other columns may differ from file to file. Every error names
the file in one line.
"""

from __future__ import annotations

import bz2
import contextlib
import csv
import gzip
import io
import itertools
import json
import lzma
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from halflife.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".txt", ".jsonl", ".json", ".parquet")
TABLES = (".csv", ".tsv")
"""Tables with a header, which only datasets have."""


def _zstd(path: Path, mode: str) -> BinaryIO:
    import pyarrow as pa

    return io.BufferedReader(pa.input_stream(path, compression="zstd"))  # type: ignore[return-value]


COMPRESSED: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _zstd}
CHATS = ("messages", "conversations")
"""Columns of chats, by their usual names."""
MISSING = frozenset(["", "#N/A", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null", None])
"""Cells of a table without a value, as the datasets library has them."""
HEAD = 100
"""Rows from which the columns of a file without a schema are known."""
BOM = "\ufeff"
"""The byte-order mark, which some editors write before a text."""

_TURNS = (("role", "content"), ("from", "value"))
_BATCH = 1000


def suffix_of(path: Path) -> str:
    """The suffix without that of a compression: .jsonl of a.jsonl.gz."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in COMPRESSED else suffix


def cleaned(text: str) -> str:
    """Without Windows line ends. JSON may have half a surrogate pair, which becomes "?"."""
    return text.replace("\r\n", "\n").encode(errors="replace").decode()


def whole(path: Path) -> str:
    """The text of a file. Raises UserError when it cannot be read, or is not UTF-8."""
    with _named(path), _opened(path) as stream:
        data = stream.read()
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} given: expected UTF-8 text, byte {error.start} is not; convert the file") from None


def values(path: Path, column: str | None = None, separator: str = ",") -> Iterator[str | None]:
    """The text of each row; None where it is missing. Without a column it is "text", else the chat, of each row.

    Raises UserError when the file cannot be read to its end, and for a row with another kind of value.
    """
    if suffix_of(path) == ".parquet":
        yield from _parquet(path, column)
        return
    for place, row in _rows(path, separator):
        if isinstance(row, str) and column is None:
            yield row
            continue
        name = column or next((name for name in ("text", *CHATS) if isinstance(row, dict) and name in row), None)
        if not isinstance(row, dict) or name is None:
            raise _unexpected(place, column)
        try:
            yield text_of(row.get(name))
        except TypeError:
            raise _unexpected(place, column) from None


def rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row of a table with all its columns, and where it stands. Of a .csv or .tsv only an empty cell is missing.

    Raises UserError when the file cannot be read to its end, and for a row without columns.
    """
    suffix = suffix_of(path)
    if suffix == ".parquet":
        found = _parquet_rows(path)
    elif suffix in TABLES:
        found = _table(path, "\t" if suffix == ".tsv" else ",", exact=True)
    else:
        found = _json(path)
    for place, row in found:
        if not isinstance(row, dict):
            raise UserError(f"{place}: expected an object with named columns, not {str(row)[:40]!r}")
        yield place, row


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    from pyarrow import parquet

    with _named(path), parquet.ParquetFile(path) as file:
        number = 0
        for batch in file.iter_batches(_BATCH):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", row


def columns(path: Path, separator: str = ",") -> dict[str, str]:
    """The kind of each column: string, chat, null, or another, by the schema of parquet, else by the first rows."""
    if suffix_of(path) == ".parquet":
        from pyarrow import parquet

        with _named(path):
            return kinds_of_schema(parquet.read_schema(path))
    return kinds_of_rows(row for _, row in itertools.islice(_rows(path, separator), HEAD))


def kinds_of_schema(schema: pa.Schema) -> dict[str, str]:
    return {field.name: _kind_of_type(field.type) for field in schema}


def kinds_of_rows(rows: Iterable[Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for row in rows:
        for name, value in row.items() if isinstance(row, dict) else ():
            kind = _kind(value)
            if found.get(name, "null") in ("null", kind):
                found[name] = kind
            elif kind != "null":
                found[name] = "mixed"
    return found


def text_of(value: object) -> str | None:
    """A string, or a chat as "role: content", a line each; None of a missing value. Raises TypeError for another."""
    if value is None or isinstance(value, str):
        return value
    if not is_chat(value):
        raise TypeError(f"{type(value).__name__} is no text")
    return "\n".join(f"{role}: {content}" for role, content in turns_of(value))


def turns_of(value: Any) -> list[tuple[str, str]]:
    """(role, content) of each turn of a chat that has text."""
    found = []
    for turn in _turns(value):
        role, content = next((turn[role], turn[content]) for role, content in _TURNS if role in turn)
        if isinstance(content, list):  # parts, of which only some are text
            content = "".join(part.get("text") or "" for part in content if isinstance(part, dict))
        if content:
            found.append((role, content))
    return found


def _turns(value: Any) -> list[dict[str, Any]]:
    """Datasets of an older format have a list of roles and one of contents."""
    if isinstance(value, dict):
        return [dict(zip(value, turn, strict=True)) for turn in zip(*value.values(), strict=False)]
    return value


def _kind(value: object) -> str:
    if is_chat(value):
        return "chat"
    return {str: "string", type(None): "null"}.get(type(value), type(value).__name__)


def is_chat(value: Any) -> bool:
    if isinstance(value, dict):
        turns = [value] if all(isinstance(each, list) for each in value.values()) else []
    else:
        turns = value if isinstance(value, list) and all(isinstance(turn, dict) for turn in value) else []
    return bool(turns) and all(any(set(names) <= set(turn) for names in _TURNS) for turn in turns)


def _kind_of_type(kind: pa.DataType) -> str:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "string"
    inner = kind.value_type if types.is_list(kind) or types.is_large_list(kind) else kind
    if types.is_struct(inner):
        names = {field.name for field in inner}
        return "chat" if any(names >= set(turn) for turn in _TURNS) else str(kind)
    return str(kind)


def _unexpected(place: str, column: str | None) -> UserError:
    if column is None:
        return UserError(
            f'{place}: expected a JSON object with a string field "text", or a chat in {" or ".join(CHATS)}'
        )
    return UserError(f"{place}: expected a string or a chat in the column {column!r}")


def _parquet(path: Path, column: str | None) -> Iterator[str | None]:
    from pyarrow import parquet

    with _named(path), parquet.ParquetFile(path) as file:
        kinds = kinds_of_schema(file.schema_arrow)
        wanted = (column,) if column else ("text", *CHATS)
        name = next((name for name in wanted if kinds.get(name) in ("string", "chat", "null")), None)
        if name is None:
            given = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
            raise UserError(
                f'{path} given with columns {given}: expected a string column "{column or "text"}"; rename the column'
            )
        for batch in file.iter_batches(_BATCH, columns=[name]):
            for value in batch.column(name).to_pylist():
                yield text_of(value)


def _rows(path: Path, separator: str) -> Iterator[tuple[str, Any]]:
    """Each row, and where it stands."""
    suffix = suffix_of(path)
    if suffix == ".txt":
        return ((f"{path}, line {number}", {"text": line}) for number, line in enumerate(whole(path).split("\n"), 1))
    return _table(path, separator) if suffix in TABLES else _json(path)


def _json(path: Path) -> Iterator[tuple[str, Any]]:
    """Of JSON lines, or of one array."""
    with _named(path), _opened(path) as stream:
        first = True
        for number, line in enumerate(stream, start=1):
            place = f"{path}, line {number}"
            try:
                text = line.decode().removeprefix(BOM).strip()
            except UnicodeDecodeError:
                raise UserError(f"{place}: expected UTF-8 text; convert the file") from None
            if not text:
                continue
            if first and text.startswith("["):
                yield from _array(path)
                return
            first = False
            try:
                yield place, json.loads(text)
            except json.JSONDecodeError as error:
                raise UserError(f"{place}: expected a JSON object, {error.msg.lower()}") from None


def _array(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        for number, row in enumerate(json.loads(whole(path)), start=1):
            yield f"{path}, item {number}", row
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: expected one JSON array, {error.msg.lower()}") from None


def _table(path: Path, separator: str, *, exact: bool = False) -> Iterator[tuple[str, Any]]:
    """Each row of a table with a header. `exact`: only an empty cell is missing, and a cell too many is refused."""
    missing = frozenset(["", None]) if exact else MISSING
    csv.field_size_limit(sys.maxsize)
    with _named(path):
        for number, row in enumerate(csv.DictReader(io.StringIO(whole(path)), delimiter=separator), start=1):
            if exact and None in row:
                raise UserError(f"{path}, row {number}: more cells than columns; quote a text with {separator!r} in it")
            cells = {name: None if value in missing else value for name, value in row.items() if name is not None}
            yield f"{path}, row {number}", cells


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with COMPRESSED.get(path.suffix.lower(), open)(path, "rb") as stream:
        yield stream


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors of reading as a UserError that names the file: cut, damaged, of another format, gone."""
    try:
        yield
    except (OSError, EOFError, ValueError, csv.Error, zlib.error, lzma.LZMAError) as error:  # pyarrow's are ValueErrors
        line = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise UserError(
            f"{path} given: it cannot be read as {suffix_of(path).lstrip('.')} ({line}); fetch or write it again"
        ) from None
