"""Does size slow decay? The slope of ln half-life over ln parameters: one per seed, then Student-t over seeds.

Sizes that share a seed share data order, so they are not independent: a joint bootstrap declares a slope where
there is none in a quarter of 3 x 3 designs (decay-and-backdoors, fitting practice); a slope per seed holds its level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis.uncertainty import Interval, t_interval

SEEDS, SIZES, DECADES = 5, 4, 1.0
"""Below any of these a sweep is a demonstration."""
SLOPES = {"seed": pl.Int64, "sizes": pl.Int64, "kind": pl.String, "slope": pl.Float64}


@dataclass(frozen=True, kw_only=True)
class Slope:
    """The exponent gamma in T ~ N ** gamma."""

    interval: Interval | None
    """Over the seeds whose half-lives were all observed; None when there is none."""
    seeds: pl.DataFrame
    """seed, sizes, kind (slope | at least | at most | none), slope."""
    sizes: int
    decades: float
    """log10 of the largest over the smallest size."""

    @property
    def whole(self) -> int:
        """Seeds that have a slope and not only a bound."""
        return self.seeds.filter(pl.col("kind") == "slope").height

    @property
    def bound(self) -> tuple[str, float] | None:
        """("at least" | "at most", mean over all seeds) where some seeds have only bounds, all to the same side."""
        kinds = set(self.seeds["kind"])
        for side in ("at least", "at most"):
            if side in kinds <= {"slope", side}:
                return side, sum(self.seeds["slope"]) / self.seeds.height
        return None

    @property
    def no_claim(self) -> str | None:
        """Why this is a demonstration and no scaling claim, or None."""
        short = []
        if self.whole < SEEDS:
            short.append(f"{self.whole} of {SEEDS} seeds")
        if self.sizes < SIZES:
            short.append(f"{self.sizes} of {SIZES} sizes")
        if self.decades < DECADES - 1e-3:
            short.append(f"{self.decades:.2f} of {DECADES:g} decade of parameters")
        return ", ".join(short) or None


def slope(half_lives: pl.DataFrame) -> Slope:
    """`half_lives`: one row per size and seed of one setting, criterion and clock: parameters, seed, kind,
    low, estimate.

    A seed of which a half-life is censored gives a bound where the direction is sure, and no slope.
    """
    usable = half_lives.drop_nulls(["parameters", "seed"]).filter(
        ((pl.col("kind") == "observed") & (pl.col("estimate") > 0))
        | ((pl.col("kind") == "censored") & (pl.col("low") > 0))
    )
    sizes = usable["parameters"].unique().sort().to_numpy()
    rows = []
    for (seed,), part in usable.sort("parameters").group_by(["seed"], maintain_order=True):
        kind, value = _seed_slope(part, sizes)
        rows.append([seed, part["parameters"].n_unique(), kind, value])
    seeds = pl.DataFrame(rows, schema=SLOPES, orient="row").sort("seed")
    whole = seeds.filter(pl.col("kind") == "slope")["slope"].to_list()
    decades = math.log10(sizes[-1] / sizes[0]) if sizes.size else 0.0
    return Slope(interval=t_interval(whole), seeds=seeds, sizes=int(sizes.size), decades=decades)


def _seed_slope(part: pl.DataFrame, sizes: np.ndarray) -> tuple[str, float | None]:
    """Least squares of ln T over ln N within one seed; it must reach from the smallest size to the largest."""
    n = part["parameters"].to_numpy()
    if sizes.size < 2 or n.min() != sizes[0] or n.max() != sizes[-1]:
        return "none", None
    x = np.log(n)
    leverage = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    censored = (part["kind"] == "censored").to_numpy()
    t = np.where(censored, part["low"].to_numpy(), part["estimate"].fill_null(1.0).to_numpy())
    value = float(leverage @ np.log(t))
    if not censored.any():
        return "slope", value
    # The true times of censored runs lie above: they can only move the slope in the direction of their leverage.
    pull = leverage[censored]
    if (pull >= 0).all():
        return "at least", value
    return ("at most", value) if (pull <= 0).all() else ("none", None)


def by_size(half_lives: pl.DataFrame) -> pl.DataFrame:
    """Geometric mean over seeds at each size, with its t interval; null where a seed is censored (then `bound` holds).

    Columns: size, parameters, seeds, censored, estimate, low, high, bound (the geometric mean is at least this).
    """
    rows = []
    for (n,), part in (
        half_lives.drop_nulls(["parameters"]).sort("parameters").group_by(["parameters"], maintain_order=True)
    ):
        part = part.filter(pl.col("kind") != "at-start")
        times = [row["estimate"] if row["kind"] == "observed" else row["low"] for row in part.iter_rows(named=True)]
        mean = t_interval(math.log(time) for time in times if time > 0)
        if mean is None:
            continue
        censored = part.filter(pl.col("kind") == "censored").height
        shown = mean.exp()
        rows.append([
            part["size"][0], n, part.height, censored,
            *((shown.estimate, shown.low, shown.high, None) if not censored else (None, None, None, shown.estimate)),
        ])  # fmt: skip
    names = {
        "size": pl.String, "parameters": pl.Int64, "seeds": pl.Int64, "censored": pl.Int64,
        "estimate": pl.Float64, "low": pl.Float64, "high": pl.Float64, "bound": pl.Float64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=names, orient="row")
