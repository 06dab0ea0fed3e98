"""Loss when tokens repeat: the data-constrained law."""

from __future__ import annotations

import numpy as np

from analysis.laws.base import Parameter, law
from analysis.laws.scaling import chinchilla

PURPOSE = "loss over parameters, tokens and compute"


@law(
    name="data_constrained",
    formula="L = E + A / N'^alpha + B / D'^beta, D' = U + U R_D (1 - exp(-(D/U - 1) / R_D)), N' likewise with R_N",
    source="Muennighoff et al. 2023, arXiv 2305.16264, section 3.1 and appendix A: repeated tokens lose value",
    inputs=("N", "D", "U"),
    parameters=(
        *chinchilla.parameters[:3],
        Parameter(name="alpha", low=1e-3, high=20, start=(0.05, 2), meaning="exponent of size"),
        Parameter(name="beta", low=1e-3, high=20, start=(0.05, 2), meaning="exponent of data"),
        Parameter(name="R_D", low=1e-3, high=1e6, log=True, start=(1, 100), meaning="scale of useful repetitions"),
        Parameter(name="R_N", low=1e-3, high=1e6, log=True, start=(1, 100), meaning="the same of excess parameters"),
    ),
    linear=("E", "A", "B"), alike=("D", "U"),
)  # fmt: skip
def data_constrained(n, d, u, e, a, b, alpha, beta, r_d, r_n):
    """N parameters, D tokens in all, of which U differ; D at most U is one pass or less.

    Parameters up to the compute-optimal number for U tokens, G (G U)^(beta/alpha), count whole, those beyond less and
    less. Fit E, A, B, alpha and beta to runs of one pass first and hold them (`--fix`), as the paper does: from
    repeated runs alone all seven are hardly identified.
    """
    with np.errstate(all="ignore"):
        scale = (np.log(alpha * a) - np.log(beta * b)) / (alpha + beta)
        best = np.exp(scale + beta / alpha * (scale + np.log(u)))
    n, d, u, best = np.broadcast_arrays(n, d, u, best)
    seen = np.where(d < u, d, u)
    size = np.where(n < np.real(best), n, best)  # comparisons on real parts, so that complex steps pass
    tokens = seen * (1 - r_d * np.expm1(-(d / seen - 1) / r_d))
    parameters = size * (1 - r_n * np.expm1(-(n / size - 1) / r_n))
    return e + a * np.exp(-alpha * np.log(parameters)) + b * np.exp(-beta * np.log(tokens))
