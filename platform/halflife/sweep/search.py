"""Which settings a study tries: every combination, or some drawn at random."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from halflife.errors import UserError
from halflife.rng import generator


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """A number from [low, high), all equally likely."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class LogUniform:
    """A positive number from [low, high), its logarithm uniform."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Integers:
    """A whole number from low to high, both included."""

    low: int
    high: int


Axis = Sequence[Any] | Uniform | LogUniform | Integers


def grid(**axes: Sequence[Any]) -> list[dict[str, Any]]:
    """Every combination; the last axis varies fastest.

    Raises UserError when an axis is empty or has a value twice.
    """
    for name, values in axes.items():
        if not values:
            raise UserError(f"axis {name!r} has no values: give at least one")
        repeated = [value for place, value in enumerate(values) if value in values[:place]]
        if repeated:
            raise UserError(f"axis {name!r} has the value {repeated[0]!r} twice: give each value once")
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def random_search(axes: Mapping[str, Axis], count: int, seed: int) -> list[dict[str, Any]]:
    """`count` draws, each axis by itself. Draw i depends on (seed, i) only: a longer search begins with the shorter.

    Raises UserError when count is below 1 or an axis has nothing to draw from.
    """
    if count < 1:
        raise UserError(f"a random search of {count} draws: expected at least 1")
    return [
        {name: _draw(name, axis, generator(seed, "search", index, name)) for name, axis in axes.items()}
        for index in range(count)
    ]


def _draw(name: str, axis: Axis, random: Any) -> Any:
    if isinstance(axis, (Uniform, LogUniform, Integers)):
        if not axis.low < axis.high or (isinstance(axis, LogUniform) and axis.low <= 0):
            wanted = "0 < low < high" if isinstance(axis, LogUniform) else "low < high"
            raise UserError(f"axis {name!r} is {axis}: expected {wanted}")
        if isinstance(axis, Integers):
            return int(random.integers(axis.low, axis.high + 1))
        if isinstance(axis, Uniform):
            return float(random.uniform(axis.low, axis.high))
        return math.exp(random.uniform(math.log(axis.low), math.log(axis.high)))
    if not axis:
        raise UserError(f"axis {name!r} has no values: give at least one")
    return axis[int(random.integers(len(axis)))]
