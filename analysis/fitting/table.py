"""Observations from any table: CSV, Parquet or JSON lines; bad input raises an error of one line."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, cast

import numpy as np
import polars as pl

from analysis.errors import UserError, nearest
from analysis.fitting.observations import Observations
from analysis.laws.base import Law
from analysis.stats.arrays import Array

RUN = re.compile(r"seed|run|trial|replica|rep\b|repeat|subject|model|name|id\b", re.IGNORECASE)
"""In the name of a column that tells runs apart."""
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


@dataclass(frozen=True, kw_only=True)
class Roles:
    """The columns of a table by what they are; `x` in the order of the law's inputs."""

    x: list[str]
    y: str | None = None
    hits: str | None = None
    trials: str | None = None
    censored: str | None = None
    """True where y is only a lower bound."""
    low: str | None = None
    high: str | None = None
    """Bounds where y is blank, or in place of y; blank where there is none, equal where y is known."""
    group: str | None = None
    weights: str | None = None
    errors: str | None = None
    """Standard errors of y: the weight of a row is 1 / error^2 (of ln y where errors are relative)."""

    def named(self, inputs: Sequence[str]) -> dict[str, str]:
        """Columns by their names in messages: the law's inputs, y or rate, group."""
        rate = None if self.hits is None else f"{self.hits}/{self.trials}"
        named = {"y": self.y, "rate": rate, "group": self.group}
        return dict(zip(inputs, self.x, strict=True)) | {name: each for name, each in named.items() if each is not None}

    def __post_init__(self) -> None:
        given = {"--y": self.y, "--hits": self.hits, "--trials": self.trials, "--low": self.low, "--high": self.high}
        named = [flag for flag, column in given.items() if column is not None]
        if named not in (["--y"], ["--hits", "--trials"], ["--low", "--high"], ["--y", "--low", "--high"]):
            has = f"; got {' and '.join(named)}" if named else ""
            raise UserError(f"pass either --y, or both --hits and --trials, or both --low and --high{has}")
        if self.censored is not None and (self.y is None or self.low is not None):
            raise UserError("--censored says where --y is a lower bound: pass it with --y, without --low and --high")
        if self.weights is not None and self.errors is not None:
            raise UserError("pass --weights or --errors, not both: standard errors become weights 1 / error^2")
        if self.errors is not None and self.y is None:
            raise UserError("--errors are standard errors of --y: pass it with --y")


def inputs(law: Law, given: str, frame: pl.DataFrame) -> list[str]:
    """The columns of a law's inputs, in its order, from `given`: INPUT=COLUMN,... or columns in the law's order.

    Inputs whose columns have the law's names may come in any order. Raises UserError on names that the law does not
    have, on inputs without a column, and on columns whose names say that they are swapped.
    """
    parts = [part.strip() for part in given.split(",")]
    needed = ",".join(law.inputs)
    example = ",".join(f"{name}=COLUMN" for name in law.inputs)
    if any("=" in part and part not in frame.columns for part in parts):
        pairs = [part.split("=", 1) if "=" in part else ["", part] for part in parts]
        columns = {name.strip(): column.strip() for name, column in pairs}
        if len(pairs) != len(law.inputs) or set(columns) != set(law.inputs):
            raise UserError(f"{law.name} takes {needed}; --x gives {given!r}: name each input once, as --x {example}")
        return [columns[name] for name in law.inputs]
    if len(parts) != len(law.inputs):
        what = f"{len(law.inputs)} input{'s' * (len(law.inputs) != 1)} ({needed})"
        raise UserError(f"{law.name} takes {what}; --x gives {len(parts)} ({given}); name another law with --law")
    if set(parts) == set(law.inputs):
        return list(law.inputs)
    for name, column in zip(law.inputs, parts, strict=True):
        if column in law.inputs and column != name:
            raise UserError(
                f"column {column} is given for {name}, but {law.name} has an input {column}: name them, --x {example}"
            )
    return parts


def observations(
    frame: pl.DataFrame, law: Law, roles: Roles, scale: Callable[[Array], Array] | None = None
) -> tuple[Observations, int]:
    """Columns of a table as observations of a law, and the number of rows left out because their response is missing.

    `scale`: of y, that standard errors are relative to (default: absolute). Raises UserError on a missing column, text,
    missing values, rates given as counts, and on times that are missing where they should be bounds.
    """
    bounded = [name for name in (roles.low, roles.high) if name is not None]
    response = [name for name in (roles.y, roles.hits, roles.trials) if name is not None] + bounded
    if absent := [name for name in response if name not in frame.columns]:
        raise _no_column(frame, absent[0])
    rows = frame.height
    frame = frame if ROW in frame.columns else frame.with_row_index(ROW, offset=1)
    empty = frame.select(pl.all_horizontal(pl.col(response).is_null())).to_series()
    if empty.any() and (law.times or roles.censored is not None):
        raise UserError(
            f"column {roles.y or response[0]} is blank in {int(empty.sum())} rows, first in row "
            f"{_row(frame, empty.to_numpy())}: a time that was not reached is a lower bound. Write the last time seen "
            "and --censored COLUMN, true in such rows, or give its bounds with --low and --high"
        )
    frame = frame.filter(~empty)
    if frame.is_empty():
        raise UserError(f"no row has a value of {' or '.join(response)}: there is nothing to fit")
    counts = [numbers(frame, name, whole=True) for name in (roles.hits, roles.trials) if name is not None]
    if counts:
        _check_counts(frame, law, str(roles.hits), str(roles.trials), *counts)
    y, low, high = None, *_bounds(frame, roles)
    if low is None and roles.y is not None:
        y = numbers(frame, roles.y)
        if roles.censored is not None and (late := _truth(frame, roles.censored)).any():
            low, high = y, np.where(late, np.inf, y)
    elif low is not None and (low == high).all():
        y, low, high = low, None, None
    if low is not None and high is not None and (np.isinf(high).all() or np.isinf(low).all()):
        side = "lower" if np.isinf(high).all() else "upper"
        raise UserError(
            f"all {low.size} values are {side} bounds, and any law beyond them fits: expected some that were observed"
        )
    points = Observations(
        x=np.stack([numbers(frame, name) for name in roles.x], axis=1), y=None if low is not None else y,
        hits=counts[0] if counts else None, trials=counts[1] if counts else None,
        **({} if low is None else {"low": low, "high": high}),
        group=None if roles.group is None else labels(frame, roles.group), weights=_weights(frame, roles, y, scale),
    )  # fmt: skip
    return points, rows - frame.height


def _bounds(frame: pl.DataFrame, roles: Roles) -> tuple[Array, Array] | tuple[None, None]:
    """Low and high of each row, which are y where it is known; None without columns of bounds."""
    if roles.low is None or roles.high is None:
        return None, None
    names = [name for name in (roles.y, roles.low, roles.high) if name is not None]
    for name in names:
        if not (known := frame.drop_nulls(name)).is_empty():
            numbers(known, name, bounds=True)  # raises on text
    frame = frame.with_columns(pl.col(name).cast(pl.Float64) for name in names)
    known = pl.lit(None, dtype=pl.Float64) if roles.y is None else pl.col(roles.y)
    low, high = (
        numbers(frame.with_columns(pl.coalesce(known, pl.col(name), pl.lit(end)).alias(name)), name, bounds=True)
        for name, end in ((roles.low, -np.inf), (roles.high, np.inf))
    )
    if (wrong := ~(low <= high)).any():
        where = f"{int(wrong.sum())} rows, first in row {_row(frame, wrong)}"
        raise UserError(f"{roles.low} is above {roles.high} in {where}")
    return low, high


def likely_group(frame: pl.DataFrame, roles: Roles) -> str | None:
    """A column that tells apart rows of equal inputs, such as the seed of a run; None if no row repeats an input.

    Its values are no measurement (text or whole numbers), none has an input twice, and each has two rows or more.
    """
    inputs = frame.select(roles.x)
    if inputs.n_unique() == inputs.height:
        return None
    used = {each for each in vars(roles).values() if isinstance(each, str)} | {*roles.x, ROW}
    found = []
    for column in frame.drop(used, strict=False):
        apart = column.n_unique()
        measured = column.dtype.is_float() or column.dtype.is_nested()
        if measured or column.null_count() or not 1 < apart <= column.len() / 2:
            continue
        if inputs.with_columns(column.alias(ROW)).n_unique() == inputs.height:
            found.append((not RUN.search(column.name), apart, column.name))
    return min(found)[2] if found else None


def _truth(frame: pl.DataFrame, name: str) -> np.ndarray:
    """A column of true and false, or of 1 and 0."""
    column = _column(frame, name)
    values = column.cast(pl.String).str.to_lowercase()
    known = {"true": True, "1": True, "1.0": True, "yes": True, "false": False, "0": False, "0.0": False, "no": False}
    if (wrong := ~values.is_in(list(known))).any():
        first = column.filter(wrong)[0]
        raise UserError(f"column {name} has {first!r} in row {_row(frame, wrong.to_numpy())}; expected true or false")
    return values.replace_strict(known, return_dtype=pl.Boolean).to_numpy()


def _weights(
    frame: pl.DataFrame, roles: Roles, y: Array | None, scale: Callable[[Array], Array] | None
) -> Array | None:
    """Weights with mean 1, from a column of them or of standard errors."""
    name = roles.weights or roles.errors
    if name is None:
        return None
    found = numbers(frame, name)
    if (wrong := found <= 0 if roles.errors else found < 0).any():
        least = "above 0" if roles.errors else "0 or more"
        raise UserError(f"column {name} has {found[wrong][0]:g} in row {_row(frame, wrong)}; expected {least}")
    if roles.errors and y is not None:
        found = ((1.0 if scale is None else scale(y)) / found) ** 2
    if not found.sum() > 0:
        raise UserError(f"column {name} is 0 in all rows: there is nothing to fit")
    return found / found.mean()


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


def numbers(frame: pl.DataFrame, name: str, whole: bool = False, bounds: bool = False) -> Array:
    """A column as float64 without missing values; `bounds` may be infinite."""
    column = _column(frame, name)
    if not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
        wrong = column.cast(pl.Float64, strict=False).is_null() if column.dtype == pl.String else column.is_not_null()
        if not wrong.any():
            raise UserError(f"column {name} holds numbers as text, such as {column[0]!r}; write them as numbers")
        first = column.filter(wrong)[0]
        raise UserError(f"column {name} has {first!r} in row {_row(frame, wrong.to_numpy())}; expected numbers")
    values = column.cast(pl.Float64).to_numpy()
    if (wrong := np.isnan(values) if bounds else ~np.isfinite(values)).any():
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


def labels(frame: pl.DataFrame, name: str) -> np.ndarray:
    """A column as text without missing values."""
    return _column(frame, name).cast(pl.String).to_numpy().astype(str)


def _column(frame: pl.DataFrame, name: str) -> pl.Series:
    if name not in frame.columns:
        raise _no_column(frame, name)
    if missing := frame[name].null_count():
        row = _row(frame, frame[name].is_null().to_numpy())
        raise UserError(f"column {name} has {missing} missing values, first in row {row}: drop or fill them first")
    return frame[name]


def _no_column(frame: pl.DataFrame, name: str) -> UserError:
    known = [each for each in frame.columns if each != ROW]
    return UserError(f"there is no column {name!r}{nearest(name, known)}; columns: {', '.join(known)}")


def _row(frame: pl.DataFrame, wrong: np.ndarray) -> int:
    """Row of the first wrong value in the table, from 1 without the header."""
    return int(frame[ROW][int(wrong.argmax())])
