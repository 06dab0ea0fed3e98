"""Decay and scaling laws, each with formula, bounds, derivatives, half-life and source. Importing fills LAWS."""

from analysis.laws import decay, memory, scaling
from analysis.laws.base import LAWS, Law, Parameter, find_law, law

__all__ = ["LAWS", "Law", "Parameter", "decay", "find_law", "law", "memory", "scaling"]
