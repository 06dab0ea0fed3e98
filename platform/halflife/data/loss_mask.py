"""Which tokens of a batch are predicted: one that is not scored as a target stands there as ~id, which is negative.

So a batch stays one array of integers, whoever makes, copies or splits it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Rows = TypeVar("Rows", np.ndarray, "Tensor")


def read(rows: Rows) -> Rows:
    """The token ids, marked or not (int64): x >> 63 is -1 below 0, else 0."""
    return rows ^ (rows >> 63)
