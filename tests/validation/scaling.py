"""Laws of size and of a study's axes, planted on grids of runs: profile intervals, and cluster bootstraps."""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np

from analysis.fitting.objectives import Gaussian, Huber, Objective
from analysis.laws import LAWS
from analysis.stats.arrays import Array
from tests.validation.cells import Cell, generator, profiled

LOSS, TIME = 0.005, 0.2
"""Standard deviation of ln loss, of ln half-life."""
SIZES = np.geomspace(1e5, 1e7, 5)


def grid(*columns: Array) -> Array:
    """Every combination, (n, inputs)."""
    return np.array(list(itertools.product(*columns)))


def of_size(sizes: Array, per_parameter: Array) -> Array:
    """(n, 2): N, and D from a list of ratios D / N."""
    n, ratio = (column.ravel() for column in np.meshgrid(sizes, per_parameter, indexing="ij"))
    return np.column_stack([n, n * ratio])


LOSSES: dict[str, tuple[tuple[float, ...], Array]] = {
    "chinchilla": ((1.7, 400, 410, 0.34, 0.28), grid(np.geomspace(1e7, 1e9, 8), np.geomspace(1e8, 2e10, 9))),
    "gadre": ((1.7, 400, 410, 0.31), grid(np.geomspace(1e7, 1e9, 8), np.geomspace(1e8, 2e10, 9))),
    "routing": ((2.4, -0.08, -0.06, 0.002), grid(np.geomspace(1e7, 1e9, 6), np.array([1, 2, 8, 32, 128, 512.0]))),
}
LAMBDAS, OVERLAPS, COUNTS = np.array([0, 0.01, 0.03, 0.1, 0.3]), np.linspace(0, 1, 4), np.array([10, 30, 100, 300, 1e3])
TIMES: dict[str, tuple[tuple[float, ...], Array]] = {
    "half_life_size": ((60, 0.3), np.repeat(SIZES, 4)[:, None]),
    "half_life_regularized": ((60, 0.3, 0.6, 0.02, 0.1), grid(SIZES, np.repeat(LAMBDAS, 2))),
    "half_life_overlap": ((60, 0.3, 0.8, -0.5, 0.1), grid(SIZES, np.repeat(OVERLAPS, 2))),
    "half_life_data": ((60, 0.3, 0.2), of_size(SIZES, np.array([5, 20, 80, 320.0]).repeat(2))),
    "half_life_poison": ((60, 0.3, 60, 1.2), grid(SIZES, np.repeat(COUNTS, 2))),
}
FLOORS = ((-1.5, 0.2), np.repeat(SIZES, 5)[:, None])

Noise = Literal["normal", "heavy"]


def noise(rng: np.random.Generator, shape: tuple[int, ...], kind: Noise) -> Array:
    """Unit variance: normal, or Student-t with 3 degrees of freedom."""
    return rng.standard_normal(shape) if kind == "normal" else rng.standard_t(3, shape) / np.sqrt(3)


def cells(replicates: int) -> list[Cell]:
    found = []
    errors: tuple[tuple[Objective, Noise], ...] = (
        (Gaussian(log=True), "normal"),
        (Huber(), "normal"),
        (Huber(), "heavy"),
    )
    for place, (name, (theta, x)) in enumerate(LOSSES.items()):
        law = LAWS[name]
        for which, (objective, kind) in enumerate(errors):
            rng = generator(9, place, which)
            y = law.value(np.array(theta), x) * np.exp(LOSS * noise(rng, (replicates, x.shape[0]), kind))
            how = "lognormal" if isinstance(objective, Gaussian) else f"Huber 1e-3, {kind} noise"
            found += profiled("scaling", law, theta, x, objective, f"{x.shape[0]} runs, {how}", y=y, starts=8)
    for place, (name, (theta, x)) in enumerate(TIMES.items()):
        rng = generator(10, place)
        y = LAWS[name].value(np.array(theta), x) * np.exp(TIME * rng.standard_normal((replicates, x.shape[0])))
        found += profiled("scaling", LAWS[name], theta, x, Gaussian(log=True), f"{x.shape[0]} runs, lognormal", y=y)
    theta, x = FLOORS
    rng = generator(11)
    y = LAWS["floor_size"].value(np.array(theta), x) + 0.03 * rng.standard_normal((replicates, x.shape[0]))
    found += profiled("scaling", LAWS["floor_size"], theta, x, Gaussian(), f"{x.shape[0]} runs, Gaussian", y=y)
    return found
