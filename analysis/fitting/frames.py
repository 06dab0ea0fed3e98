"""Tables from Python: polars' own, those of other libraries, columns by name, and files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import polars as pl

from analysis.errors import UserError
from analysis.fitting.table import read_table


class Frame(Protocol):
    """A data frame of polars, pandas or any library that exports its frames by Arrow's PyCapsule interface."""

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any: ...


def as_polars(table: Frame | pl.LazyFrame | Mapping[str, Any] | str | os.PathLike[str]) -> pl.DataFrame:
    """Raises UserError if it is no table."""
    if isinstance(table, pl.DataFrame):
        return table
    if isinstance(table, str | os.PathLike):
        return read_table(Path(table))
    try:
        if isinstance(table, pl.LazyFrame):
            return table.collect()
        if isinstance(table, Mapping):
            return pl.DataFrame({name: _numbers(column) for name, column in table.items()})
        if hasattr(table, "iloc"):  # pandas, whose text columns and missing values its own reader knows best
            return pl.from_pandas(cast(Any, table))
        if hasattr(table, "__arrow_c_stream__"):
            return pl.DataFrame(table)
    except Exception as error:  # what another library's columns hold is not known
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"the {type(table).__name__} cannot be read as a table: {reason}") from error
    raise UserError(f"the table is a {type(table).__name__}; expected a data frame, columns by name, or a file's path")


def _numbers(column: Any) -> Any:
    """A list with whole numbers and others, such as [1, 0.5], as floats: polars takes the type of its first."""
    mixed = isinstance(column, list | tuple) and {int, float} <= {type(value) for value in column}
    return [float(value) if type(value) is int else value for value in column] if mixed else column
