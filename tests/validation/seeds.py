"""Laws over seeds, and gamma over sizes x seeds: noise shared by a seed's sizes, overdispersed counts, censoring."""

from __future__ import annotations

import itertools

import numpy as np
from scipy import special

from analysis.decay.formulas import crossing
from analysis.fitting.fit import fit_many
from analysis.fitting.intervals import expanded, jackknife_half_width
from analysis.fitting.objectives import Binomial, Gaussian
from analysis.fitting.observations import Observations
from analysis.laws import LAWS
from analysis.stats.arrays import Array
from analysis.stats.imputation import augment, few_censored, slopes_over_seeds
from tests.validation.cells import NULLS, Cell, cell, counts, generator
from tests.validation.decay import CONCENTRATION, TRIALS, cadence

STEPS = cadence(400)
LOGNORMAL = Gaussian(log=True)
LEVEL, TILT, RUN = 0.3, 0.1, 0.2
"""Standard deviations of ln half-life: shared by a seed's sizes; of gamma between seeds; of one run."""
OVER_SIZE: dict[str, dict[str, float]] = {
    "exponential_over_size": {"a": 0.95, "T0": 40, "gamma": 0.3},
    "exponential_floor_over_size": {"a": 0.95, "T0": 30, "gamma": 0.3, "f0": -1.5, "phi": 0.3},
    "shifted_power_over_size": {"a": 0.95, "T0": 30, "gamma": 0.3, "b": 1.0},
    "stretched_over_size": {"a": 0.95, "T0": 40, "gamma": 0.3, "s": 0.7},
    "power_floor_over_size": {"a": 0.95, "T0": 15, "gamma": 0.3, "b": 1.5, "f0": -1.5, "phi": 0.3},
}


def t_ends(values: Array) -> tuple[Array, Array]:
    """Ends of the Student-t interval over seeds, of values (R, S)."""
    seeds = values.shape[1]
    half_width = special.stdtrit(seeds - 1, 0.975) * values.std(axis=1, ddof=1) / np.sqrt(seeds)
    return values.mean(axis=1) - half_width, values.mean(axis=1) + half_width


def sizes_of(count: int) -> Array:
    """ln of 3 or 4 sizes over a decade around 1M."""
    return np.linspace(-0.5, 0.5, count) * np.log(10)


def log_half_lives(
    rng: np.random.Generator, replicates: int, seeds: int, x: Array, gamma: float, tilt: float = TILT
) -> Array:
    """(R, S, K): a level and a slope deviation per seed, and noise per run."""
    level = np.log(60) + LEVEL * rng.standard_normal((replicates, seeds, 1))
    slope = gamma + tilt * rng.standard_normal((replicates, seeds, 1))
    return level + slope * x + RUN * rng.standard_normal((replicates, seeds, x.size))


def curves_over_seeds(replicates: int) -> list[Cell]:
    """One law, seeds with different half-lives: the law fitted to every seed, Student-t over seeds."""
    law, found = LAWS["exponential_floor"], []
    for place, (seeds, concentration) in enumerate(((3, np.inf), (5, np.inf), (3, CONCENTRATION), (5, CONCENTRATION))):
        rng = generator(4, place)
        scale = np.exp(np.log(30) + LEVEL * rng.standard_normal(replicates * seeds))
        theta = np.column_stack([np.full(scale.size, 0.95), scale, np.full(scale.size, 0.2)])
        hits = counts(rng, law.value(theta, STEPS[:, None]), TRIALS, scale.size, concentration)
        fits = fit_many(
            law, Observations(x=STEPS, hits=hits[0], trials=np.full(STEPS.size, float(TRIALS))), hits=hits, starts=8
        )
        half = law.half_life(np.array([0.95, 30, 0.2]))
        assert half is not None
        assert fits.half_life is not None
        name = "overdispersed" if np.isfinite(concentration) else "binomial"
        with np.errstate(divide="ignore"):
            each = np.log(fits.half_life).reshape(replicates, seeds)
        floors = fits.theta[:, 2].reshape(replicates, seeds)
        for quantity, values, truth in (("mean ln half-life", each, float(np.log(half))), ("mean f", floors, 0.2)):
            low, high = t_ends(np.where(np.isfinite(values), values, np.log(STEPS[-1])))
            found.append(cell("over seeds", law.name, f"{seeds} seeds, {name} counts", quantity, low, high, truth))
    return found


def means_with_censoring(replicates: int) -> list[Cell]:
    """Mean ln half-life over seeds at one size, some beyond the last evaluation."""
    found = []
    for place, (seeds, late) in enumerate(itertools.product((3, 5, 10), (0.0, 0.2))):
        rng = generator(12, place)
        y = np.log(60) + LEVEL * rng.standard_normal((replicates, seeds, 1))
        last = np.quantile(y, 1 - late) if late else np.inf
        low, high = np.minimum(y, last), np.where(y > last, np.inf, y)
        given = few_censored(low != high)
        mixture = augment(np.zeros(1), low[given], high[given], contrast=0, chains=4, kept=25)
        ends = np.full((2, replicates), np.nan)
        ends[:, given] = mixture.quantile(0.025), mixture.quantile(0.975)
        design = f"{seeds} seeds, {late:.0%} censored"
        found.append(
            cell("over seeds", "mean", design, "mean ln half-life", ends[0], ends[1], float(np.log(60)), given)
        )
    return found


def resampled(replicates: int) -> list[Cell]:
    """Groups that cannot be fitted alone, each at one size with its own noise: jackknife, and bootstrap from 10."""
    law, found, draws = LAWS["half_life_size"], [], 400
    for place, (groups, bootstrap) in enumerate(((6, False), (12, False), (12, True), (24, True))):
        rng = generator(13, place)
        group = np.repeat(np.arange(groups), 3)
        x = np.geomspace(1e5, 1e7, groups)[group][:, None]
        noise = LEVEL * rng.standard_normal((replicates, groups))[:, group]
        y = law.value(np.array([60, 0.3]), x) * np.exp(noise + RUN * rng.standard_normal((replicates, group.size)))
        ends = np.empty((2, replicates))
        for rows in np.array_split(np.arange(replicates), max(1, replicates // 50)):
            own = y[rows]
            weights = 1.0 - np.eye(groups)[:, group]
            if bootstrap:
                drawn = rng.multinomial(groups, np.full(groups, 1 / groups), size=(rows.size, draws))
                weights = drawn[..., group].astype(float).reshape(-1, group.size)
            each = weights.shape[0] // (rows.size if bootstrap else 1)
            weights = weights if bootstrap else np.tile(weights, (rows.size, 1))
            data = Observations(x=x, y=own[0])
            parts = fit_many(law, data, objective=LOGNORMAL, y=own.repeat(each, axis=0), weights=weights, starts=1)
            parts = parts.theta[:, 1].reshape(rows.size, each)
            if bootstrap:
                ends[:, rows] = np.quantile(parts, expanded(groups), axis=1)
            else:
                whole = fit_many(law, data, objective=LOGNORMAL, y=own, starts=1).theta[:, 1]
                half_width = jackknife_half_width(whole, parts)
                ends[:, rows] = whole - half_width, whole + half_width
        how = f"bootstrap of {draws}" if bootstrap else "jackknife"
        design = f"{groups} sizes x 3 runs, noise shared by size, {how}"
        found.append(cell("scaling", law.name, design, "gamma", ends[0], ends[1], 0.3))
    return found


def gamma_with_censoring(replicates: int) -> list[Cell]:
    """gamma from half-lives, some beyond the last evaluation."""
    found = []
    place = 0
    for seeds, count in ((3, 3), (5, 4)):
        for gamma in (0.0, 0.5):
            for tilt in (0.0, TILT):
                for late in (0.0, 0.1, 0.25):
                    place += 1
                    rng, x = generator(5, place), sizes_of(count)
                    many = replicates if gamma else NULLS * replicates
                    y = log_half_lives(rng, many, seeds, x, gamma, tilt)
                    last = np.quantile(y, 1 - late) if late else np.inf
                    low, high = slopes_over_seeds(x, np.minimum(y, last), np.where(y > last, np.inf, y))[1:]
                    design = f"{count} sizes x {seeds} seeds, {late:.0%} censored, tilts {'vary' if tilt else 'equal'}"
                    found.append(slope_cell(design, low, high, gamma))
    return found


def gamma_from_counts(replicates: int) -> list[Cell]:
    """gamma end to end: counts, one law per run, its half-life (censored beyond the last evaluation), the slope."""
    law, found = LAWS["exponential_floor"], []
    for place, (seeds, count, gamma) in enumerate(((3, 3, 0.0), (3, 3, 0.5), (5, 4, 0.0), (5, 4, 0.5))):
        rng, x, steps = generator(6, place), sizes_of(count), cadence(160)
        shape = (replicates if gamma else NULLS * replicates, seeds, count)
        half = np.exp(log_half_lives(rng, *shape[:2], x, gamma))
        theta = np.stack([np.full(shape, 0.95), half / -np.log((0.475 - 0.1) / 0.85), np.full(shape, 0.1)], axis=-1)
        rate = law.value(theta.reshape(-1, 3), steps[:, None])
        hits = counts(rng, rate, TRIALS, rate.shape[0], CONCENTRATION)
        data = Observations(x=steps, hits=hits[0], trials=np.full(steps.size, float(TRIALS)))
        fits = fit_many(law, data, objective=Binomial(), hits=hits, starts=8)
        assert fits.half_life is not None
        low, high = bounded(fits.half_life.reshape(shape), steps[-1])
        found.append(_gamma(x, low, high, gamma, "overdispersed counts to 160 steps"))
    return found


def gamma_from_crossings(replicates: int) -> list[Cell]:
    """gamma end to end without a law: retention of the log-probability, its last crossing of one half, the slope."""
    found = []
    for place, (seeds, count, gamma) in enumerate(((3, 3, 0.0), (3, 3, 0.5), (5, 4, 0.0), (5, 4, 0.5))):
        rng, x, steps = generator(7, place), sizes_of(count), cadence(160)
        half = np.exp(log_half_lives(rng, replicates if gamma else NULLS * replicates, seeds, x, gamma))
        curves = 2.0 ** -(steps / half[..., None]) + 0.02 * rng.standard_normal((*half.shape, steps.size))
        seen = np.full(half.size, np.inf)
        for i, curve in enumerate(curves.reshape(-1, steps.size)):
            at = crossing(steps, curve, sustained=True)
            if at is not None and at.estimate is not None:
                seen[i] = at.estimate
        low, high = bounded(seen.reshape(half.shape), steps[-1])
        found.append(_gamma(x, low, high, gamma, "crossings of log-probability to 160 steps"))
    return found


def bounded(half: Array, last: float) -> tuple[Array, Array]:
    """ln of half-lives as bounds; those beyond `last` are only bounded from below."""
    late = ~(half <= last)
    with np.errstate(divide="ignore"):
        value = np.log(np.where(late, last, half))
    return value, np.where(late, np.inf, value)


def slope_cell(design: str, low: Array, high: Array, gamma: float) -> Cell:
    why = "With three seeds and a quarter censored the intervals err to the wide side."
    return cell(
        "gamma", "ln T = t0 + gamma ln N", design, f"gamma = {gamma:g}", low, high, gamma, np.isfinite(low), gamma == 0,
        why if " 3 seeds, 25%" in design else "",
    )  # fmt: skip


def _gamma(x: Array, low: Array, high: Array, gamma: float, how: str) -> Cell:
    design = f"{x.size} sizes x {low.shape[1]} seeds, {how}, {np.isinf(high).mean():.0%} censored"
    return slope_cell(design, *slopes_over_seeds(x, low, high)[1:], gamma)


def joint_laws(replicates: int) -> list[Cell]:
    """Decay at all sizes in one law, fitted to each of 5 seeds at 4 sizes: Student-t over seeds of gamma and phi."""
    found, sizes, steps, seeds = [], np.exp(sizes_of(4)) * 1e6, cadence(400)[::2], 5
    x = np.column_stack([np.tile(steps, sizes.size), np.repeat(sizes, steps.size)])
    for place, (name, theta) in enumerate(OVER_SIZE.items()):
        law, rng = LAWS[name], generator(8, place)
        own = np.tile(np.array([theta[n] for n in law.names]), (replicates * seeds, 1))
        own[:, law.names.index("T0")] *= np.exp(LEVEL * rng.standard_normal(replicates * seeds))
        own[:, law.names.index("gamma")] += TILT * rng.standard_normal(replicates * seeds)
        hits = counts(rng, law.value(own, x), TRIALS, replicates * seeds)
        data = Observations(x=x, hits=hits[0], trials=np.full(x.shape[0], float(TRIALS)))
        fits = fit_many(law, data, hits=hits, starts=8)
        for quantity in ("gamma", "phi"):
            if quantity in theta:
                low, high = t_ends(fits.theta[:, law.names.index(quantity)].reshape(replicates, seeds))
                found.append(
                    cell("over seeds", name, "4 sizes x 5 seeds, binomial counts", quantity, low, high, theta[quantity])
                )
    return found


def cells(replicates: int) -> list[Cell]:
    parts = (
        curves_over_seeds, means_with_censoring, joint_laws, gamma_with_censoring, gamma_from_counts,
        gamma_from_crossings, resampled,
    )  # fmt: skip
    return [cell for part in parts for cell in part(replicates)]
