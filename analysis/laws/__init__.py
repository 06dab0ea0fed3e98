"""Decay and scaling laws, each with formula, bounds, derivatives, half-life and source. Importing fills LAWS."""

from analysis.laws import decay, half_life, memory, scaling, soft_prompts
from analysis.laws.base import LAWS, Law, Parameter, find_law, law

__all__ = [
    "LAWS", "Law", "Parameter", "decay", "find_law", "half_life", "law", "memory", "scaling", "soft_prompts",
]  # fmt: skip
