"""Decay laws: the skill left at x (tokens, steps or summed learning rate) after the drop; `a` is the level at x = 0.

Fit raw counts with chance fixed (the binomial objective's `chance`), never the ratio of two noisy rates. The menu is
that of Wixted and Ebbesen 1991, Rubin and Wenzel 1996 and the backdoor literature; each law names its source.
"""

from __future__ import annotations

import numpy as np

from analysis.laws.base import Parameter, law

PURPOSE = "decay of a skill after the drop"
INF = float("inf")
LEVEL = Parameter(name="a", low=0, high=INF, unit="y", start=(0.5, 1.2), meaning="level at the drop")
FLOOR = Parameter(name="f", low=0, high=INF, unit="y", start=(0, 0.5), meaning="level that decay settles at")
SCALE = Parameter(name="T", low=0, high=INF, log=True, unit="x", meaning="time scale, in units of x")
EXPONENT = Parameter(name="b", low=0.01, high=50, log=True, start=(0.1, 3), meaning="exponent of the tail")
WIXTED = "Wickelgren 1974, Memory & Cognition 2, 775; Wixted 2004, Psychonomic Bulletin & Review 11, 864"


@law(
    name="constant", formula="y = a", source="the null law: nothing is lost", parameters=(LEVEL,), linear=("a",),
    half=lambda a: np.full_like(a, np.inf), decays=True, levels=("a",),
)  # fmt: skip
def constant(x, a):
    return a + 0 * x, (np.ones(1),)


@law(
    name="exponential", formula="y = a exp(-x/T)", source="Loftus 1985, JEP: Learning, Memory, and Cognition 11, 397",
    parameters=(LEVEL, SCALE), linear=("a",), half=lambda a, t: t * np.log(2), decays=True, levels=("a",),
)  # fmt: skip
def exponential(x, a, t):
    left = np.exp(-x / t)
    return a * left, (left, a * left * x / t**2)


def _half_above_floor(a, f, needed):
    """`needed`(share of the way from f to a that is left) if half of a is reached, otherwise inf."""
    share = np.where(a > 2 * f, (a / 2 - f) / np.where(a > f, a - f, 1), np.nan)
    return np.where(np.isnan(share), np.inf, needed(share))


@law(
    name="exponential_floor", formula="y = f + (a - f) exp(-x/T)",
    source="Tirumala et al. 2022, arXiv 2205.10770: memorised items decay to a baseline that grows with size",
    parameters=(LEVEL, SCALE, FLOOR), linear=("a", "f"), floor="f", decays=True, levels=("a", "f"),
    half=lambda a, t, f: _half_above_floor(a, f, lambda share: -t * np.log(share)),
)  # fmt: skip
def exponential_floor(x, a, t, f):
    left = np.exp(-x / t)
    return f + (a - f) * left, (left, (a - f) * left * x / t**2, 1 - left)


def _tail(x, t, b):
    """(1 + x/T)^-b and its derivatives in T and b."""
    log = np.log1p(x / t)
    left = np.exp(-b * log)
    return left, left * b * x / (t * (t + x)), -log * left


@law(
    name="shifted_power", formula="y = a (1 + x/T)^-b", source=WIXTED, parameters=(LEVEL, SCALE, EXPONENT),
    linear=("a",), half=lambda a, t, b: t * np.expm1(np.log(2) / b), decays=True, levels=("a",),
)  # fmt: skip
def shifted_power(x, a, t, b):
    left, of_t, of_b = _tail(x, t, b)
    return a * left, (left, a * of_t, a * of_b)


@law(
    name="power_floor", formula="y = f + (a - f) (1 + x/T)^-b", source=WIXTED + ", with a floor",
    parameters=(LEVEL, SCALE, EXPONENT, FLOOR), linear=("a", "f"), floor="f", decays=True, levels=("a", "f"),
    half=lambda a, t, b, f: _half_above_floor(a, f, lambda share: t * np.expm1(-np.log(share) / b)),
)  # fmt: skip
def power_floor(x, a, t, b, f):
    left, of_t, of_b = _tail(x, t, b)
    return f + (a - f) * left, (left, (a - f) * of_t, (a - f) * of_b, 1 - left)


@law(
    name="stretched", formula="y = a exp(-(x/T)^s)", source="Rubin and Wenzel 1996, Psychological Review 103, 734",
    parameters=(
        LEVEL, SCALE,
        Parameter(name="s", low=0.02, high=10, log=True, start=(0.2, 3), meaning="shape: below 1 a heavy tail"),
    ),
    linear=("a",), half=lambda a, t, s: t * np.log(2) ** (1 / s), decays=True, levels=("a",),
)  # fmt: skip
def stretched(x, a, t, s):
    log = np.log(np.where(x > 0, x, 1) / t)
    power = np.where(x > 0, np.exp(s * log), 0)
    left = np.exp(-power)
    return a * left, (left, a * left * power * s / t, -a * left * power * np.where(x > 0, log, 0))


def _half_of_two(a1, a2, t, k):
    """By Newton's method from before the half-life: on a convex, falling function it cannot pass the root."""
    with np.errstate(divide="ignore", invalid="ignore"):
        fast = np.where(a1 + a2 > 0, a1 / (a1 + a2), 0.0)
        at = np.maximum(np.log(2), k * np.log(2 * (1 - fast)))  # the fast part alone; the slow part alone
        for _ in range(60):
            quick, slow = fast * np.exp(-at), (1 - fast) * np.exp(-at / k)
            step = (quick + slow - 0.5) / (quick + slow / k)
            at = at + step
            if not (np.abs(step) > 1e-14 * at).any():
                break
    return t * at


@law(
    name="double_exponential", formula="y = a1 exp(-x/T) + a2 exp(-x/(k T))",
    source="Rubin, Hinton and Wenzel 1999, JEP: Learning, Memory, and Cognition 25, 1161",
    parameters=(
        Parameter(name="a1", low=0, high=INF, unit="y", start=(0.1, 0.9), meaning="part that decays fast"),
        Parameter(name="a2", low=0, high=INF, unit="y", start=(0.1, 0.9), meaning="part that decays slowly"),
        SCALE,
        Parameter(name="k", low=1, high=1e9, log=True, start=(2, 1e3), meaning="slow over fast time scale"),
    ),
    linear=("a1", "a2"), half=_half_of_two, decays=True, levels=("a1 + a2",),
)  # fmt: skip
def double_exponential(x, a1, a2, t, k):
    fast, slow = np.exp(-x / t), np.exp(-x / (k * t))
    of_slow = a2 * slow * x / (k * t)
    return a1 * fast + a2 * slow, (fast, slow, (a1 * fast * x / t + of_slow) / t, of_slow / k)


@law(
    name="log_linear", formula="y = max(a - b ln(1 + x/T), 0)",
    source="Chang et al. 2024, arXiv 2406.11813: retainability is linear in the logarithm of the step",
    parameters=(
        LEVEL, SCALE,
        Parameter(name="b", low=0, high=INF, unit="y", start=(0.02, 0.6), meaning="loss per e-fold beyond T"),
    ),
    half=lambda a, t, b: t * np.expm1(a / (2 * b)), decays=True, levels=("a",),
)  # fmt: skip
def log_linear(x, a, t, b):
    log = np.log1p(x / t)
    value = a - b * log
    left = np.where(value > 0, 1.0, 0.0)
    return value * left, (left, left * b * x / (t * (t + x)), -log * left)


@law(
    name="hyperbolic", formula="y = a / (1 + x/T)", source="Rubin and Wenzel 1996, Psychological Review 103, 734",
    parameters=(LEVEL, SCALE), linear=("a",), half=lambda a, t: t, decays=True, levels=("a",),
)  # fmt: skip
def hyperbolic(x, a, t):
    left = t / (t + x)
    return a * left, (left, a * left * left * x / t**2)


@law(
    name="logistic_log", formula="y = a / (1 + (x/T)^s)", source="logistic in ln x; Hill 1910, J. Physiology 40, iv",
    parameters=(
        LEVEL, SCALE,
        Parameter(name="s", low=0.02, high=50, log=True, start=(0.3, 5), meaning="steepness over ln x"),
    ),
    linear=("a",), half=lambda a, t, s: t, decays=True, levels=("a",),
)  # fmt: skip
def logistic_log(x, a, t, s):
    log = np.log(np.where(x > 0, x, 1) / t)
    exponent = np.where(x > 0, s * log, -np.inf)
    left = 1 / (1 + np.exp(exponent))
    inner = a * left * (1 - left)
    return a * left, (left, inner * s / t, -inner * np.where(x > 0, log, 0))


@law(
    name="bnsl", formula="y = f + b x^-c0 (1 + (x/d)^(1/g))^(-c1 g)",
    source="Caballero et al. 2023, arXiv 2210.14891: smoothly broken power law, one break",
    parameters=(
        Parameter(name="f", low=0, high=INF, unit="y", start=(0, 0.9), meaning="limit"),
        Parameter(name="b", low=0, high=INF, log=True, unit="y", shift="c0 ln x", start=(1e-3, 1e1), meaning="weight"),
        Parameter(name="c0", low=-10, high=20, start=(0, 1), meaning="exponent before the break"),
        Parameter(name="c1", low=-20, high=20, start=(-0.5, 1), meaning="change of the exponent at the break"),
        Parameter(name="d", low=0, high=INF, log=True, unit="x", start=(1, 1), meaning="location of the break"),
        Parameter(name="g", low=0.01, high=20, log=True, start=(0.1, 3), meaning="width of the break in ln x"),
    ),
    linear=("f", "b"), floor="f", levels=("f",),
)  # fmt: skip
def bnsl(x, f, b, c0, c1, d, g):
    """x above 0. No half-life: without c0 = 0 there is no level at 0."""
    log, over = np.log(x), np.log(x / d)
    soft = np.logaddexp(0, over / g)  # ln(1 + (x/d)^(1/g))
    share = np.exp(over / g - soft)
    part = np.exp(-c0 * log - c1 * g * soft)
    whole = b * part
    return f + whole, (
        np.ones(1), part, -log * whole, -g * soft * whole, c1 * share * whole / d,
        c1 * (share * over / g - soft) * whole,
    )  # fmt: skip


@law(
    name="cpt_loss_shift", formula="L = L0 + A (1 - (1 + x/T)^-b)",
    source="the distribution-shift term of Wang et al. 2025, arXiv 2505.07796 (continual pretraining), in x",
    parameters=(
        Parameter(name="L0", low=0, high=INF, unit="y", start=(-0.1, 0.3), meaning="loss on B at the drop"),
        Parameter(name="A", low=-INF, high=INF, unit="y", start=(0.5, 1.5), meaning="total rise of the loss"),
        SCALE, EXPONENT,
    ),
    linear=("L0", "A"), half=lambda l0, a, t, b: t * np.expm1(np.log(2) / b), half_name="time to half of the rise",
    levels=("L0", "L0 + A"),
)  # fmt: skip
def cpt_loss_shift(x, l0, a, t, b):
    """Half-life: where half of the rise A has happened."""
    left, of_t, of_b = _tail(x, t, b)
    return l0 + a * (1 - left), (np.ones(1), 1 - left, -a * of_t, -a * of_b)
