"""Next-token distributions, compared in chunks of texts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halflife.evaluation import SCORED_TOKENS
from halflife.evaluation.scoring import evaluating
from halflife.models.model import Model

Reference = Callable[[slice], Tensor]
"""Log-probabilities (rows, length, vocabulary) of the next tokens, for some of the texts."""


def chunks(count: int, length: int) -> list[slice]:
    size = max(1, SCORED_TOKENS // length)
    return [slice(start, start + size) for start in range(0, count, size)]


def log_probabilities(model: Model, tokens: Tensor) -> Tensor:
    """Tokens (rows, length) -> float32 (rows, length, vocabulary)."""
    return model.logits(model.hidden(model.embed(tokens))).float().log_softmax(-1)


def predicted(model: Model, rows: NDArray[np.int64], device: str) -> Reference:
    tokens = torch.from_numpy(rows).to(device)

    def reference(part: slice) -> Tensor:
        with evaluating(model):
            return log_probabilities(model, tokens[part])

    return reference


def exact(table: NDArray[np.float64], vocabulary: int, device: str) -> Reference:
    """`table` (texts, length, symbols) of probabilities; tokens beyond its symbols have none."""
    missing = vocabulary - table.shape[2]
    return lambda part: torch.from_numpy(np.pad(table[part], ((0, 0), (0, 0), (0, missing)))).to(device).log().float()


def divergences(reference: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities (..., vocabulary) of both -> KL(reference || found) in nats and total variation, (...)."""
    if found.shape[-1] > reference.shape[-1]:  # an embedding may have more rows than the tokenizer has tokens
        padding = found.shape[-1] - reference.shape[-1]
        reference = torch.nn.functional.pad(reference, (0, padding), value=-torch.inf)
    p = reference.exp()
    kl = torch.where(p > 0, p * (reference - found), 0).sum(-1)
    return kl, (p - found.exp()).abs().sum(-1) / 2


def distances(
    model: Model, rows: NDArray[np.int64], reference: Reference, device: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """KL(reference || model) and total variation after each token, each (texts, length)."""
    tokens, kl, tv = torch.from_numpy(rows).to(device), [], []
    with evaluating(model):
        for part in chunks(*rows.shape):
            one, other = divergences(reference(part), log_probabilities(model, tokens[part]))
            kl.append(one.double().cpu().numpy())
            tv.append(other.double().cpu().numpy())
    return np.concatenate(kl), np.concatenate(tv)
