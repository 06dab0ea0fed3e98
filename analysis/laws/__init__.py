"""Decay and scaling laws, each with formula, bounds, derivatives, half-life and source. Importing fills LAWS."""

from analysis.laws import decay, downstream, finetuning, half_life, memory, recovery, repetition, scaling, soft_prompts
from analysis.laws.base import LAWS, Derived, Law, Parameter, find_law, law

__all__ = [
    "LAWS", "Derived", "Law", "Parameter", "decay", "downstream", "find_law", "finetuning", "half_life", "law",
    "memory", "recovery", "repetition", "scaling", "soft_prompts",
]  # fmt: skip
