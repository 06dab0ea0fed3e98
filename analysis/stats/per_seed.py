"""Tables to one estimate a seed: a contrast of two arms, a trend over an axis, an association over items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from scipy import stats

from analysis.errors import UserError, nearest
from analysis.stats.arrays import Array
from analysis.stats.estimates import Censored, Estimates
from analysis.stats.format import plural

ASSOCIATION_SEEDS = 5
ROUNDING = 1e-12
"""Relative: what differs by less, differs in how it was computed alone."""
ITEMS = 4
"""Items whose ranks say something."""
AVERAGE = ": average them first, or keep one"


def contrast(
    table: pl.DataFrame, quantity: str, axis: str, *, high: object, low: object, seed: str, pair: Sequence[str] = ()
) -> Estimates:
    """Difference of `quantity` where `axis` is `high` minus where it is `low`, paired by seed and by the columns `pair`
    (size, say), averaged over pairs within a seed. A seed that lacks a value of any pair gives none.

    Raises UserError on a missing column or arm, and if a cell of seed, pair and arm has two rows.
    """
    pair = [name for name in pair if name != seed]  # rows of one seed are always paired
    frame = _columns(table, [quantity, axis, seed, *pair], numeric=[quantity], gaps=[quantity])
    arms = [_value(frame, axis, each) for each in (high, low)]
    if arms[0] == arms[1]:
        raise UserError(f"both arms of {axis} are {_shown(arms[0])}; expected two different values")
    frame = frame.filter(pl.col(axis).is_in(arms))
    _once(frame, [seed, axis, *pair], ": name the column in which they differ with --pair, or average them first")
    seeds = _names(frame, seed)
    sides = [frame.filter(pl.col(axis) == arm).drop(axis) for arm in arms]
    if pair:  # a pair that only one arm has cannot be compared
        sides = [side.join(other, on=pair, how="semi") for side, other in zip(sides, sides[::-1], strict=True)]
    pairs = sides[0].select(pair).n_unique() if pair else 1
    both = sides[0].join(sides[1], on=[seed, *pair], suffix=" of the other arm").drop_nulls()
    own, other = pl.col(quantity), pl.col(f"{quantity} of the other arm")
    alike = (own - other).abs() < ROUNDING * pl.max_horizontal(own.abs(), other.abs())
    change = pl.when(alike).then(0.0).otherwise(own - other).mean()
    found = both.filter(pl.len().over(seed) == pairs).group_by(seed).agg(change.alias(quantity))
    values = seeds.join(found, on=seed, how="left", maintain_order="left").select(quantity)
    return Estimates(values=_array(values), seeds=seeds[seed].to_list(), most=_range(table[quantity]))


def trend(
    table: pl.DataFrame, quantity: str, axis: str, *, seed: str, log: bool = False, censored: str | None = None
) -> Estimates:
    """Least-squares slope of `quantity` over `axis`, or over its logarithm, one per seed. A seed that lacks a value of
    the axis gives none. `censored`: a column that is true where the value is a lower bound; bounds are imputed while
    they are few (analysis.stats.imputation).

    Raises UserError on a missing column, an axis of one value, and if a cell of seed and axis has two rows.
    """
    numeric = [quantity, axis, *([censored] if censored else [])]
    frame = _columns(table, [*numeric, seed], numeric=numeric, gaps=[quantity])
    _once(frame, [seed, axis], AVERAGE)
    levels = frame[axis].unique().sort().to_numpy()
    if levels.size < 2:
        raise UserError(f"column {axis} has one value, {levels[0]:g}; a trend over it needs rows of two or more")
    if log and levels[0] <= 0:
        raise UserError(f"column {axis} has {levels[0]:g}; its logarithm needs values above 0")
    x = np.log(levels) if log else levels
    seeds = _names(frame, seed)
    grid = seeds.join(pl.DataFrame({axis: levels}), how="cross")
    frame = grid.join(frame, on=[seed, axis], how="left", maintain_order="left")
    values = _array(frame.select(quantity)).reshape(seeds.height, levels.size)
    away = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    late = np.zeros(values.shape, dtype=bool)
    if censored:
        late = (_array(frame.select(censored)) > 0).reshape(values.shape)
    bounds = Censored(x=x, low=values, high=np.where(late, np.inf, values)) if late.any() else None
    most = None if censored else float(_range(table[quantity]) * np.abs(away).sum() / 2)
    return Estimates(values=values @ away, seeds=seeds[seed].to_list(), censored=bounds, most=most)


def association(table: pl.DataFrame, quantity: str, other: str, *, item: str, seed: str) -> Estimates:
    """Spearman's rank correlation of two quantities over items, one per seed. A seed with fewer than four items, or in
    which one of them is constant, gives none.

    Raises UserError on a missing column, below five seeds, and if a cell of seed and item has two rows.
    """
    frame = _columns(table, [quantity, other, item, seed], numeric=[quantity, other], gaps=[quantity, other])
    _once(frame, [seed, item], AVERAGE)
    seeds = _names(frame, seed)
    if seeds.height < ASSOCIATION_SEEDS:
        raise UserError(
            f"{plural(seeds.height, 'seed')} in column {seed}; an association needs {ASSOCIATION_SEEDS} or more"
        )
    parts = frame.drop_nulls().partition_by(seed, as_dict=True)
    values = [
        _correlation(parts[name].select(quantity, other).to_numpy()) if (name := (each,)) in parts else np.nan
        for each in seeds[seed]
    ]
    return Estimates(values=np.array(values, dtype=float), seeds=seeds[seed].to_list(), most=1.0)


def _correlation(values: Array) -> float:
    if values.shape[0] < ITEMS or (np.ptp(values, axis=0) == 0).any():
        return np.nan
    ranks = stats.rankdata(values, axis=0)
    return float(np.corrcoef(ranks, rowvar=False)[0, 1])


def _columns(table: pl.DataFrame, names: Sequence[str], *, numeric: Sequence[str], gaps: Sequence[str]) -> pl.DataFrame:
    """Those columns; numbers as floats, NaN and infinite ones as missing, which only `gaps` may have."""
    for name in names:
        if name not in table.columns:
            known = ", ".join(table.columns)
            raise UserError(f"there is no column {name!r}{nearest(name, table.columns)}; columns: {known}")
        if names.count(name) > 1:
            raise UserError(f"column {name} is named twice: expected a different column for each")
        column = table[name].drop_nulls()
        if column.is_empty():
            raise UserError(f"column {name} has no values")
        if name in numeric and not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
            raise UserError(f"column {name} holds text, such as {column[0]!r}; expected numbers")
    numbers = [pl.col(name).cast(pl.Float64) for name in numeric]
    frame = table.select(names).with_columns(pl.when(each.is_finite()).then(each) for each in numbers)
    for name in names:
        if name not in gaps and (missing := frame[name].null_count()):
            raise UserError(f"column {name} has {missing} missing values: drop or fill them first")
    return frame


def _value(frame: pl.DataFrame, axis: str, given: object) -> object:
    """The value of the axis that is meant, as the column holds it: 1 is 1.0, and text is exact."""
    levels = frame[axis].unique().sort().to_list()
    if len(levels) < 2:
        raise UserError(f"column {axis} has one value, {_shown(levels[0])}; a contrast needs two")
    for level in levels:
        same = str(level).lower() == str(given).lower() if isinstance(level, bool) else str(level) == str(given)
        if same or (isinstance(level, int | float) and _number(given) == level):
            return level
    shown = [_shown(level) for level in levels]
    raise UserError(f"column {axis} has no value {given!s}{nearest(str(given), shown)}; it has {', '.join(shown[:20])}")


def _number(text: object) -> float | None:
    try:
        return float(str(text))
    except ValueError:
        return None


def _once(frame: pl.DataFrame, cell: Sequence[str], hint: str) -> None:
    cells = frame.select(cell)
    twice = cells.filter(cells.is_duplicated())
    if twice.height:
        first = twice.row(0)
        where = ", ".join(f"{name} {_shown(value)}" for name, value in zip(cell, first, strict=True))
        raise UserError(f"{twice.rows().count(first)} rows have {where}; expected one{hint}")


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def in_decades(axis: pl.Series) -> tuple[float, float] | None:
    """The smallest and largest of three or more values above 0, if they span a decade and their logarithms are spaced
    more evenly than they are."""
    levels = axis.drop_nulls().unique().sort().to_numpy().astype(float)
    if levels.size < 3 or levels[0] <= 0 or levels[-1] < 10 * levels[0]:
        return None
    uneven, uneven_log = (float(gaps.std() / gaps.mean()) for gaps in (np.diff(levels), np.diff(np.log(levels))))
    return (float(levels[0]), float(levels[-1])) if uneven_log < uneven else None


def _range(column: pl.Series) -> float:
    values = column.cast(pl.Float64).to_numpy()
    return float(np.ptp(values[np.isfinite(values)]))


def _names(frame: pl.DataFrame, seed: str) -> pl.DataFrame:
    return frame.select(pl.col(seed).unique().sort())


def _array(column: pl.DataFrame) -> Array:
    return column.to_series().cast(pl.Float64).fill_null(np.nan).to_numpy()
