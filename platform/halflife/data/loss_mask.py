"""The loss mask of a batch: a token that is not predicted is stored as ~id, which is negative.

So a batch stays one array of integers, however it is made, copied or split.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Rows = TypeVar("Rows", np.ndarray, "Tensor")


def read(rows: Rows) -> Rows:
    """The token ids without the mask (int64): x >> 63 is -1 for negative x, else 0."""
    return rows ^ (rows >> 63)
