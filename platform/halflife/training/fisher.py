"""The diagonal of a model's Fisher information, per predicted token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from halflife.data.loss_mask import read
from halflife.data.streams import TokenStream
from halflife.models.model import Model
from halflife.rng import seed_of
from halflife.training.prefetch import on_device

FILE = "fisher.safetensors"


def diagonal(
    model: Model, batches: TokenStream, count: int, seed: int, on_batch: Callable[[int], None] = lambda done: None
) -> dict[str, Tensor]:
    """By parameter, E[(d log p(y | x) / d theta)^2] over the scored tokens of `count` batches, y drawn from the model.

    With labels from the model, the gradients of different tokens have mean 0 and are uncorrelated, so the square of a
    batch's summed gradient is an unbiased estimate of the sum of their squares, at the cost of one backward pass.
    Labels from the data would give another quantity, the empirical Fisher (arXiv 1905.12558). `on_batch` is called with
    the number of batches done.
    """
    named = dict(model.named_parameters())
    device = next(iter(named.values())).device
    squares = [torch.zeros_like(parameter) for parameter in named.values()]
    tokens = 0
    model.eval()
    for number in range(count):
        batch = on_device(batches.batch(number), device)
        scored = batch[:, 1:] >= 0
        logits = model(read(batch)[:, :-1])[scored].float()
        draw = torch.Generator(device).manual_seed(seed_of(seed, "labels", number))
        labels = torch.multinomial(logits.detach().softmax(-1), 1, generator=draw)[:, 0]
        gradients = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), list(named.values()))
        torch._foreach_addcmul_(squares, gradients, gradients)  # pyright: ignore[reportPrivateImportUsage]
        tokens += len(labels)
        on_batch(number + 1)
    return {name: square / tokens for name, square in zip(named, squares, strict=True)}


def write(folder: Path, fisher: dict[str, Tensor]) -> None:
    save_file({name: tensor.cpu().contiguous() for name, tensor in fisher.items()}, folder / FILE)


def read_fisher(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / FILE)
