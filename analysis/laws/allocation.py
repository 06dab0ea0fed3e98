"""Compute-optimal allocation: what a law of loss over parameters N and tokens D says about spending C FLOPs.

Minimising A/N^alpha + B/D^beta at C = 6 N D gives N = G (C/6)^a and D = (C/6)^b / G with a = beta / (alpha + beta),
b = alpha / (alpha + beta) and G = (alpha A / (beta B))^(1 / (alpha + beta)) (Hoffmann et al. 2022, arXiv 2203.15556,
equation 4). A law declares it by its field `optimum` and the exponents by `derived`.
"""

from __future__ import annotations

import numpy as np

from analysis.laws.base import Derived

FLOPS = 6.0
"""Training FLOPs per parameter and token (Kaplan et al. 2020, arXiv 2001.08361, section 2.1)."""


def balanced(a, b, alpha, beta, product):
    """N and D with N D = `product` that minimise a / N^alpha + b / D^beta; elementwise."""
    with np.errstate(all="ignore"):
        log = (np.log(alpha * a / (beta * b)) + beta * np.log(product)) / (alpha + beta)
        size = np.exp(log)
        return size, product / size


def exponents(alpha: int, beta: int) -> dict[str, Derived]:
    """The exponents a and b of a law whose parameters at these places are alpha and beta."""
    return {
        "a": Derived(
            function=lambda *theta: theta[beta] / (theta[alpha] + theta[beta]),
            meaning="optimal parameters grow as C^a, a = beta / (alpha + beta)",
        ),
        "b": Derived(
            function=lambda *theta: theta[alpha] / (theta[alpha] + theta[beta]),
            meaning="optimal tokens grow as C^b, b = alpha / (alpha + beta)",
        ),
    }
