"""How many seeds and sizes resolve the sign of gamma, given the observed variance: simulation with the same estimator.

The noise has three parts: of a seed, shared by its sizes (it does not affect the slope); of a seed's slope, which more
sizes do not reduce; of a single run, which they do. All are as observed, over the observed range of sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis.stats.arrays import Array
from analysis.stats.format import plural, short
from analysis.stats.imputation import slopes_over_seeds

SEEDS = (3, 4, 5, 6, 8, 10, 15, 20, 30)
GAMMAS = (0.1, 0.2, 0.4)
WANTED = 0.8
"""Probability with which the sign has to be resolved."""
REPLICATES = 2000


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Observed standard deviations of ln half-life (`slope`: of gamma), and their context."""

    level: float
    """Between seeds, shared by a seed's sizes."""
    slope: float
    """Of gamma between seeds, beyond the contribution of single runs."""
    run: float
    """Of a single run around its seed's line."""
    gamma: float
    """The mean observed slope."""
    centre: float
    """Mean observed ln half-life."""
    log_range: float
    """ln of the largest over the smallest size."""
    seeds: int


def observed_noise(half_lives: pl.DataFrame) -> Noise | None:
    """Analysis of variance of one line per seed, from the seeds that reached half at every size (`half_lives`:
    parameters, seed, estimate). None below two such seeds or three sizes, which cannot separate runs from seeds.
    """
    seen = half_lives.filter(pl.col("estimate") > 0).drop_nulls(["parameters", "seed"])
    sizes = half_lives["parameters"].drop_nulls().unique().sort().to_list()
    rows = [
        np.log(part["estimate"].to_numpy())
        for (_,), part in seen.sort("parameters").group_by(["seed"], maintain_order=True)
        if part["parameters"].to_list() == sizes
    ]
    if len(rows) < 2 or len(sizes) < 3:
        return None
    y, x = np.array(rows), np.log(np.array(sizes, dtype=float))
    away = x - x.mean()
    spread = away @ away
    slopes, means = y @ away / spread, y.mean(axis=1)
    left = y - means[:, None] - slopes[:, None] * away
    run = (left**2).sum() / (len(rows) * (len(sizes) - 2))
    tilt, level = slopes.var(ddof=1) - run / spread, means.var(ddof=1) - run / len(sizes)
    return Noise(
        level=float(np.sqrt(max(level, 0))), slope=float(np.sqrt(max(tilt, 0))), run=float(np.sqrt(run)),
        gamma=float(slopes.mean()), centre=float(means.mean()), log_range=float(np.ptp(x)), seeds=len(rows),
    )  # fmt: skip


def planted(
    noise: Noise, gamma: float, seeds: int, sizes: int, replicates: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """x (K,), centred ln sizes, and simulated ln half-lives (R, S, K) with that slope."""
    x = np.linspace(-0.5, 0.5, sizes) * noise.log_range
    shape = (replicates, seeds, 1)
    tilts = gamma + noise.slope * rng.standard_normal(shape)
    levels = noise.centre + noise.level * rng.standard_normal(shape)
    return x, levels + tilts * x + noise.run * rng.standard_normal((replicates, seeds, sizes))


def power(noise: Noise, gamma: float, seeds: int, sizes: int) -> float:
    """Probability that the 95 % interval of gamma lies on the true side of 0, if every half-life is reached."""
    x, y = planted(noise, gamma, seeds, sizes, REPLICATES, np.random.default_rng([0, seeds, sizes]))
    low, high = slopes_over_seeds(x, y, y)[1:]
    return float((low > 0 if gamma > 0 else high < 0).mean())


def power_text(half_lives: pl.DataFrame) -> str:
    """How many seeds resolve the sign of each gamma at the observed number of sizes; "" without a variance."""
    noise = observed_noise(half_lives)
    if noise is None:
        return ""
    sizes = half_lives["parameters"].drop_nulls().n_unique()
    found = []
    for gamma in GAMMAS:
        enough = next((s for s in SEEDS if power(noise, gamma, s, sizes) >= WANTED), None)
        found.append(f"γ = ±{gamma:g}: {plural(enough, 'seed') if enough else f'more than {SEEDS[-1]} seeds'}")
    return (
        f"Given the variance observed in {plural(noise.seeds, 'seed')} (standard deviations: {short(noise.slope, 2)} "
        f"of γ between seeds, {short(noise.run, 2)} of a run's ln half-life), the sign of γ at {sizes} sizes over the "
        f"same range would be resolved with probability {WANTED:g} by, for {'; '.join(found)}."
    )
