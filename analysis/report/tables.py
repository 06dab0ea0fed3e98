"""Tables as a page shows them: numbers to four significant figures, aligned, missing values as dashes."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import polars as pl

SHOWN = 40
"""Rows that a collapsed table shows; its CSV has all."""


@dataclass(frozen=True, kw_only=True)
class Column:
    label: str
    numeric: bool


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table ready for the page."""

    columns: list[Column]
    rows: list[list[str]]
    count: int
    """Total number of rows; `rows` may hold fewer."""
    csv: str
    """data: URI of the whole table."""


def page_table(frame: pl.DataFrame, shown: int | None = SHOWN) -> Table:
    numeric = {name: kind.is_numeric() for name, kind in frame.schema.items()}
    head = frame if shown is None else frame.head(shown)
    return Table(
        columns=[Column(label=name.replace("_", " "), numeric=numeric[name]) for name in frame.columns],
        rows=[[cell(value) for value in row] for row in head.iter_rows()],
        count=frame.height,
        csv=csv_uri(frame),
    )


def cell(value: object) -> str:
    """One value: integers in full, others to four significant figures, a missing one as a dash, not reached as ∞."""
    if value is None or value != value:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value in (float("inf"), float("-inf")):
        return "∞" if value == float("inf") else "−∞"
    if isinstance(value, float):
        return (
            f"{value:,.0f}"
            if value.is_integer() and abs(value) < 1e15
            else f"{value:,.0f}"
            if abs(value) >= 1e4
            else f"{value:.4g}"
        )
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else str(value)


def csv_text(frame: pl.DataFrame) -> str:
    """Six significant figures; missing values are empty."""
    floats = [name for name, kind in frame.schema.items() if kind.is_float()]
    return frame.with_columns(pl.col(floats).round_sig_figs(6)).write_csv()


def csv_uri(frame: pl.DataFrame) -> str:
    return "data:text/csv;base64," + base64.b64encode(csv_text(frame).encode()).decode()
