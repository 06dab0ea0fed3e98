"""What every stream of training data is: tokens, activations of a subject, weights of compiled programs."""

from __future__ import annotations

from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Batch = TypeVar("Batch", covariant=True)


class Stream(Protocol[Batch]):
    """`batch(step)` is a pure function of the step: it keeps no position and depends on no earlier call.

    So a stream is resumed by one integer, the step; it may be read ahead in a thread, several fits may read the same
    one, and one batch may be handed to many fits.
    """

    def batch(self, step: int) -> Batch: ...


class TokenStream(Stream[NDArray[np.int64]], Protocol):
    """Tokens (rows, sequence + 1), int64, with `data.loss_mask`'s marks where they are not predicted."""

    vocabulary: int


class Shuffle:
    """A pseudo-random permutation of range(count) that is computed where it is read, in no memory.

    Exact: a Feistel network of four rounds permutes the smallest 4^n numbers that hold the range (Luby and Rackoff,
    1988), and what falls outside the range is permuted again until it is inside (Black and Rogaway, 2002), which takes
    less than four turns on average.
    """

    ROUNDS = 4

    def __init__(self, count: int, seed: int) -> None:
        """`seed`: a pure function of this and `count`. Raises ValueError for an empty range."""
        if count < 1:
            raise ValueError(f"a permutation of {count} numbers: expected at least 1")
        self.count = count
        self._half = np.uint64(-(-(count - 1).bit_length() // 2))
        self._mask = np.uint64((1 << int(self._half)) - 1)
        self._keys = _mixed(np.uint64(seed) + np.arange(1, self.ROUNDS + 1, dtype=np.uint64) * _GOLDEN)

    def __call__(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The elements at these places, each 0 to count - 1, of any shape."""
        found = self._permuted(places.astype(np.uint64))
        while (outside := found >= self.count).any():
            found[outside] = self._permuted(found[outside])
        return found.astype(np.int64)

    def _permuted(self, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = numbers >> self._half, numbers & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mixed(right + key) & self._mask)
        return left << self._half | right


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, 2014)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
