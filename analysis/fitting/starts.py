"""Starting points of fits: Sobol points, and variable projection for the parameters in which a law is linear."""

from __future__ import annotations

import numpy as np
from scipy.stats import qmc

from analysis.fitting.observations import Observations
from analysis.laws.base import Law, Parameter
from analysis.stats.arrays import Array


def sobol(law: Law, data: Observations, count: int, seed: int = 0) -> Array:
    """(count, P) on the natural scale: Sobol points in each parameter's range. In every second one the linear
    parameters are instead solved by weighted least squares given the others (variable projection)."""
    ranges = np.array([_range(p, data, law) for p in law.parameters])
    log = np.array([p.log for p in law.parameters])
    ends = np.where(log[:, None], np.log(np.where(log[:, None], ranges, 1.0)), ranges)
    points = qmc.Sobol(len(law.parameters), rng=seed).random_base2(max(0, int(np.ceil(np.log2(max(count, 1))))))
    z = ends[:, 0] + points[:count] * (ends[:, 1] - ends[:, 0])
    theta = np.where(log, np.exp(np.where(log, z, 0.0)), z)
    if law.linear:
        theta[::2] = project(law, theta[::2], data)
    return theta


def project(law: Law, theta: Array, data: Observations) -> Array:
    """`theta` (S, P) with its linear parameters replaced by their least-squares values, kept within bounds."""
    at = [law.names.index(name) for name in law.linear]
    y = data.response
    weight = np.ones(data.n) if data.trials is None else np.sqrt(data.trials)
    if data.y is not None and (y > 0).all():
        weight = np.abs(y).max() / y  # relative errors, as in losses over logarithms
    if data.weights is not None:
        weight = weight * np.sqrt(data.weights)
    known = np.isfinite(y)
    columns = law.gradient(theta, data.x[known])[..., at] * weight[known, None]
    fine = np.isfinite(columns).all(axis=(1, 2))
    with np.errstate(over="ignore", invalid="ignore"):  # columns near 0, as of a clock that begins far from it
        solved = np.linalg.pinv(columns[fine], rcond=1e-10) @ (y * weight)[known]
    solved = np.where(np.isfinite(solved), solved, -np.inf)
    low, high = law.bounds
    found = theta.copy()
    for place, i in enumerate(at):
        # Off the bound by a thousandth of the start's own value: a log parameter could not leave it.
        inside = np.where(solved[:, place] > low[i], solved[:, place], np.abs(theta[fine, i]) * 1e-3)
        found[fine, i] = np.clip(inside, low[i], high[i])
    return found


def _range(parameter: Parameter, data: Observations, law: Law) -> tuple[float, float]:
    y = data.response[np.isfinite(data.response)]
    low, high = parameter.low, parameter.high
    if parameter.unit == "x" or parameter.unit in law.inputs:
        column = data.x[:, 0 if parameter.unit == "x" else law.inputs.index(parameter.unit)]
        positive = column[column > 0]
        least, most = (positive.min(), positive.max()) if positive.size else (1.0, 1.0)
        factors = parameter.start or (0.1, 10.0)
        found = least * factors[0], most * factors[1]
    elif parameter.unit == "y":
        least, most = y.min(), y.max()
        if parameter.start is None:
            found = least - 0.1 * (most - least), most + 0.1 * (most - least)
        else:
            found = tuple(least + f * (most - least) for f in parameter.start)
    else:
        found = parameter.start or (low, high)
    if parameter.log:
        found = tuple(max(end, 1e-12 * max(abs(_largest(y)), 1e-300)) for end in found)
    found = min(max(found[0], low), high), max(min(found[1], high), low)
    return found if found[0] < found[1] else (low, high)


def _largest(y: Array) -> float:
    return float(np.abs(y).max()) if y.size else 1.0
