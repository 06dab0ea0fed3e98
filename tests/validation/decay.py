"""Every law of one input, planted in one run: counts of 128 trials, or a response with Gaussian noise."""

from __future__ import annotations

import numpy as np

from analysis.fitting.objectives import BetaBinomial, Binomial, Gaussian
from analysis.laws import LAWS
from tests.validation.cells import Cell, counts, generator, profiled

TRIALS = 128
CONCENTRATION = 40.0


def cadence(last: int) -> np.ndarray:
    """Evaluations at every step up to 8, then at geometric intervals (ratio at most 1.25), as in the studies."""
    steps = [*range(9)]
    while steps[-1] < last:
        steps.append(min(last, int(steps[-1] * 1.25)))
    return np.array(steps, dtype=float)


STEPS = cadence(400)
COUNTED: dict[str, tuple[float, ...]] = {
    "constant": (0.8,), "exponential": (0.95, 40), "exponential_floor": (0.95, 30, 0.2),
    "shifted_power": (0.95, 20, 0.8), "power_floor": (0.95, 8, 1.5, 0.2), "stretched": (0.95, 40, 0.6),
    "double_exponential": (0.5, 0.45, 8, 12), "log_linear": (0.95, 5, 0.15), "hyperbolic": (0.95, 40),
    "logistic_log": (0.95, 60, 1.2),
}  # fmt: skip
MEASURED: dict[str, tuple[tuple[float, ...], float]] = {
    "bnsl": ((0.1, 0.85, 0.02, 0.8, 40, 0.3), 0.01), "cpt_loss_shift": ((1, 2, 20, 0.8), 0.03),
    "power": ((0.9, 0.3), 0.02), "log": ((0.9, 0.1), 0.02), "ebbinghaus": ((1.84, 1.25), 0.02),
    "soft_prompt_exponential": ((1, 2, 12), 0.05), "soft_prompt_power": ((1, 2, 8, 1.0), 0.03),
}  # fmt: skip
"""Parameters and standard deviation of the noise."""


def cells(replicates: int) -> list[Cell]:
    found = []
    for place, (name, theta) in enumerate(COUNTED.items()):
        rng = generator(1, place)
        hits = counts(rng, LAWS[name].value(np.array(theta), STEPS[:, None]), TRIALS, replicates)
        found += profiled(
            "one run", LAWS[name], theta, STEPS[:, None], Binomial(), "binomial counts", hits=hits, trials=TRIALS
        )
    name = "exponential_floor"
    theta, rng = COUNTED[name], generator(2, 0)
    hits = counts(rng, LAWS[name].value(np.array(theta), STEPS[:, None]), TRIALS, replicates, CONCENTRATION)
    found += profiled(
        "one run", LAWS[name], theta, STEPS[:, None], BetaBinomial(), "overdispersed counts", hits=hits, trials=TRIALS
    )
    for place, (name, (theta, noise)) in enumerate(MEASURED.items()):
        rng = generator(3, place)
        x = np.array([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128.0]).repeat(2) if "soft" in name else STEPS
        x = x[x > 1 if name == "ebbinghaus" else x > 0]
        y = LAWS[name].value(np.array(theta), x[:, None]) + noise * rng.standard_normal((replicates, x.size))
        found += profiled("one run", LAWS[name], theta, x[:, None], Gaussian(), "Gaussian", y=y)
    return found
