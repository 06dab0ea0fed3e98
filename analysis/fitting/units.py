"""Fits in units of the data's own size, so that the unit in which x or y is written changes nothing but the unit.

On the solved scale (logarithms for parameters that are solved so) a change of units is affine: z = matrix z' + offset,
for z' fitted to data divided by their scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from analysis.laws.base import Law
from analysis.laws.units import powers, shifts
from analysis.stats.arrays import Array


def rescaling(law: Law, scales: Mapping[str, float]) -> tuple[Array, Array]:
    """Matrix (P, P) and offset (P,) that turn solved parameters of data in units of `scales` (by input, and "y") into
    those of the data as they are."""
    matrix, offset = np.eye(len(law.parameters)), np.zeros(len(law.parameters))
    for given, scale in scales.items():  # one after the other: an exponent that one input moves may move others
        step, by = np.eye(len(law.parameters)), np.zeros(len(law.parameters))
        names = {given, "x"} if given == law.inputs[0] else {given}
        for i, parameter in enumerate(law.parameters):
            for moved, name, sign in shifts(parameter.shift):
                step[i, law.names.index(name)] += sign * np.log(scale) * (moved in names)
            power = sum(power for name, power in powers(parameter.unit).items() if name in names) * np.log(scale)
            if parameter.log or parameter.unit.startswith("ln "):
                by[i] = power
            else:
                step[i] *= np.exp(power)
        matrix, offset = step @ matrix, step @ offset + by
    return matrix, offset


@lru_cache(maxsize=256)
def scalable(law: Law) -> tuple[str, ...]:
    """The inputs, and "y", whose unit may change: the declared units then give the same curve.

    Tried on numbers: a law that declares no units, or measures in one of its own, is fitted to the data as they are.
    """
    rng, scale = np.random.default_rng(0), 3.0
    theta = np.clip(np.exp(rng.uniform(-0.5, 0.5, (3, len(law.parameters)))), *law.bounds)
    z = np.where(law.log, np.log(np.where(law.log, theta, 1.0)), theta)
    x = np.exp(rng.uniform(0.0, 1.0, (5, len(law.inputs))))
    found = []
    for name in (*law.inputs, "y"):
        moved = law.alike if name in law.alike else (name,)
        matrix, offset = rescaling(law, dict.fromkeys(moved, scale))
        there = z @ matrix.T + offset
        there = np.where(law.log, np.exp(np.where(law.log, there, 0.0)), there)
        found_there = law.value(there, x * [scale if given in moved else 1.0 for given in law.inputs])
        expected = law.value(theta, x) * (scale if name == "y" else 1.0)
        if np.allclose(found_there, expected, rtol=1e-8, atol=0.0):
            found.append(name)
    return tuple(found)
