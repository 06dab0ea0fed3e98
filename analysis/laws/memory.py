"""Published forms of human forgetting: x above 0, without a level at 0 and so without a half-life."""

from __future__ import annotations

import numpy as np

from analysis.laws.base import Parameter, law
from analysis.laws.decay import INF

PURPOSE = "human forgetting"
FREE = Parameter(name="a", low=-INF, high=INF, unit="y", shift="b ln x", start=(0, 1.2), meaning="level at x = 1")


@law(
    name="power", formula="y = a x^-b", source="Wixted and Ebbesen 1991, Psychological Science 2, 409",
    parameters=(
        Parameter(
            name="a", low=0, high=INF, log=True, unit="y", shift="b ln x", start=(0.5, 1.5), meaning="level at x = 1"
        ),
        Parameter(name="b", low=-10, high=20, start=(0, 1), meaning="exponent"),
    ),
    linear=("a",),
)  # fmt: skip
def power(x, a, b):
    log = np.log(x)
    left = np.exp(-b * log)
    return a * left, (left, -a * log * left)


@law(
    name="log", formula="y = a - b ln x", source="Strong 1913, Psychological Review 20, 339",
    parameters=(FREE, Parameter(name="b", low=-INF, high=INF, unit="y", start=(0, 0.3), meaning="loss per e-fold")),
    linear=("a", "b"),
)  # fmt: skip
def log(x, a, b):
    """Not clipped at 0: see log_linear for a law of retention."""
    of_b = -np.log(x)
    return a + b * of_b, (np.ones(1), of_b)


@law(
    name="ebbinghaus", formula="y = k / ((log10 x)^c + k)", source="Ebbinghaus 1885, section 29: savings over minutes",
    least=1.0,
    parameters=(
        Parameter(name="k", low=1e-6, high=1e6, log=True, start=(0.1, 10), meaning="value of the power where y = 1/2"),
        Parameter(name="c", low=0.01, high=20, log=True, start=(0.3, 3), meaning="exponent of log10 x"),
    ),
)  # fmt: skip
def ebbinghaus(x, k, c):
    """For x of 1 or more."""
    log = np.log10(x)
    power = np.where(log > 0, np.exp(c * np.log(np.where(log > 0, log, 1))), 0)
    below = (power + k) ** 2
    return k / (power + k), (power / below, -k * power * np.log(np.where(log > 0, log, 1)) / below)
