"""The starts of Chinchilla's published fit."""

from __future__ import annotations

import itertools

import numpy as np

from analysis.stats.arrays import Array


def chinchilla_grid() -> Array:
    """(4500, 5), the starts of Hoffmann et al. 2022, appendix D.3, as E, A, B, alpha, beta: ln E in {-1, -.5, .. 1},
    ln A, ln B in {0, 5, .. 25}, alpha, beta in {0, .5, .. 2}."""
    exponents, weights = np.arange(0, 2.5, 0.5), np.exp(np.arange(0, 30.0, 5))
    limits = np.exp(np.arange(-1, 1.5, 0.5))
    return np.array(list(itertools.product(limits, weights, weights, exponents, exponents)))
