"""Continued training: how much of the old loss is given up, and what a share of old data saves."""

from __future__ import annotations

import numpy as np

from analysis.laws.base import Parameter, law
from analysis.laws.decay import INF

PURPOSE = "forgetting and gain in continued training"


@law(
    name="forgetting_injection",
    formula="rise = E + A D^beta / ((1 + B p) N)^alpha",
    source="Bethune et al. 2025, arXiv 2502.06042: the law of the pretraining loss after fine-tuning with injection",
    inputs=("D", "N", "p"),
    parameters=(
        Parameter(name="E", low=-INF, high=INF, unit="y", start=(-0.5, 0.5), meaning="rise at any size"),
        Parameter(
            name="A", low=0, high=INF, log=True, unit="y", shift="alpha ln N - beta ln D", start=(0.01, 10),
            meaning="weight of forgetting",
        ),
        Parameter(name="B", low=1e-6, high=1e9, log=True, start=(1, 1e4), meaning="how far injection enlarges N"),
        Parameter(name="alpha", low=0, high=20, start=(0, 1.5), meaning="exponent of size"),
        Parameter(name="beta", low=0, high=20, start=(0, 1.5), meaning="exponent of fine-tuning tokens"),
    ),
    linear=("E", "A"),
)  # fmt: skip
def forgetting_injection(d, n, p, e, a, b, alpha, beta):
    """D unique fine-tuning tokens, N parameters, p the share of pretraining data in the fine-tuning mixture (0 to 1).

    The response is the loss on pretraining data minus that of the same model before fine-tuning.
    """
    log_d, log_n = np.log(d), np.log1p(b * p) + np.log(n)
    power = np.exp(beta * log_d - alpha * log_n)
    rise = a * power
    return e + rise, (np.ones(1), power, -alpha * rise * p / (1 + b * p), -log_n * rise, log_d * rise)


@law(
    name="d_cpt",
    formula="L = E + A / N^alpha + B r^eta / D^beta + C / (r + eps)^gamma",
    source="Que et al. 2024, arXiv 2406.01375, the D-CPT law: loss on a domain, or on general text",
    inputs=("N", "D", "r"),
    parameters=(
        Parameter(name="E", low=0, high=INF, unit="y", start=(-1, 0.5), meaning="loss of perfect prediction"),
        Parameter(
            name="A", low=0, high=INF, log=True, unit="y", shift="alpha ln N", start=(0.01, 10),
            meaning="weight of finite size",
        ),
        Parameter(
            name="B", low=0, high=INF, log=True, unit="y", shift="beta ln D", start=(0.01, 10),
            meaning="weight of finite data",
        ),
        Parameter(name="C", low=0, high=INF, log=True, unit="y", start=(0.01, 1), meaning="weight of the share"),
        Parameter(name="alpha", low=0, high=20, start=(0, 1), meaning="exponent of size"),
        Parameter(name="beta", low=0, high=20, start=(0, 1), meaning="exponent of tokens"),
        Parameter(name="gamma", low=0, high=20, start=(0, 2), meaning="exponent of the share"),
        Parameter(name="eta", low=-20, high=20, start=(0, 1), meaning="how the share changes what tokens are worth"),
        Parameter(name="eps", low=1e-9, high=10, log=True, start=(1e-3, 0.5), meaning="keeps the term finite at r = 0"),
    ),
    linear=("E", "A", "B", "C"),
)  # fmt: skip
def d_cpt(n, d, r, e, a, b, c, alpha, beta, gamma, eta, eps):
    """N parameters, D tokens of continual pretraining, r the share of the corpus whose loss this is (0 to 1)."""
    log_n, log_d, log_r = np.log(n), np.log(d), np.log(np.where(r > 0, r, 1))
    size = np.exp(-alpha * log_n)
    data = np.where(r > 0, np.exp(eta * log_r - beta * log_d), np.where(eta > 0, 0.0, np.exp(-beta * log_d)))
    share = np.exp(-gamma * np.log(r + eps))
    value = e + a * size + b * data + c * share
    return value, (
        np.ones(1), size, data, share, -log_n * a * size, -log_d * b * data, -np.log(r + eps) * c * share,
        log_r * b * data, -gamma * c * share / (r + eps),
    )  # fmt: skip
