"""Whether the scatter around a fit is even: a profile likelihood believes that it is, a bootstrap does not.

Tried on losses whose scatter grew with the response, nominal 95 % profiles covered 32 to 36 of 40, the bootstrap over
rows 36 to 40.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from analysis.fitting.result import Fit

ROWS = 12
"""Rows below which the scatter's trend is not tested."""
SURE = 0.01
"""Probability of such a trend by chance, over all inputs tried, below which it is told."""


def uneven(fit: Fit) -> str | None:
    """What the size of the residuals goes with, if anything: the value or an input, by rank correlation. Of a response
    whose values were all seen; intervals over groups take no scatter within them to be even."""
    data = fit.observations
    if data.group is not None and np.unique(data.group).size > 1:
        return None
    if data.y is None or data.censored is not None or data.n < max(ROWS, 2 * len(fit.law.parameters)):
        return None
    value = fit.predict(data.x)
    scale = {"gaussian": lambda y: y, "log1p": np.log1p}.get(fit.error.name, np.log)
    with np.errstate(all="ignore"):
        residual = np.abs(scale(value) - scale(data.y)) * np.sqrt(1.0 if data.weights is None else data.weights)
    if not np.isfinite(residual).all() or np.ptp(residual) == 0:
        return None
    tried = {"the value": value} | {name: data.x[:, i] for i, name in enumerate(fit.law.inputs)}
    found = []
    for name, along in tried.items():
        if np.ptp(along) > 0:
            correlation = float(np.corrcoef(stats.rankdata(residual), stats.rankdata(along))[0, 1])
            t = abs(correlation) * np.sqrt((data.n - 2) / max(1 - correlation**2, 1e-12))
            found.append((float(2 * stats.t.sf(t, data.n - 2)), correlation, name))
    chance, correlation, name = min(found, default=(1.0, 0.0, ""))
    if chance * len(found) > SURE:
        return None
    return f"the scatter {'grows' if correlation > 0 else 'shrinks'} with {name} (rank correlation {correlation:.2f})"


def advice(fit: Fit, bootstrapped: bool) -> str | None:
    """Which intervals to trust, where the scatter is uneven."""
    found = uneven(fit)
    if found is None:
        return None
    if bootstrapped:
        return f"{found}: trust the bootstrap, not the profile likelihood"
    other = "; or --error lognormal" if fit.error.name == "gaussian" and (fit.observations.response > 0).all() else ""
    return f"{found}: the profile likelihood assumes that it is even, so trust --bootstrap 1000 instead{other}"
