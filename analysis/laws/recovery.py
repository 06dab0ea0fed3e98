"""Curves that rise: relearning, elicitation, learning; with the time to half recovery, where half of the rise is made.

From the level c at x = 0 to the limit a. For counts the level and the limit are rates above `chance`.
"""

from __future__ import annotations

import numpy as np

from analysis.laws.base import Parameter, law
from analysis.laws.decay import INF

PURPOSE = "relearning and recovery: curves that rise"
START = Parameter(name="c", low=0, high=INF, unit="y", start=(-0.1, 0.3), meaning="level at x = 0")
LIMIT = Parameter(name="a", low=0, high=INF, unit="y", start=(0.7, 1.5), meaning="level that it rises to")
SCALE = Parameter(name="T", low=0, high=INF, log=True, unit="x", meaning="time scale, in units of x")
HALF = "time to half recovery"


@law(
    name="rising_exponential", formula="y = a - (a - c) exp(-x/T)", parameters=(START, LIMIT, SCALE),
    source="Thurstone 1919, Psychological Monographs 26(3): learning curves; Heathcote et al. 2000, PBR 7, 185",
    linear=("c", "a"), half=lambda c, a, t: t * np.log(2), half_name=HALF, levels=("c", "a"),
)  # fmt: skip
def rising_exponential(x, c, a, t):
    left = np.exp(-x / t)
    return a - (a - c) * left, (left, 1 - left, -(a - c) * left * x / t**2)


@law(
    name="rising_power", formula="y = a - (a - c) (1 + x/T)^-b",
    source="Newell and Rosenbloom 1981, in Anderson, Cognitive Skills and their Acquisition: the power law of practice",
    parameters=(
        START, LIMIT, SCALE,
        Parameter(name="b", low=0.01, high=50, log=True, start=(0.1, 3), meaning="exponent of what is left to gain"),
    ),
    linear=("c", "a"), half=lambda c, a, t, b: t * np.expm1(np.log(2) / b), half_name=HALF, levels=("c", "a"),
)  # fmt: skip
def rising_power(x, c, a, t, b):
    log = np.log1p(x / t)
    left = np.exp(-b * log)
    return a - (a - c) * left, (left, 1 - left, -(a - c) * left * b * x / (t * (t + x)), (a - c) * log * left)


@law(
    name="rising_sigmoid", formula="y = c + (a - c) / (1 + (T/x)^s)",
    source="logistic in ln x; Hill 1910, J. Physiology 40, iv",
    parameters=(
        START, LIMIT, SCALE,
        Parameter(name="s", low=0.02, high=50, log=True, start=(0.5, 8), meaning="steepness over ln x"),
    ),
    linear=("c", "a"), half=lambda c, a, t, s: t, half_name=HALF, levels=("c", "a"),
)  # fmt: skip
def rising_sigmoid(x, c, a, t, s):
    log = np.log(np.where(x > 0, x, 1) / t)
    exponent = np.where(x > 0, -s * log, np.inf)
    made = 1 / (1 + np.exp(exponent))
    inner = (a - c) * made * (1 - made)
    return c + (a - c) * made, (1 - made, made, -inner * s / t, inner * np.where(x > 0, log, 0))
