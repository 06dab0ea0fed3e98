"""Does size slow decay? The slope of ln half-life over ln parameters: one per seed, then Student-t over seeds.

Sizes that share a seed share data order, so they are not independent: a joint bootstrap finds a slope where there is
none in a quarter of 3 x 3 designs (decay-and-backdoors, fitting practice); one slope per seed keeps its level. Censored
half-lives are imputed beyond their bounds (analysis.stats.imputation) while they are few.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis.stats.format import interval, plural
from analysis.stats.imputation import few_censored, interval_over_seeds, mean_over_seeds
from analysis.stats.intervals import Interval, t_interval

SEEDS, SIZES, DECADES = 5, 4, 1.0
"""Below any of these a sweep is only a demonstration."""
SLOPES = {"seed": pl.Int64, "sizes": pl.Int64, "kind": pl.String, "slope": pl.Float64}


@dataclass(frozen=True, kw_only=True)
class Slope:
    """The exponent gamma in T ~ N ** gamma."""

    interval: Interval | None
    """Over all seeds if `complete`, with censored half-lives imputed. Otherwise over the seeds with a value at every
    size, which happened to decay early: biased down, and no basis for a claim."""
    seeds: pl.DataFrame
    """seed, sizes, kind (slope | at least | at most | none), slope."""
    sizes: int
    decades: float
    """log10 of the largest over the smallest size."""
    censored: int = 0
    """Censored half-lives that enter the interval."""
    imputed: bool = False
    """Whether the interval includes imputed half-lives."""

    @property
    def whole(self) -> int:
        """Seeds with a slope, not only a bound."""
        return self.seeds.filter(pl.col("kind") == "slope").height

    @property
    def lacking(self) -> int:
        """Seeds that lack a size: no run, or none that had the skill."""
        return self.seeds.filter(pl.col("sizes") < self.sizes).height

    @property
    def late(self) -> int:
        """Seeds with all sizes that did not reach half at every one."""
        return self.seeds.height - self.whole - self.lacking

    @property
    def selected(self) -> bool:
        """Whether the interval leaves seeds out because they did not reach half."""
        return self.sizes > 1 and self.late > 0 and not self.imputed

    @property
    def method(self) -> str:
        """How the interval was found, in words; why there is none."""
        if self.sizes < 2:
            return "none: an exponent takes two or more sizes"
        none = self.interval is None or self.interval.low is None
        if none and self.bound is not None and (end := self.bound_end) is not None:
            side = "lower" if self.bound[0] == "at least" else "upper"
            return (
                f"only its {side} end, {end:.2f}: one slope per seed with half-lives that were not reached at the last "
                f"evaluation, Student-t over {plural(self.seeds.height, 'seed')}"
            )
        if self.interval is None:
            return f"none: no seed {'has' if self.lacking == self.seeds.height else 'reached half at'} every size"
        if self.interval.low is None:
            return "none: it takes two or more seeds with a half-life at every size"
        imputed = "; half-lives that were not reached are imputed beyond the last evaluation" if self.imputed else ""
        return f"one slope per seed, Student-t over {plural(self.interval.count, 'seed')}{imputed}"

    @property
    def complete(self) -> bool:
        """Whether the interval uses every seed: dropping the censored ones would select by result."""
        return self.interval is not None and self.interval.count == self.seeds.height

    @property
    def bound(self) -> tuple[str, float] | None:
        """("at least" | "at most", mean over all seeds) if some seeds have only bounds, all on the same side."""
        kinds = set(self.seeds["kind"])
        for side in ("at least", "at most"):
            if side in kinds <= {"slope", side}:
                return side, sum(self.seeds["slope"]) / self.seeds.height
        return None

    @property
    def bound_end(self) -> float | None:
        """The end of the 95 % interval on the side of the bound, by Student's t over the seeds' bounds: no seed's slope
        lies beyond its own, so it errs on the safe side. None below two seeds."""
        if self.bound is None or (found := t_interval(self.seeds["slope"].to_list())) is None:
            return None
        return found.low if self.bound[0] == "at least" else found.high

    @property
    def no_claim(self) -> str | None:
        """Why this is a demonstration and not a scaling claim, or None."""
        short = []
        if self.lacking:
            short.append(f"{self.lacking} of {plural(self.seeds.height, 'seed')} {_lack(self.lacking)}")
        if self.selected:
            short.append(f"{self.whole} of {plural(self.seeds.height, 'seed')} reached half at every size")
        if self.seeds.height < SEEDS:
            short.append(f"{self.seeds.height} of {SEEDS} seeds")
        if self.sizes < SIZES:
            short.append(f"{self.sizes} of {SIZES} sizes")
        if self.decades < DECADES - 1e-3:
            short.append(f"{self.decades:.2f} of {DECADES:g} decade of parameters")
        return ", ".join(short) or None


def slope(half_lives: pl.DataFrame, sizes: pl.Series | None = None) -> Slope:
    """`half_lives`: one row per size and seed of one setting, criterion and clock: parameters, seed, kind,
    low, estimate. `sizes`: the parameters that a seed must have to count, by default those that occur.

    A seed with a censored half-life gives a bound if its direction is certain; it enters the interval while few are
    censored (analysis.stats.imputation). A seed that lacks a size (its trunk never learned the backdoor) gives nothing.
    """
    implanted = half_lives.drop_nulls(["parameters", "seed"])
    usable = ((pl.col("kind") == "observed") & (pl.col("estimate") > 0)) | (
        (pl.col("kind") == "censored") & (pl.col("low") > 0)
    )
    return _over_seeds(implanted, implanted["parameters"] if sizes is None else sizes, usable, _log_values)


def area_slope(areas: pl.DataFrame) -> Slope:
    """The slope of mean retention over ln parameters. `areas`: parameters, seed, area; none is censored."""
    present = areas.drop_nulls(["parameters", "seed", "area"])
    return _over_seeds(present, present["parameters"], pl.lit(True), lambda part: part["area"].to_numpy())


def _over_seeds(
    frame: pl.DataFrame, of: pl.Series, usable: pl.Expr, values: Callable[[pl.DataFrame], np.ndarray]
) -> Slope:
    sizes = of.unique().sort().to_numpy()
    rows, lows, highs = [], [], []
    for (seed,), part in frame.sort("parameters").group_by(["seed"], maintain_order=True):
        part = part.filter(usable & pl.col("parameters").is_in(sizes.tolist()))
        kind, value = _seed_slope(part, sizes, values)
        rows.append([seed, part["parameters"].n_unique(), kind, value])
        if sizes.size > 1 and np.array_equal(part["parameters"].to_numpy(), sizes):
            lows.append(values(part))
            highs.append(np.where(_censored(part), np.inf, lows[-1]))
    seeds = pl.DataFrame(rows, schema=SLOPES, orient="row").sort("seed")
    decades = math.log10(sizes[-1] / sizes[0]) if sizes.size else 0.0
    whole = seeds.filter(pl.col("kind") == "slope")["slope"].to_list()
    found, censored, imputed = t_interval(whole), 0, False
    if len(lows) > 1 and len(whole) < len(lows):
        low, high = np.array(lows), np.array(highs)
        late = np.isinf(high)
        censored = int(late.sum())
        if few_censored(late):
            found, imputed = interval_over_seeds(np.log(sizes.astype(float)), low, high), True
    return Slope(
        interval=found, seeds=seeds, sizes=int(sizes.size), decades=decades, censored=censored, imputed=imputed
    )


def _censored(part: pl.DataFrame) -> np.ndarray:
    """Which half-lives are censored; mean retention never is."""
    return (part["kind"] == "censored").to_numpy() if "kind" in part.columns else np.zeros(part.height, dtype=bool)


def _log_values(part: pl.DataFrame) -> np.ndarray:
    """ln T; for a censored run ln of its last evaluation."""
    return part.select(pl.when(pl.col("kind") == "censored").then("low").otherwise("estimate").log()).to_numpy()[:, 0]


def _seed_slope(
    part: pl.DataFrame, sizes: np.ndarray, values: Callable[[pl.DataFrame], np.ndarray]
) -> tuple[str, float | None]:
    """Least squares over ln N within one seed; it must have every size."""
    n = part["parameters"].to_numpy()
    if sizes.size < 2 or not np.array_equal(np.unique(n), sizes):
        return "none", None
    x = np.log(n)
    leverage = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    value = float(leverage @ values(part))
    censored = _censored(part)
    if not censored.any():
        return "slope", value
    # The true times of censored runs are larger, so they can only move the slope in the direction of their leverage.
    pull = leverage[censored]
    if (pull >= 0).all():
        return "at least", value
    return ("at most", value) if (pull <= 0).all() else ("none", None)


def _lack(seeds: int) -> str:
    return "lacks a size" if seeds == 1 else "lack a size"


def gamma_text(found: Slope) -> str:
    """ "γ = 0.41 [0.33, 0.49] over 5 seeds"; with many censored the bound over all, and the interval without them."""
    every = f"over all {found.seeds.height} seeds" if found.seeds.height > 1 else "over 1 seed"
    bound = f"γ {found.bound[0]} {found.bound[1]:.2f} {every}" if found.bound else ""
    if found.bound and (end := found.bound_end) is not None:
        bound += f" (its interval {'begins' if found.bound[0] == 'at least' else 'ends'} at {end:.2f})"
    if found.interval is None:
        return bound or "γ unknown"
    if found.selected:
        only = f"{interval(found.interval)} over {plural(found.whole, 'seed')} that reached half at every size"
        return f"{bound or f'γ unknown {every}'}; {only}"
    notes = [f"{found.lacking} {_lack(found.lacking)}"] if found.lacking else []
    if found.imputed:
        notes.append(f"{found.censored} of {found.sizes * found.interval.count} half-lives censored")
    count = f"{found.interval.count} of " if found.lacking else ""
    text = f"γ = {interval(found.interval)}"
    if found.interval.count > 1 or found.lacking:
        text += f" over {count}{plural(found.seeds.height, 'seed')}"
    return f"{text} ({'; '.join(notes)})" if notes else text


def by_size(half_lives: pl.DataFrame) -> pl.DataFrame:
    """Geometric mean over seeds at each size, with its t interval; a few censored runs are imputed
    (analysis.stats.imputation). With many, estimate and interval are null and `bound` holds.

    Columns: size, parameters, seeds, censored, estimate, low, high, bound (lower bound of the geometric mean, with
    censored runs at their last evaluation).
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
        late, bound = (part["kind"] == "censored").to_numpy(), None
        if late.any() and mean.count == late.size and few_censored(late[:, None]):
            at = np.log(times)
            mean = mean_over_seeds(at, np.where(late, np.inf, at))
        elif late.any():
            bound = math.exp(mean.estimate)
        shown = mean.exp()
        ends = (shown.estimate, shown.low, shown.high) if bound is None else (None, None, None)
        rows.append([part["size"][0], n, part.height, int(late.sum()), *ends, bound])
    names = {
        "size": pl.String, "parameters": half_lives.schema["parameters"], "seeds": pl.Int64, "censored": pl.Int64,
        "estimate": pl.Float64, "low": pl.Float64, "high": pl.Float64, "bound": pl.Float64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=names, orient="row")
