"""Downstream accuracy from a loss: the second step of predicting tasks (loss from scale, accuracy from loss)."""

from __future__ import annotations

import numpy as np

from analysis.laws.base import Parameter, law
from analysis.laws.decay import INF

PURPOSE = "downstream accuracy from a loss"


@law(
    name="accuracy_sigmoid", formula="acc = b + a / (1 + exp(k (L - L0)))", inputs=("L",),
    source="Bhagia et al. 2024, arXiv 2412.04403, step 2: task accuracy as a sigmoid of the task's loss",
    parameters=(
        Parameter(name="a", low=0, high=INF, unit="y", start=(0.5, 1.5), meaning="accuracy that skill adds"),
        Parameter(name="k", low=0, high=INF, log=True, unit="1/x", start=(0.5, 10), meaning="steepness over the loss"),
        Parameter(name="L0", low=0, high=INF, log=True, unit="x", start=(1, 1), meaning="loss at half of the range"),
        Parameter(name="b", low=0, high=INF, unit="y", start=(-0.1, 0.3), meaning="accuracy without skill"),
    ),
    linear=("a", "b"), levels=("b", "a + b"),
)  # fmt: skip
def accuracy_sigmoid(loss, a, k, l0, b):
    """Hold b at the rate of guessing where that is known (`--fix b=0.25`)."""
    share = 0.5 - 0.5 * np.tanh(k * (loss - l0) / 2)
    inner = a * share * (1 - share)
    return b + a * share, (share, -inner * (loss - l0), inner * k, np.ones(1))


@law(
    name="error_exponential", formula="err = e - k exp(-g L)", inputs=("L",),
    source="Gadre et al. 2024, arXiv 2403.08540, equation 5: average downstream error from the validation loss",
    parameters=(
        Parameter(name="e", low=0, high=INF, unit="y", start=(0.9, 1.5), meaning="error without skill"),
        Parameter(name="k", low=0, high=INF, unit="y", start=(0.5, 20), meaning="weight of skill"),
        Parameter(name="g", low=0, high=INF, log=True, unit="1/x", start=(0.1, 5), meaning="rate over the loss"),
    ),
    linear=("e", "k"), levels=("e",),
)  # fmt: skip
def error_exponential(loss, e, k, g):
    left = np.exp(-g * loss)
    return e - k * left, (np.ones(1), -left, k * loss * left)
