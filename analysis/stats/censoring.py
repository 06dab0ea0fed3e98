"""A time that may be censored: it lies between two evaluations, after the last one, or before the first.

Everywhere in analysis such a time is these four values, as a `Time` or as four columns of a frame. A null `estimate`
means that there is none, never that the time is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import polars as pl

Kind = Literal["observed", "censored", "at-start"]
COLUMNS = {"kind": pl.String, "low": pl.Float64, "high": pl.Float64, "estimate": pl.Float64}
CENSORED, AT_START = (pl.col("kind") == kind for kind in ("censored", "at-start"))


@dataclass(frozen=True, kw_only=True)
class Time:
    """observed: between the evaluations `low` and `high`, `estimate` interpolated. censored: not by `low`, the last
    evaluation; no estimate. at-start: already so at the first evaluation, `high`.
    """

    kind: Kind
    low: float
    high: float | None
    estimate: float | None

    @property
    def row(self) -> tuple[Kind, float, float | None, float | None]:
        """In the order of COLUMNS."""
        return self.kind, self.low, self.high, self.estimate


def bounds() -> tuple[pl.Expr, pl.Expr]:
    """Ends of the interval that holds the time, for interval-censored likelihoods; inf or 0 where unknown."""
    low = pl.when(AT_START).then(0.0).otherwise("low")
    high = pl.when(CENSORED).then(float("inf")).otherwise("high")
    return low, high


def log_ratio(numerator: str, denominator: str) -> tuple[pl.Expr, pl.Expr]:
    """(kind, bound) of the ln ratio of two times whose columns end in these suffixes.

    kind: observed; at least, if the numerator was not reached; at most, if the denominator was not; null if neither was
    or one is at-start. bound: the value, or its bound.
    """

    def seen(kind: str, suffix: str) -> pl.Expr:
        return pl.col(f"kind{suffix}") == kind

    def reached(suffix: str) -> pl.Expr:
        return pl.coalesce(f"estimate{suffix}", pl.when(seen("censored", suffix)).then(f"low{suffix}")).log()

    above, below = numerator, denominator
    kind = (
        pl.when(seen("observed", above) & seen("observed", below))
        .then(pl.lit("observed"))
        .when(seen("censored", above) & seen("observed", below))
        .then(pl.lit("at least"))
        .when(seen("observed", above) & seen("censored", below))
        .then(pl.lit("at most"))
    )
    return kind, pl.when(kind.is_not_null()).then(reached(above) - reached(below))
