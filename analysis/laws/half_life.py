"""Half-life and floor over size and a study's other axes: separable laws, and decay fitted at all sizes jointly.

gamma and phi answer the questions: does scale slow decay, does it raise the floor? Sizes are in units of a million
parameters, so that T0 and f0 are values of a model that exists.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from analysis.errors import UserError
from analysis.laws.base import Law, Parameter, law
from analysis.laws.decay import INF, exponential, exponential_floor, power_floor, shifted_power, stretched
from analysis.stats.arrays import Array

PURPOSE = "half-life over size and other axes"
SOURCE = "separable in logarithms, following the decay and backdoor literature; gamma as in Tirumala 2022"
MILLION = 1e6
T0 = Parameter(
    name="T0", low=0, high=INF, log=True, unit="y", shift="-gamma ln N", meaning="half-life at a million parameters"
)
GAMMA = Parameter(name="gamma", low=-20, high=20, start=(-1.5, 1.5), meaning="exponent of size")
Part = Callable[..., tuple[Array, list[Array]]]


@dataclass(frozen=True, kw_only=True)
class Term:
    """A summand of ln T: function(ln(N / 1e6), *inputs, *parameters) returns it and its parameter derivatives."""

    formula: str
    inputs: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    function: Part
    shift: str = ""
    """What it adds to the shift of T0 (see Parameter)."""


def _regularization(size, strength, delta, scale, xi):
    log = np.log1p(strength / scale)
    by = -strength / (scale * (scale + strength))
    return (delta + xi * size) * log, [log, (delta + xi * size) * by, size * log]


def _overlap(size, overlap, kappa, kappa2, zeta):
    return (kappa + kappa2 * overlap + zeta * size) * overlap, [overlap, overlap * overlap, size * overlap]


def _data(size, tokens, rho):
    ratio = np.log(tokens / 20) - (size + np.log(MILLION))
    return rho * ratio, [ratio]


def _poison(size, count, half, h):
    log = np.log(half / count)
    share = 1 / (1 + np.exp(-h * log))
    return -np.logaddexp(0, h * log), [-h * share / half, -log * share]


def _free(name: str, meaning: str, half_width: float = 1.0, unit: str = "1", shift: str = "") -> Parameter:
    high = 50 if unit == "1" else INF
    return Parameter(
        name=name, low=-high, high=high, unit=unit, shift=shift, start=(-half_width, half_width), meaning=meaning
    )


TERMS = {
    "regularization": Term(
        formula="(delta + xi ln(N/1e6)) ln(1 + lambda/lambda0)", inputs=("lambda",), function=_regularization,
        parameters=(
            _free("delta", "exponent of the regularization strength lambda", shift="-xi ln N"),
            Parameter(
                name="lambda0", low=0, high=INF, log=True, unit="lambda", start=(1e-2, 1), meaning="scale of lambda"
            ),
            _free("xi", "interaction of size and lambda", 0.3),
        ),
    ),
    "overlap": Term(
        formula="(kappa + kappa2 s + zeta ln(N/1e6)) s", inputs=("s",), function=_overlap,
        parameters=(
            _free("kappa", "slope over the overlap s", 2, unit="1/s", shift="-zeta ln N"),
            _free("kappa2", "its curvature: need not be monotone", 2, unit="1/s^2"),
            _free("zeta", "interaction of size and overlap", 0.5, unit="1/s"),
        ),
    ),
    "data": Term(
        formula="rho ln(D/(20 N))", inputs=("D",), function=_data, shift=" + rho ln N - rho ln D",
        parameters=(_free("rho", "exponent of pretraining tokens per parameter"),),
    ),
    "poison": Term(
        formula="- ln(1 + (c/count)^h)", inputs=("count",), function=_poison,
        parameters=(
            Parameter(name="c", low=0, high=INF, log=True, unit="count", meaning="count that gives half of T"),
            Parameter(name="h", low=0.05, high=20, log=True, start=(0.5, 4), meaning="steepness over ln count"),
        ),
    ),
}  # fmt: skip
"""Poison is a count, not a fraction (Souly et al. 2025, arXiv 2510.07192); count above 0."""


def half_life_law(name: str, *terms: str, register: bool = False) -> Law:
    """T = T0 (N/1e6)^gamma exp(sum of terms), with input N and those of the terms, in order. See TERMS."""
    if unknown := set(terms) - set(TERMS):
        raise UserError(f"half-life has no term {', '.join(sorted(unknown))}; terms: {', '.join(TERMS)}")
    parts = [TERMS[term] for term in terms]

    def function(n, *rest):
        size = np.log(n / MILLION)
        inputs = list(rest[: len(parts)])
        t0, gamma, *values = rest[len(parts) :]
        total, slopes = gamma * size, [size]
        for part, given in zip(parts, inputs, strict=True):
            own, values = values[: len(part.parameters)], values[len(part.parameters) :]
            summand, derivatives = part.function(size, given, *own)
            total = total + summand
            slopes += derivatives
        factor = np.exp(total)
        value = t0 * factor
        return value, (factor, *(value * slope for slope in slopes))

    return law(
        register=register, name=name, source=SOURCE, linear=("T0",), times=True,
        formula=" + ".join(["ln T = ln T0 + gamma ln(N/1e6)", *(part.formula for part in parts)]).replace("+ -", "-"),
        inputs=("N", *(given for part in parts for given in part.inputs)),
        parameters=(
            replace(T0, shift=T0.shift + "".join(part.shift for part in parts)), GAMMA,
            *(p for part in parts for p in part.parameters),
        ),
    )(function)  # fmt: skip


half_life_size = half_life_law("half_life_size", register=True)
half_life_regularized = half_life_law("half_life_regularized", "regularization", register=True)
half_life_overlap = half_life_law("half_life_overlap", "overlap", register=True)
half_life_data = half_life_law("half_life_data", "data", register=True)
half_life_poison = half_life_law("half_life_poison", "poison", register=True)
half_life_full = half_life_law("half_life_full", *TERMS, register=True)

F0 = Parameter(
    name="f0", low=-40, high=40, shift="-phi ln N", start=(-4, 1), meaning="logit of the floor at a million parameters"
)
PHI = Parameter(name="phi", low=-20, high=20, start=(-1, 1), meaning="slope of the floor's logit over ln N")


def _logistic(size, f0, phi):
    """The floor at ln(N / 1e6) = size and its derivative with respect to the logit."""
    floor = 1 / (1 + np.exp(-(f0 + phi * size)))
    return floor, floor * (1 - floor)


@law(name="floor_size", formula="logit f = f0 + phi ln(N/1e6)", source=SOURCE, inputs=("N",), parameters=(F0, PHI))
def floor_size(n, f0, phi):
    size = np.log(n / MILLION)
    floor, slope = _logistic(size, f0, phi)
    return floor, (slope, slope * size)


def over_size(base: Law, register: bool = False) -> Law:
    """A decay law at all sizes jointly: T = T0 (N/1e6)^gamma and, if it has a floor, logit f = f0 + phi ln(N/1e6).

    Inputs x and N. For joint fits of raw counts; compare with separate fits of each size.
    """
    if "T" not in base.names:
        raise UserError(f"{base.name} has no time scale T that could depend on size; it has {', '.join(base.names)}")
    time, floor = base.names.index("T"), None if base.floor is None else base.names.index(base.floor)
    scale = Parameter(
        name="T0",
        low=0,
        high=INF,
        log=True,
        unit="x",
        shift="-gamma ln N",
        meaning="time scale at a million parameters",
    )
    changed = {time: (scale, GAMMA)} | ({} if floor is None else {floor: (F0, PHI)})
    parameters = [p for i, own in enumerate(base.parameters) for p in changed.get(i, (own,))]

    def function(x, n, *values):
        size = np.log(n / MILLION)
        own, rest, t0, slope = [], list(values), size, size
        for i in range(len(base.parameters)):
            if i == time:
                t0, gamma = rest.pop(0), rest.pop(0)
                own.append(t0 * np.exp(gamma * size))
            elif i == floor:
                level, slope = _logistic(size, rest.pop(0), rest.pop(0))
                own.append(level)
            else:
                own.append(rest.pop(0))
        value, columns = base.function(x, *own)[:2]
        derivatives = []
        for i, column in enumerate(columns):
            if i == time:
                of_log = column * own[time]
                derivatives += [of_log / t0, of_log * size]
            elif i == floor:
                derivatives += [column * slope, column * slope * size]
            else:
                derivatives.append(column)
        return value, tuple(derivatives)

    where = "T = T0 (N/1e6)^gamma" + ("" if floor is None else ", logit f = f0 + phi ln(N/1e6)")
    return law(
        register=register, name=f"{base.name}_over_size", formula=f"{base.formula} with {where}", source=base.source,
        inputs=("x", "N"), parameters=tuple(parameters), linear=() if floor is not None else base.linear,
        levels=tuple(level for level in base.levels if level != base.floor), fades=base.decays,
    )(function)  # fmt: skip


for _base in (exponential, exponential_floor, shifted_power, power_floor, stretched):
    over_size(_base, register=True)
