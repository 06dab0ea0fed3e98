"""The majority baseline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def majority_baseline(answers: Sequence[np.ndarray]) -> float:
    """Accuracy of always giving the most common answer; 0 if all answers are equal, since knowing that answer is then
    the whole task, or if all differ."""
    _, counts = np.unique([answer.tobytes().hex() for answer in answers], return_counts=True)
    return float(counts.max() / len(answers)) if 1 < len(counts) < len(answers) else 0.0
