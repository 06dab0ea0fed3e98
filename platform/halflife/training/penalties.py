"""Penalties on the way from the starting weights."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class L2SP:
    """Pull towards the weights that the stage started from, as the proximal step
    theta <- theta_0 + (theta - theta_0) / (1 + eta strength), eta the base rate (arXiv 1802.01483)."""

    strength: float
