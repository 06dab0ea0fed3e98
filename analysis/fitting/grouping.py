"""Fewer points with the same likelihood: equal inputs are summed where the objective allows it.

A binomial likelihood depends only on the hits and trials at each x, least squares only on the weight, the mean and the
sum of squares about it there; any other objective on how often a row occurs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.fitting.objectives import Objective
from analysis.stats.arrays import Array

Rows = NDArray[np.intp]
WORTH = 0.5
"""Share of the points that may be left for grouping to be worth it."""


@dataclass(frozen=True, kw_only=True)
class Grouped:
    """m of n points: inputs, arrays by name ((m,) or (R, m)) with their weights, and what the summed loss of the n is
    above that of the m, () or (R,)."""

    x: Array
    arrays: dict[str, Array]
    constant: Array
    squares: Array
    """Sum of the squared weights of each point, (m,)."""


def grouped(objective: Objective, x: Array, arrays: dict[str, Array]) -> Grouped:
    """`arrays` holds y and log_y, or hits and trials, and perhaps weights and bounds; each (n,) or (R, n)."""
    weights = arrays.get("weights", np.ones(x.shape[0]))
    squares = weights**2 if weights.ndim == 1 else np.ones(x.shape[0])
    whole = Grouped(x=x, arrays=arrays, constant=np.zeros(()), squares=squares)
    summed = {"counts": ("hits", "trials"), "means": ("y", "log_y")}.get(objective.sufficient, ())
    others = [a for name, a in arrays.items() if name != "weights" and name not in summed]
    if x.shape[0] < 4 or any(a.ndim > 1 for a in others):
        return whole
    first, place = _rows(np.column_stack([x, *others]))
    if first.size > WORTH * x.shape[0]:
        return whole
    squares = _sum(squares, place, first.size)
    found = {name: a[first] for name, a in arrays.items() if name != "weights" and name not in summed}
    constant = np.zeros(())
    if objective.sufficient == "counts":
        found |= {name: _sum(arrays[name] * weights, place, first.size) for name in summed}
        return Grouped(x=x[first], arrays=found, constant=constant, squares=squares)
    found["weights"] = _sum(weights, place, first.size)
    for name in summed:
        if name in arrays:
            with np.errstate(invalid="ignore", divide="ignore"):
                mean = _sum(arrays[name] * weights, place, first.size) / found["weights"]
            found[name] = np.where(found["weights"] > 0, mean, 1.0 if name == "y" else 0.0)
            if name == objective.response:
                constant = 0.5 * (weights * (arrays[name] - found[name][..., place]) ** 2).sum(axis=-1)
    return Grouped(x=x[first], arrays=found, constant=constant, squares=squares)


def _rows(table: Array) -> tuple[Rows, Rows]:
    """Index of the first of each distinct row, and which of them every row is."""
    if table.shape[1] == 1:
        _, first, place = np.unique(table[:, 0], return_index=True, return_inverse=True)
        return first, place
    order = np.lexsort(table.T)
    new = np.ones(order.size, dtype=bool)
    new[1:] = (table[order[1:]] != table[order[:-1]]).any(axis=1)
    place = np.empty(order.size, dtype=np.intp)
    place[order] = np.cumsum(new) - 1
    return order[new], place


def _sum(values: Array, place: Rows, size: int) -> Array:
    """Sums (..., size) of values (..., n) by place (n,)."""
    if values.ndim == 1:
        return np.bincount(place, values, size).astype(float)
    return np.stack([np.bincount(place, row, size).astype(float) for row in values])
