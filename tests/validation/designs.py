"""Designs that break what simple intervals assume: counts that bounce, items asked again and again, times that are only
bounded, scatter that grows. Each by the method that `fit` takes or advises."""

from __future__ import annotations

import numpy as np

from analysis.fitting.censored import Censored
from analysis.fitting.dispersion import dispersion
from analysis.fitting.fit import fit, fit_many
from analysis.fitting.intervals import expanded, intervals, jackknife_half_width
from analysis.fitting.objectives import BetaBinomial, Binomial, Gaussian
from analysis.fitting.observations import Observations
from analysis.fitting.problem import Problem
from analysis.fitting.profile import coordinate, log_half_life, profile
from analysis.laws import LAWS
from analysis.stats.arrays import Array
from tests.validation.cells import Cell, cell, counts, generator

BOUNCING = np.array([0, 10, 20, 40, 60, 80, 120, 160, 240, 320.0])
STEPS = np.array([0, 5, 10, 20, 30, 40, 60, 80, 120, 160, 240, 320.0])
LOGNORMAL = Gaussian(log=True)
DRAWS = 400
FEWER = 5
"""As many replicates are one of a design that runs the whole of `fit`."""


def bouncing(replicates: int) -> list[Cell]:
    """Ten rates that vary between points: binomial, or beta-binomial where Pearson's chi-square says so."""
    law, theta, found = LAWS["exponential"], np.array([0.9, 100.0]), []
    truth = float(np.log(100 * np.log(2)))
    for place, concentration in enumerate((3.0, 10.0, 40.0, 100.0, np.inf)):
        rng = generator(14, place)
        hits = counts(rng, law.value(theta, BOUNCING[:, None]), 100, replicates, concentration)
        data = Observations(x=BOUNCING, hits=hits[0], trials=np.full(BOUNCING.size, 100.0))
        ends, over = np.empty((2, 2, replicates)), np.zeros(replicates, dtype=bool)
        for which, objective in enumerate((Binomial(), BetaBinomial())):
            fits = fit_many(law, data, objective=objective, hits=hits, starts=8)
            problem = Problem(law, objective, data, hits=hits)
            own = [] if fits.own is None else [fits.own[:, None]]
            z = problem.solved(np.concatenate([fits.theta, *own], axis=1))
            end = profile(problem, z, [log_half_life(law, problem)])[0]
            ends[which] = end.low, end.high
            if which == 0:
                rates = np.clip(law.value(fits.theta, BOUNCING[:, None]), 0, 1)
                for row in range(replicates):
                    own_data = Observations(x=BOUNCING, hits=hits[row], trials=data.trials)
                    scatter = dispersion(own_data, rates[row], 2)
                    over[row] = scatter is not None and scatter.possible
        low, high = np.where(over, ends[1], ends[0])
        name = f"concentration {concentration:g}" if np.isfinite(concentration) else "binomial counts"
        design = f"10 points of 100, {name}; beta-binomial in {over.mean():.0%}"
        found.append(cell("designs", law.name, design, "ln half-life", low, high, truth, tested=True))
    return found


def jackknifed(whole: Array, parts: Array) -> Array:
    """Ends (2, R) of values (R,) from those without each group, (R, groups)."""
    half_width = jackknife_half_width(whole, parts)
    return np.stack([whole - half_width, whole + half_width])


def items(replicates: int) -> list[Cell]:
    """The same items at every point, each lost once and for good: jackknife over items."""
    law, found = LAWS["exponential"], []
    starts = np.array([[0.9, 60.0], [1.0, 40.0], [0.95, 90.0]])
    for place, many in enumerate((30, 100)):
        rng = generator(15, place)
        ends = np.empty((2, replicates))
        for row in range(replicates):
            answered = (rng.exponential(60, many)[:, None] > STEPS).astype(float)
            total = answered.sum(axis=0)
            data = Observations(x=STEPS, hits=total, trials=np.full(STEPS.size, float(many)))
            hits = np.concatenate([total[None], total - answered])
            trials = np.full(hits.shape, many - 1.0)
            trials[0] += 1
            half = fit_many(law, data, objective=Binomial(), hits=hits, trials=trials, starts=starts).half_life
            assert half is not None
            ends[:, row] = jackknifed(np.log(half[:1]), np.log(half[None, 1:]))[:, 0]
        design = f"{many} items at each of {STEPS.size} points, jackknife over items"
        found.append(
            cell(
                "designs",
                law.name,
                design,
                "ln half-life",
                ends[0],
                ends[1],
                float(np.log(60 * np.log(2))),
                tested=True,
            )
        )
    return found


def late(replicates: int) -> list[Cell]:
    """5 sizes x 5 runs, the longest 30 % of the times known by their bound."""
    law, sizes = LAWS["half_life_size"], np.repeat(np.geomspace(1e6, 1e8, 5), 5)
    seeds, found, objective = np.tile(np.arange(5), 5), [], Censored(log=True)
    clean, starts = law.value(np.array([100, 0.25]), sizes[:, None]), np.array([[100, 0.25], [80, 0.4], [120, 0.1]])
    for place, shared in enumerate((0.0, 0.3)):
        rng, ends = generator(16, place), np.empty((2, replicates))
        for row in range(replicates):
            noise = 0.3 * rng.standard_normal(25) + shared * rng.standard_normal(5)[seeds]
            times = clean * np.exp(noise)
            end = np.quantile(times, 0.7)
            data = Observations(x=sizes, low=np.minimum(times, end), high=np.where(times > end, np.inf, times))
            weights = np.concatenate([np.ones((1, 25)), seeds != np.arange(5)[:, None]]) if shared else None
            fits = fit_many(law, data, objective=objective, weights=weights, starts=starts)
            if shared:
                ends[:, row] = jackknifed(fits.theta[:1, 1], fits.theta[None, 1:, 1])[:, 0]
            else:
                assert fits.own is not None
                problem = Problem(law, objective, data)
                z = problem.solved(np.concatenate([fits.theta, fits.own[:, None]], axis=1))
                found_ends = profile(problem, z, [coordinate(problem, 1)])[0]
                ends[:, row] = found_ends.low[0], found_ends.high[0]
        how = "noise shared by seed, jackknife over seeds" if shared else "independent noise, profile"
        design = f"5 sizes x 5 seeds, 30% censored, {how}"
        found.append(cell("designs", law.name, design, "gamma", ends[0], ends[1], 0.25, tested=True))
    return found


def growing(replicates: int) -> list[Cell]:
    """Scatter of ln y that grows tenfold over the sizes: bootstrap over rows."""
    law, found, rows = LAWS["half_life_size"], [], 40
    sizes = np.geomspace(1e5, 1e8, rows)
    noise = 0.05 * 10 ** np.linspace(0, 1, rows)
    rng, theta = generator(17), np.array([60, 0.3])
    y = law.value(theta, sizes[:, None]) * np.exp(noise * rng.standard_normal((replicates, rows)))
    data, ends = Observations(x=sizes, y=y[0]), np.empty((2, replicates))
    for part in np.array_split(np.arange(replicates), max(1, replicates // 20)):
        weights = rng.multinomial(rows, np.full(rows, 1 / rows), size=part.size * DRAWS).astype(float)
        drawn = fit_many(law, data, objective=LOGNORMAL, y=y[part].repeat(DRAWS, axis=0), weights=weights,
                         starts=theta[None])  # fmt: skip
        ends[:, part] = np.quantile(drawn.theta[:, 1].reshape(part.size, DRAWS), expanded(rows), axis=1)
    problem = Problem(law, LOGNORMAL, data, y=y)
    fits = fit_many(law, data, objective=LOGNORMAL, y=y, starts=theta[None])
    even = profile(problem, problem.solved(fits.theta), [coordinate(problem, 1)])[0]
    covered = ((even.low <= 0.3) & (even.high >= 0.3)).mean()
    design = f"{rows} runs, scatter grows tenfold, bootstrap of {DRAWS} over rows (profile: {covered:.3f})"
    found.append(cell("designs", law.name, design, "gamma", ends[0], ends[1], 0.3, tested=True))
    return found


def grouped(replicates: int) -> list[Cell]:
    """Counts that bounce, in groups with time scales of their own, a level near 1, a floor near 0: the whole of `fit`,
    from the choice of the error to the mean over groups."""
    law, found, groups, level, floor, scale = LAWS["exponential_floor"], [], 5, 0.97, 0.02, 60.0
    x, replicates = np.tile(STEPS, groups), max(replicates // FEWER, 20)
    for place, concentration in enumerate((10.0, 100.0, np.inf)):
        rng, ends, wide = generator(18, place), np.full((3, 2, replicates), np.nan), 0
        for row in range(replicates):
            each = np.repeat(scale * np.exp(0.3 * rng.standard_normal(groups)), STEPS.size)
            theta = np.column_stack([np.full(x.size, level), each, np.full(x.size, floor)])
            hits = counts(rng, law.value(theta, x[:, None, None])[:, 0], 128, 1, concentration)[0]
            data = Observations(
                x=x, hits=hits, trials=np.full(x.size, 128.0), group=np.repeat(range(groups), STEPS.size)
            )
            made = fit(law, data, starts=np.array([[level, scale, floor]]), diagnosed=False)
            wide += isinstance(made.error, BetaBinomial)
            means = intervals(made).parameters
            for which, name in enumerate(law.names):
                ends[which, :, row] = [np.nan if end is None else end for end in (means[name].low, means[name].high)]
        name = f"concentration {concentration:g}" if np.isfinite(concentration) else "binomial counts"
        design = f"{groups} groups, {name}; beta-binomial in {wide / replicates:.0%}"
        for each, (low, high), truth in zip(("mean a", "mean T", "mean f"), ends, (level, scale, floor), strict=True):
            found.append(cell("designs", law.name, design, each, low, high, truth, np.isfinite(low), tested=True))
    return found


def cells(replicates: int) -> list[Cell]:
    return [cell for part in (bouncing, items, late, growing, grouped) for cell in part(replicates)]
