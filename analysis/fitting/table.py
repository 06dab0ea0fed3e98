"""Observations from any table: CSV, Parquet or JSON lines; bad input raises an error of one line."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
from pathlib import Path
from typing import TextIO, cast

import numpy as np
import polars as pl

from analysis.errors import UserError
from analysis.fitting.observations import Observations
from analysis.laws.base import Law
from analysis.stats.arrays import Array

ROW = "row of the table"
"""Column of row numbers, from 1 without the header, which errors name even after rows were left out."""


def read_table(path: Path) -> pl.DataFrame:
    """A table in a .csv, .tsv, .parquet or .jsonl file; text formats may be gzipped.

    Every row counts for a column's type, and a column that only later rows have is read. In CSV and JSON lines, blank
    text is a missing value, and quoted numbers are numbers. CSV may be separated by commas, tabs, or semicolons, then
    also with decimal commas. Raises UserError if there is no such file, its format is unknown, or it has no rows.
    """
    if path.is_dir():
        raise UserError(f"{path} is a directory; expected a table, such as a .csv file in it")
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    try:
        if kind in ("csv", "tsv"):
            frame = _read_csv(path)
        elif kind == "parquet":
            frame = pl.read_parquet(path, glob=False)
        elif kind in ("jsonl", "ndjson"):
            frame = _unquoted(_read_json_lines(path))
        else:
            raise UserError(f"{path.name} has an unknown format: expected .csv, .tsv, .parquet or .jsonl")
    except (pl.exceptions.PolarsError, OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path.name} cannot be read as {kind}: {str(error).splitlines()[0]}") from None
    if frame.is_empty():
        raise UserError(f"{path.name} has no rows")
    return frame


def _read_csv(path: Path) -> pl.DataFrame:
    with _opened(path) as file:
        header = re.sub(r'"[^"]*"', "", file.readline())  # a quoted name may hold any sign
    separator = max(",;\t", key=header.count)
    frame = pl.read_csv(path, infer_schema_length=None, separator=separator, glob=False)
    return _unquoted(frame, decimal_comma=separator != ",")


def _read_json_lines(path: Path) -> pl.DataFrame:
    with contextlib.suppress(pl.exceptions.PolarsError):
        return pl.read_ndjson(path, infer_schema_length=None)
    # Python's json is slower, but reads the NaN that it writes, and says which line is wrong.
    rows: list[dict[str, object]] = []
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line) if line.strip() else {}
            except json.JSONDecodeError as error:
                raise UserError(f"{path.name}, line {number}: expected a JSON object ({error.msg.lower()})") from None
            if not isinstance(row, dict):
                raise UserError(f'{path.name}, line {number}: expected a JSON object, such as {{"x": 1, "y": 2}}')
            if row:  # nested values are no numbers, and need not agree between rows
                rows.append({name: json.dumps(v) if isinstance(v, dict | list) else v for name, v in row.items()})
    return pl.DataFrame(rows, infer_schema_length=None)


def _opened(path: Path) -> TextIO:
    """Text without a byte-order mark."""
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    return cast(TextIO, opened(path, "rt", encoding="utf-8-sig"))


def _unquoted(frame: pl.DataFrame, decimal_comma: bool = False) -> pl.DataFrame:
    """Blank text as missing, and text columns that hold only numbers as numbers."""
    for column in frame.select(pl.col(pl.String)):
        text = column.str.strip_chars()
        column = column.set(text == "", None)
        if decimal_comma and not text.str.contains(".", literal=True).any():  # 1.234,5 stays text
            text = text.str.replace(",", ".", literal=True)
        for kind in (pl.Int64, pl.Float64):
            values = text.cast(kind, strict=False)
            if values.null_count() == column.null_count() < column.len():
                column = values
                break
        frame = frame.with_columns(column)
    return frame


def observations(
    frame: pl.DataFrame, law: Law, x: list[str], *, y: str | None, hits: str | None, trials: str | None,
    group: str | None,
) -> tuple[Observations, int]:  # fmt: skip
    """Columns of a table as observations of a law, and the number of rows left out because their response is missing.
    Inputs with the law's names may come in any order.

    Raises UserError on a missing column, text, missing values, or rates given as counts.
    """
    if len(x) != len(law.inputs):
        needed = ",".join(law.inputs)
        given = f"--x gives {len(x)} ({','.join(x)})"
        raise UserError(f"{law.name} takes {len(law.inputs)} inputs ({needed}); {given}; name another law with --law")
    if set(x) == set(law.inputs):
        x = list(law.inputs)
    if (y is None) == (hits is None and trials is None):
        raise UserError("pass either --y, or both --hits and --trials")
    if y is None and (hits is None or trials is None):
        raise UserError("counts need both --hits and --trials")
    response = [name for name in (y, hits, trials) if name is not None]
    if absent := [name for name in response if name not in frame.columns]:
        raise _no_column(frame, absent[0])
    rows = frame.height
    frame = frame.with_row_index(ROW, offset=1).filter(~pl.all_horizontal(pl.col(response).is_null()))
    if frame.is_empty():
        raise UserError(f"no row has a value of {' or '.join(response)}: there is nothing to fit")
    counts = [numbers(frame, name, whole=True) for name in (hits, trials) if name is not None]
    if counts:
        _check_counts(frame, law, str(hits), str(trials), *counts)
    points = Observations(
        x=np.stack([numbers(frame, name) for name in x], axis=1),
        y=None if y is None else numbers(frame, y),
        hits=counts[0] if counts else None, trials=counts[1] if counts else None,
        group=None if group is None else _labels(frame, group),
    )  # fmt: skip
    return points, rows - frame.height


def _check_counts(frame: pl.DataFrame, law: Law, hits: str, trials: str, hit: Array, tried: Array) -> None:
    """Raises UserError on hits above trials, and if they determine only a constant."""
    if (over := hit > tried).any():
        at = int(over.argmax())
        raise UserError(
            f"{hits} are above {trials} at {int(over.sum())} of {over.size} points, first in row {_row(frame, over)}: "
            f"{hits} is {hit[at]:g} and {trials} is {tried[at]:g}"
        )
    if not tried.any():
        raise UserError(f"{trials} are 0 in all {tried.size} rows: there is nothing to fit")
    if len(law.parameters) > 1 and (not hit.any() or (hit == tried).all()):
        what = f"equal {trials}" if hit.any() else "are 0"
        raise UserError(
            f"{hits} {what} in all {hit.size} rows: such data determine a constant rate, not the {len(law.parameters)} "
            f"parameters of {law.name}; fit --law constant"
        )


def numbers(frame: pl.DataFrame, name: str, whole: bool = False) -> Array:
    """A column as float64 without missing values."""
    column = _column(frame, name)
    if not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
        wrong = column.cast(pl.Float64, strict=False).is_null() if column.dtype == pl.String else column.is_not_null()
        if not wrong.any():
            raise UserError(f"column {name} holds numbers as text, such as {column[0]!r}; write them as numbers")
        first = column.filter(wrong)[0]
        raise UserError(f"column {name} has {first!r} in row {_row(frame, wrong.to_numpy())}; expected numbers")
    values = column.cast(pl.Float64).to_numpy()
    if (wrong := ~np.isfinite(values)).any():
        raise UserError(
            f"column {name} has {int(wrong.sum())} values that are NaN or infinite, first in row {_row(frame, wrong)}"
        )
    if whole and (wrong := values != np.round(values)).any():
        raise UserError(
            f"column {name} has {values[wrong][0]:g} in row {_row(frame, wrong)}; counts are whole numbers, not rates"
        )
    if whole and (wrong := values < 0).any():
        raise UserError(f"column {name} has {values[wrong][0]:g} in row {_row(frame, wrong)}; counts are 0 or more")
    return values


def _labels(frame: pl.DataFrame, name: str) -> np.ndarray:
    return _column(frame, name).cast(pl.String).to_numpy().astype(str)


def _column(frame: pl.DataFrame, name: str) -> pl.Series:
    if name not in frame.columns:
        raise _no_column(frame, name)
    if missing := frame[name].null_count():
        row = _row(frame, frame[name].is_null().to_numpy())
        raise UserError(f"column {name} has {missing} missing values, first in row {row}: drop or fill them first")
    return frame[name]


def _no_column(frame: pl.DataFrame, name: str) -> UserError:
    return UserError(f"there is no column {name!r}; columns: {', '.join(n for n in frame.columns if n != ROW)}")


def _row(frame: pl.DataFrame, wrong: np.ndarray) -> int:
    """Row of the first wrong value in the table, from 1 without the header."""
    return int(frame[ROW][int(wrong.argmax())])
