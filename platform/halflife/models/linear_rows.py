"""Rows of an embedding that lie on a line: tokens that tell a number s, embedded as w0 + s w1."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def on_a_line(embedding: nn.Embedding, rows: Sequence[int]) -> Callable[[], None]:
    """Trains the rows, in order and evenly spaced, as a line between the first and the last: these two get the
    gradients of all, in proportion. The function returned puts the others where they belong, and has to be called after
    each step; it is called once here."""
    weight, at = embedding.weight, torch.tensor(rows, device=embedding.weight.device)
    share = torch.linspace(0, 1, len(rows), device=weight.device, dtype=weight.dtype)
    shares = torch.stack([1 - share, share])

    def to_the_ends(gradient: Tensor) -> Tensor:
        gradient, ends = gradient.clone(), shares @ gradient[at]
        gradient[at] = 0
        gradient[at[[0, -1]]] = ends
        return gradient

    @torch.no_grad()
    def place() -> None:
        weight[at[1:-1]] = (shares.T @ weight[at[[0, -1]]])[1:-1]

    if weight.requires_grad:
        weight.register_hook(to_the_ends)
    place()
    return place
