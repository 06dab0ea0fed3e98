"""Scaling laws: loss over parameters and tokens."""

from __future__ import annotations

import numpy as np

from analysis.laws.allocation import balanced, exponents
from analysis.laws.base import Parameter, law
from analysis.laws.decay import INF

PURPOSE = "loss over parameters, tokens and compute"
HOFFMANN = "Hoffmann et al. 2022, arXiv 2203.15556, equation 2 and appendix D.3"


@law(
    name="chinchilla",
    formula="L = E + A / N^alpha + B / D^beta",
    source=HOFFMANN,
    inputs=("N", "D"),
    parameters=(
        Parameter(name="E", low=0, high=INF, unit="y", start=(-2, 1), meaning="loss of perfect prediction"),
        Parameter(
            name="A",
            low=0,
            high=INF,
            log=True,
            unit="y",
            shift="alpha ln N",
            start=(0.01, 10),
            meaning="weight of finite size",
        ),
        Parameter(
            name="B",
            low=0,
            high=INF,
            log=True,
            unit="y",
            shift="beta ln D",
            start=(0.01, 10),
            meaning="weight of finite data",
        ),
        Parameter(name="alpha", low=0, high=20, start=(0, 2), meaning="exponent of size"),
        Parameter(name="beta", low=0, high=20, start=(0, 2), meaning="exponent of data"),
    ),
    linear=("E", "A", "B"),
    derived=exponents(3, 4),
    optimum=lambda product, e, a, b, alpha, beta: balanced(a, b, alpha, beta, product),
)
def chinchilla(n, d, e, a, b, alpha, beta):
    log_n, log_d = np.log(n), np.log(d)
    size, data = np.exp(-alpha * log_n), np.exp(-beta * log_d)
    of_size, of_data = a * size, b * data
    slope_n, slope_d = -log_n * of_size, -log_d * of_data
    second = {(1, 3): -log_n * size, (3, 3): -log_n * slope_n, (2, 4): -log_d * data, (4, 4): -log_d * slope_d}
    return e + of_size + of_data, (np.ones(1), size, data, slope_n, slope_d), second


@law(
    name="gadre",
    formula="L = E + a N^-b + c D^-b",
    source="Gadre et al. 2024, arXiv 2403.08540, equation 4 in N and D: over-training moves the loss, not the exponent",
    inputs=("N", "D"),
    parameters=(
        Parameter(name="E", low=0, high=INF, unit="y", start=(-2, 1), meaning="loss of perfect prediction"),
        Parameter(
            name="a",
            low=0,
            high=INF,
            log=True,
            unit="y",
            shift="b ln N",
            start=(0.01, 10),
            meaning="weight of finite size",
        ),
        Parameter(
            name="c",
            low=0,
            high=INF,
            log=True,
            unit="y",
            shift="b ln D",
            start=(0.01, 10),
            meaning="weight of finite data",
        ),
        Parameter(name="b", low=0, high=20, start=(0, 1), meaning="exponent of both"),
    ),
    linear=("E", "a", "c"),
    optimum=lambda product, e, a, c, b: balanced(a, c, b, b, product),
)
def gadre(n, d, e, a, c, b):
    log_n, log_d = np.log(n), np.log(d)
    size, data = np.exp(-b * log_n), np.exp(-b * log_d)
    of_size, of_data = a * size, c * data
    slope_n, slope_d = -log_n * of_size, -log_d * of_data
    second = {(1, 3): -log_n * size, (2, 3): -log_d * data, (3, 3): -log_n * slope_n - log_d * slope_d}
    return e + of_size + of_data, (np.ones(1), size, data, slope_n + slope_d), second


@law(
    name="saturating_power",
    formula="L = E + A x^-a",
    source="Hestness et al. 2017, arXiv 1712.00409, section 3; Henighan et al. 2020, arXiv 2010.14701, equation 1.1",
    parameters=(
        Parameter(name="E", low=0, high=INF, unit="y", start=(-2, 1), meaning="limit at large x"),
        Parameter(
            name="A",
            low=0,
            high=INF,
            log=True,
            unit="y",
            shift="a ln x",
            start=(0.01, 10),
            meaning="distance from it at x = 1",
        ),
        Parameter(name="a", low=0, high=20, start=(0, 2), meaning="exponent of x"),
    ),
    linear=("E", "A"),
)
def saturating_power(x, e, a, exponent):
    """x above 0: parameters, tokens, compute or data."""
    log = np.log(x)
    power = np.exp(-exponent * log)
    above = a * power
    return e + above, (np.ones(1), power, -log * above), {(1, 2): -log * power, (2, 2): log * log * above}


@law(
    name="routing",
    formula="ln L = d + a ln N + b ln X + c ln N ln X",
    source="Clark et al. 2022, arXiv 2202.01169, equation 7: loss over dense parameters N and experts X",
    inputs=("N", "X"),
    parameters=(
        Parameter(
            name="d",
            low=-100,
            high=100,
            unit="ln y",
            shift="-a ln N - b ln X",
            start=(-1, 1),
            meaning="ln loss at N = X = 1",
        ),
        Parameter(
            name="a", low=-10, high=10, shift="-c ln X", start=(-0.3, 0), meaning="exponent of size without routing"
        ),
        Parameter(name="b", low=-10, high=10, shift="-c ln N", start=(-0.5, 0), meaning="exponent of experts at N = 1"),
        Parameter(name="c", low=-10, high=10, start=(0, 0.05), meaning="decline of routing's gain with size"),
    ),
)
def routing(n, x, d, a, b, c):
    log_n, log_x = np.log(n), np.log(x)
    value = np.exp(d + a * log_n + b * log_x + c * log_n * log_x)
    return value, (value, log_n * value, log_x * value, log_n * log_x * value)
