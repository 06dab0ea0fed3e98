"""Attribute grammars: texts with latent attributes, whose posterior and next-symbol distribution are exact.

A text with the values v_1 ... v_A is a Markov chain with the transitions softmax(B[x] + sum_a theta_a,v_a[x]) that
begins at a uniform symbol. The values are uniform and independent. Everything is computed by enumeration over the
K = N^A classes, the combinations of values.
"""

from __future__ import annotations

import math
import string
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from halflife.errors import UserError, check_choice
from halflife.rng import generator

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Tables = Literal["bigram", "unigram"]

ALPHABET = string.ascii_letters + string.digits
UNTOLD = -1
"""In place of a value: nothing is known of it. In place of a symbol: something that the grammar does not have."""
MOST_ENTRIES = 2**24
"""Of all transition tables, and of the weights of classes held at once: 128 MiB."""


@dataclass(frozen=True, kw_only=True)
class AttributeGrammar:
    """The defaults are those of `stages.attribute_trunk`, where what models reach is measured."""

    symbols: int = 8
    attributes: int = 2
    values: int = 3
    """Of each attribute"""
    strength: float = 0.7
    """Standard deviation of the entries of theta, which are normal; of scalar attributes the largest size of an entry.
    At 0 the text says nothing about its attributes."""
    tables: Tables = "bigram"
    """bigram: a value shifts the logits of every pair of symbols in its own way. unigram: alike in all contexts."""
    scalar: bool = False
    """The values are numbers s from -1 to 1, evenly spaced, and theta = s W with entries of W at +-strength, half of
    them each in every row. Two values are the signed attribute, +-1; many are a continuous one, on a grid."""
    base: float = 0.0
    """Standard deviation of the entries of B"""
    inert: int = 0
    """Number of attributes, the last ones, that change nothing: a nuisance in the tags. An attribute that no tag tells
    is one in the text."""
    seed: int = 0
    """Draws B, theta and W. A smaller number of attributes is a prefix of a larger one."""

    def __post_init__(self) -> None:
        """Raises UserError for numbers out of range, and for classes that are too many to enumerate."""
        check_choice("tables of a grammar", self.tables, get_args(Tables))
        if not 2 <= self.symbols <= len(ALPHABET):
            raise UserError(f"{self.symbols} symbols given: expected 2 to {len(ALPHABET)}")
        if self.attributes < 1 or self.values < 2:
            raise UserError(f"{self.attributes} attributes of {self.values} values given: expected 1 of 2 at least")
        if not 0 <= self.inert <= self.attributes:
            raise UserError(f"{self.inert} inert attributes given: expected 0 to {self.attributes}, the number of all")
        if not (0 <= self.strength < math.inf and 0 <= self.base < math.inf):
            raise UserError(f"strength {self.strength} and base {self.base} given: expected 0 or a positive number")
        if self.class_count * self.symbols**2 > MOST_ENTRIES:
            raise UserError(
                f"{self.class_count} classes of {self.symbols} symbols given: expected at most "
                f"{MOST_ENTRIES // self.symbols**2}, as all are enumerated; give fewer attributes or values"
            )

    def __getstate__(self) -> dict[str, Any]:
        """The description without the tables, which are computed where they are needed."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def class_count(self) -> int:
        """K"""
        return self.values**self.attributes

    @property
    def alphabet(self) -> str:
        """The character of each symbol"""
        return ALPHABET[: self.symbols]

    @property
    def uninformative(self) -> float:
        """The probability of a wrong value at which a tag says nothing: the control of shuffled tags."""
        return 1 - 1 / self.values

    @property
    def scalars(self) -> Floats:
        """The number that each value of a scalar attribute stands for, (values,). `marginals` @ it: its mean."""
        return np.linspace(-1, 1, self.values)

    @cached_property
    def classes(self) -> Ints:
        """The value of each attribute in each class, (K, attributes)."""
        return np.indices((self.values,) * self.attributes).reshape(self.attributes, -1).T

    @cached_property
    def log_transitions(self) -> Floats:
        """Log-probability of the next symbol, (K, symbols, symbols)."""
        size = self.symbols
        logits = self.base * generator(self.seed, "base chain").standard_normal((size, size))
        logits = np.broadcast_to(logits, (self.class_count, size, size)).copy()
        for attribute in range(self.attributes - self.inert):
            logits += self._shifts(attribute)[self.classes[:, attribute]]
        return logits - _log_sum(logits)[..., None]

    def _shifts(self, attribute: int) -> Floats:
        """theta of one attribute, (values, symbols or 1, symbols)."""
        rng = generator(self.seed, "attribute", attribute)
        rows = self.symbols if self.tables == "bigram" else 1
        if not self.scalar:
            return self.strength * rng.standard_normal((self.values, rows, self.symbols))
        signs = np.where(np.arange(self.symbols) < self.symbols // 2, 1.0, -1.0)
        signs = rng.permuted(np.tile(signs, (rows, 1)), axis=1)
        return self.strength * self.scalars[:, None, None] * signs

    @cached_property
    def _log_transitions_by_pair(self) -> Floats:
        """(symbols, symbols, K), for look-ups by pairs."""
        return np.ascontiguousarray(np.moveaxis(self.log_transitions, 0, 2))

    def evidence(self, told: Ints, wrong: float = 0.0) -> Floats:
        """Log-weight of each class, (..., K), given what was told of each attribute, (..., attributes): a value, or
        UNTOLD. A told value is wrong with probability `wrong`, then any other one."""
        told = np.asarray(told)[..., None, :]
        with np.errstate(divide="ignore"):
            right, other = np.log(1 - wrong), np.log(wrong / (self.values - 1))
        weights = np.where(told == self.classes, right, other)
        return np.where(told == UNTOLD, 0.0, weights).sum(-1)

    def sample(
        self, rng: np.random.Generator, count: int, length: int, evidence: Floats | None = None
    ) -> tuple[Ints, Ints]:
        """Values (count, attributes) and symbols (count, length) of texts; given the evidence, (K,) or (count, K), from
        the conditional."""
        if evidence is None:
            classes = rng.integers(self.class_count, size=count)
        else:
            weights = np.broadcast_to(normalised(evidence), (count, self.class_count))
            classes = _draw(rng, weights.cumsum(-1))
        cumulative = np.exp(self.log_transitions).cumsum(-1)
        symbols = np.empty((count, length), dtype=np.int64)
        symbols[:, 0] = rng.integers(self.symbols, size=count)
        for place in range(1, length):
            symbols[:, place] = _draw(rng, cumulative[classes, symbols[:, place - 1]])
        return self.classes[classes], symbols

    def posterior(self, symbols: Ints, evidence: Floats | None = None) -> Floats:
        """Probability of each class after each symbol, (count, length, K), from symbols (count, length).

        UNTOLD among the symbols says nothing, and neither do the transitions to and from it.
        """
        return normalised(self.log_weights(symbols, evidence))

    def log_weights(self, symbols: Ints, evidence: Floats | None = None) -> Floats:
        """Log-probability of the symbols so far given each class, plus its evidence, (count, length, K)."""
        symbols = np.asarray(symbols)
        steps = np.zeros((*symbols.shape, self.class_count))
        before, after = symbols[:, :-1], symbols[:, 1:]
        known = (before != UNTOLD) & (after != UNTOLD)
        steps[:, 1:][known] = self._log_transitions_by_pair[before[known], after[known]]
        if evidence is not None:
            steps[:, 0] += evidence
        return steps.cumsum(1)

    def predictive(self, symbols: Ints, evidence: Floats | None = None) -> Floats:
        """Distribution of the next symbol after each one, (count, length, symbols)."""
        return self.next_symbol(self.posterior(symbols, evidence), symbols)

    def next_symbol(self, weights: Floats, symbols: Ints) -> Floats:
        """The same from weights of the classes, (..., K), and the latest symbol, (...): after UNTOLD it is uniform."""
        found = np.full((*np.shape(symbols), self.symbols), 1 / self.symbols)
        for symbol, table in enumerate(np.exp(np.moveaxis(self.log_transitions, 1, 0))):  # a product for each
            here = symbols == symbol
            found[here] = weights[here] @ table
        return found

    def marginals(self, weights: Floats) -> Floats:
        """Probability of each value of each attribute, (..., attributes, values), from weights of the classes."""
        chosen = self.classes[:, :, None] == np.arange(self.values)
        return np.einsum("...k,kav->...av", weights, chosen.astype(np.float64))

    def log_posterior(self, symbols: Ints, told: Ints, evidence: Floats | None = None) -> Floats:
        """Log-probability (count,) that a text has the told values, (attributes,): the perfect classifier. `evidence`,
        (K,), is the same for all texts."""
        found: list[Floats] = []
        for part in self.chunks(*np.shape(symbols)):
            weights = self.log_weights(symbols[part], evidence)[:, -1]
            found.append(_log_sum(weights + self.evidence(told)) - _log_sum(weights))
        return np.concatenate(found)

    def chunks(self, count: int, length: int) -> list[slice]:
        """Parts of so many texts whose weights are held at once."""
        size = max(1, MOST_ENTRIES // (length * self.class_count))
        return [slice(start, start + size) for start in range(0, count, size)]

    def entropies(self, length: int) -> Floats:
        """Entropy of each symbol given the earlier ones and all values, nats, (length,): the floor of any model. The
        last entries are near the entropy rate."""
        transitions = np.exp(self.log_transitions)
        of_rows = -(transitions * self.log_transitions).sum(-1)
        state = np.full((self.class_count, 1, self.symbols), 1 / self.symbols)
        found = [np.log(self.symbols)]
        for _ in range(1, length):
            found.append(float((state[:, 0] * of_rows).sum(-1).mean()))
            state = state @ transitions
        return np.array(found)


def _log_sum(log_weights: Floats) -> Floats:
    """log sum exp over the last axis"""
    return np.logaddexp.reduce(log_weights, axis=-1)


def normalised(log_weights: Floats) -> Floats:
    """Probabilities over the last axis"""
    return np.exp(log_weights - _log_sum(log_weights)[..., None])


def _draw(rng: np.random.Generator, cumulative: Floats) -> Ints:
    """Indices (count,) from cumulative probabilities (count, choices); the last may be below 1 by rounding."""
    return (rng.random((len(cumulative), 1)) >= cumulative[:, :-1]).sum(1)
