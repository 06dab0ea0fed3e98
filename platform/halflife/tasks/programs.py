"""A language of small programs on sequences, which can be compiled to weights (`interpret.compiled`).

A program (s1, f1, s2, f2) moves and maps the tokens of a sequence twice: z[i] = f1[x[s1(i)]], y[i] = f2[z[s2(i)]].
Programs are arrays (..., 4) int64 of the numbers of two movers and two tables, in this order.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from halflife.rng import generator

Ints = NDArray[np.int64]

LENGTH, VOCABULARY = 8, 6
SLOTS = ("s1", "f1", "s2", "f2")
_I, _V = np.arange(LENGTH), np.arange(VOCABULARY)
_MOVERS = {
    "identity": _I,
    **{f"shift {by}": (_I + by) % LENGTH for by in (1, 2, 3, 5)},
    "reverse": _I[::-1],
    "first": np.zeros_like(_I),
    "last": np.full_like(_I, LENGTH - 1),
    "swap": _I ^ 1,
    "half": _I // 2,
}
_TABLES = {
    "identity": _V,
    **{f"plus {by}": (_V + by) % VOCABULARY for by in (1, 2, 3)},
    "negate": -_V % VOCABULARY,
    "double": 2 * _V % VOCABULARY,
    "half": _V // 2,
    "swap": _V ^ 1,
    "mod 2": _V % 2,
    "at most 3": np.minimum(_V, 3),
}
MOVER_NAMES, TABLE_NAMES = tuple(_MOVERS), tuple(_TABLES)
MOVERS: Ints = np.stack(list(_MOVERS.values()))
"""(10, LENGTH): the position from which each position is read"""
TABLES: Ints = np.stack(list(_TABLES.values()))
"""(10, VOCABULARY): the token that each token becomes"""
PROGRAMS: Ints = np.stack(
    np.meshgrid(*[np.arange(n) for n in (len(MOVERS), len(TABLES)) * 2], indexing="ij"), -1
).reshape(-1, len(SLOTS))
"""(10,000, 4): every program"""


def outputs(programs: Ints, tokens: Ints) -> Ints:
    """What programs (n, 4) answer to sequences (m, LENGTH): (n, m, LENGTH)."""
    s1, f1, s2, f2 = programs.T
    z = TABLES[f1[:, None, None], tokens[:, MOVERS[s1]].swapaxes(0, 1)]
    moved = np.take_along_axis(z, MOVERS[s2][:, None], axis=2)
    return TABLES[f2[:, None, None], moved]


def functions(programs: Ints) -> Ints:
    """(n,): a number for the function of each program (n, 4): equal for equal truth tables.

    y[i] = h[x[g(i)]] with h = f2 f1 and g = s1 s2; where h is constant, g has no effect.
    """
    s1, f1, s2, f2 = programs.T
    table = TABLES[f2[:, None], TABLES[f1]]
    source = np.take_along_axis(MOVERS[s1], MOVERS[s2], axis=1)
    source = np.where((table == table[:, :1]).all(1, keepdims=True), 0, source)
    return _classes(np.concatenate([table, source], axis=1))


def unnamed(programs: Ints) -> Ints:
    """(n,): a number for what weights hold of each program when the basis of the residual stream is scrambled.

    The tokens between f1 and f2 have no names then: (f1, f2) and (p f1, p^-1 then f2) have the same weights, for every
    permutation p. What is left of them is, for each token between, which tokens f1 sends there and what f2 makes of it.
    """
    s1, f1, s2, f2 = programs.T
    sent = (TABLES[f1][:, None] == _V[:, None]) @ (1 << _V)  # (n, between): the set of tokens, as bits
    between = np.sort(sent * VOCABULARY + TABLES[f2], axis=1)
    return _classes(np.column_stack([s1, s2, between]))


def _classes(rows: Ints) -> Ints:
    return np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)


def ceiling(programs: Ints, classes: Ints) -> float:
    """The share of programs (n, 4) that the best reader names when it sees their classes (n,) only, as the mean of the
    largest posterior under the uniform prior: each class's most frequent program counts."""
    pairs, counts = np.unique(np.column_stack([classes, programs]), axis=0, return_counts=True)
    largest = np.zeros(classes.max() + 1, np.int64)
    np.maximum.at(largest, pairs[:, 0], counts)
    return float(largest.sum() / len(programs))


def split(part: Literal["train", "held-out"], seed: int = 0, share: float = 0.15) -> Ints:
    """(n, 4): the programs of a part. A share of all pairs (s1, f2) is held out, so training has seen each of their
    slots, and never the two together."""
    pairs = len(MOVERS) * len(TABLES)
    chosen = generator(seed, "held-out programs").permutation(pairs) < round(share * pairs)
    held_out = chosen[PROGRAMS[:, 0] * len(TABLES) + PROGRAMS[:, 3]]
    return PROGRAMS[held_out if part == "held-out" else ~held_out]
