"""Loss over the length k of a soft prompt, k = 0 included: how little information elicits a behaviour.

Conditional distance C(M, D, T) is the smallest k whose loss is at most T; saturation S is the k beyond which more
tokens stop helping (Nordby 2025, arXiv 2505.14943; the formulas are a reconstruction). A measured loss bounds C from
above.
"""

from __future__ import annotations

import numpy as np

from analysis.laws.base import Law, Parameter, law
from analysis.laws.decay import INF
from analysis.stats.arrays import Array

PURPOSE = "loss over the length of a soft prompt"
SOURCE = "Nordby 2025, arXiv 2505.14943, for the measure; the forms are those of decay"
LIMIT = Parameter(name="E", low=0, high=INF, unit="y", start=(-0.1, 0.5), meaning="loss with a prompt of any length")
GAIN = Parameter(name="A", low=0, high=INF, unit="y", start=(0.3, 1.2), meaning="loss that a prompt can remove")
LENGTH = Parameter(name="K", low=0, high=INF, log=True, unit="x", start=(0.1, 10), meaning="token scale of the gain")


@law(
    name="soft_prompt_exponential", formula="L = E + A exp(-k/K)", source=SOURCE, inputs=("k",),
    parameters=(LIMIT, GAIN, LENGTH), linear=("E", "A"), half=lambda e, a, k0: k0 * np.log(2),
    half_name="tokens for half of the gain",
)  # fmt: skip
def soft_prompt_exponential(k, e, a, k0):
    """Half-life: tokens for half of the gain."""
    left = np.exp(-k / k0)
    return e + a * left, (np.ones(1), left, a * left * k / k0**2)


@law(
    name="soft_prompt_power", formula="L = E + A (1 + k/K)^-b", source=SOURCE, inputs=("k",),
    parameters=(
        LIMIT, GAIN, LENGTH,
        Parameter(name="b", low=0.01, high=50, log=True, start=(0.1, 3), meaning="exponent of the tail"),
    ),
    linear=("E", "A"), half=lambda e, a, k0, b: k0 * np.expm1(np.log(2) / b), half_name="tokens for half of the gain",
)  # fmt: skip
def soft_prompt_power(k, e, a, k0, b):
    """Half-life: tokens for half of the gain."""
    log = np.log1p(k / k0)
    left = np.exp(-b * log)
    return e + a * left, (np.ones(1), left, a * left * b * k / (k0 * (k0 + k)), -a * left * log)


def conditional_distance(law: Law, theta: Array, target: Array | float) -> Array:
    """C: smallest k (...) at which the fitted curve theta (..., P) is at most `target`; inf if it never is."""
    e, a, k0, *b = (np.asarray(theta, dtype=float)[..., i] for i in range(len(law.parameters)))
    target = np.asarray(target, dtype=float)
    with np.errstate(all="ignore"):
        share = (target - e) / a
        needed = k0 * np.expm1(-np.log(share) / b[0]) if b else -k0 * np.log(share)
    return np.where(share > 0, np.maximum(needed, 0.0), np.inf)


def saturation(law: Law, theta: Array, share: float = 0.99) -> Array:
    """S: the k (...) at which `share` of the whole gain A is reached."""
    theta = np.asarray(theta, dtype=float)
    return conditional_distance(law, theta, theta[..., 0] + (1 - share) * theta[..., 1])
