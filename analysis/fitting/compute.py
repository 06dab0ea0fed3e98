"""Whether parameters N, tokens D and compute C of a table are what C = 6 N D takes them for: name, unit and reach."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from analysis.fitting.result import Warned
from analysis.laws.allocation import FLOPS
from analysis.stats.arrays import Array
from analysis.stats.intervals import Interval

NAMES = {
    "N": r"^n$|^size$|param|model_?size|non_?emb", "D": r"^d$|token|^data$|data(set)?_?size",
    "C": r"^c$|flop|compute|budget",
}  # fmt: skip
"""Words in the name of a column that say which of the three it is."""
WHAT = {"N": "parameters", "D": "tokens", "C": "FLOPs"}
LEAST = 1e4
"""Parameters or tokens below which the largest of a table is no run's: a count in thousands, millions or billions."""
APART = 5.0
"""Factor between 6 N D and the compute of a table that how embeddings and attention count does not explain."""
FAR = 2.5
"""Decades beyond the data from which an optimum is doubted; Chinchilla's own lies 2 beyond its largest runs."""


def named(column: str) -> str:
    """N, D or C if the name of a column says that it is this one alone; otherwise ""."""
    found = [name for name, words in NAMES.items() if re.search(words, column, re.IGNORECASE)]
    return found[0] if len(found) == 1 else ""


def swapped(columns: Mapping[str, str]) -> list[str]:
    """Of columns by what they are given for: those whose names say that they are another of the inputs."""
    wrong = {name: each for name, each in columns.items() if named(each) not in ("", name) and named(each) in columns}
    if not wrong or not set(wrong) <= set(NAMES):
        return []
    given = ", ".join(f"{name} = {column}" for name, column in columns.items() if name in NAMES)
    means = ", ".join(f"{name} is {WHAT[name]}" for name in columns if name in NAMES)
    return [f"{given}, but {means}: are columns swapped?"]


def units(frame: pl.DataFrame, columns: Mapping[str, str]) -> list[Warned]:
    """Of a table with `columns` of N, and of D or C if there are such, numbers above 0: no model is so small, no run so
    short, or a further column of the table says otherwise."""
    return [Warned(line, "units") for line in _units(frame, columns)]


def trusted(parts: dict[str, Interval], doubts: Sequence[str], far: Sequence[str]) -> dict[str, Interval]:
    """The best split of a budget: none while the units are in doubt, and without intervals `far` from the data."""
    if any(isinstance(line, Warned) and line.about == "units" for line in doubts):
        return {}
    return {name: replace(each, low=None, high=None) for name, each in parts.items()} if far else parts


def _units(frame: pl.DataFrame, columns: Mapping[str, str]) -> list[str]:
    values = {name: frame[column].to_numpy().astype(float) for name, column in columns.items()}
    if "C" in values:
        values["D"] = values["C"] / FLOPS / values["N"]
    if "D" in values:
        values["C"] = FLOPS * values["N"] * values["D"]
    small = [f"{column} is at most {values[name].max():.4g} {WHAT[name]}" for name, column in columns.items()
             if name != "C" and values[name].max() < LEAST]  # fmt: skip
    if small:
        what = "C = 6 N D" if "C" in values else "the law"
        return [f"{' and '.join(small)}, too few for a language model: {what} takes single parameters, tokens and "
                "FLOPs, so multiply columns in thousands, millions or billions first"]  # fmt: skip
    found = []
    for column in frame.select(pl.selectors.numeric()).columns:
        name = named(column)
        if name in columns or name not in values or frame[column].null_count():
            continue
        with np.errstate(all="ignore"):
            ratio = float(np.median(values[name] / frame[column].to_numpy().astype(float)))
        if ratio > 0 and not 1 / APART < ratio < APART:
            found.append(
                f"{'6 N D' if name == 'C' else 'C / (6 N)'} is {ratio:.2g} times column {column} (median): are "
                f"{', '.join(columns.values())} and {column} in single parameters, tokens and FLOPs?"
            )
    return found


def reach(budgets: Sequence[float], compute: Array, what: str = "6 N D") -> list[str]:
    """Of the farthest of `budgets` in FLOPs, where it is far beyond the `compute` of the data, (n,)."""
    sides = (
        ("beyond the largest", max(budgets), compute.max(), 1),
        ("below the smallest", min(budgets), compute.min(), -1),
    )
    return [
        f"--compute {budget:g} lies {decades:.1f} decades {side} {what} of the data, {end:.3g}: are the columns in "
        "single parameters and tokens? If so, its optimum is an extrapolation whose error no interval shows"
        for side, budget, end, sign in sides
        if (decades := sign * np.log10(budget / end)) > FAR
    ]
