"""The objectives of `training.objectives` as functions of tensors."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from halflife.models.hooks import tapped
from halflife.models.model import Model
from halflife.models.sites import Site
from halflife.training.acceleration import compiled
from halflife.training.objective import Loss, Pull
from halflife.training.seen import Seen

UNSCORED = -1


def next_token(label_smoothing: float, strength: float, *, masked: bool, compile: bool) -> Loss:
    function = summed_cross_entropy if masked else cross_entropy
    function = compiled(function) if compile else function

    def loss(model: Model, batch: Tensor, step: int, seen: Seen) -> Tensor:
        value = function(seen.logits, seen.targets, label_smoothing)
        value = seen.mean(value) if masked else value * seen.share
        seen.log("train/loss", value)
        return value if strength == 1 else strength * value

    return loss


def matching_logits(reference: Model, strength: float, metric: str | None = None) -> Loss:
    """strength KL(reference || model), a mean over the predicted tokens, logged as `metric` without the strength."""

    def loss(model: Model, batch: Tensor, step: int, seen: Seen) -> Tensor:
        with torch.no_grad():
            before = seen.predict(reference)
        divergence = summed_divergence(before, seen.logits, seen.targets >= 0)
        if metric:
            seen.log(metric, seen.mean(divergence))
        return seen.mean(strength * divergence)

    return loss


def matching_activations(reference: Model, sites: Sequence[Site], strength: float, metric: str) -> Loss:
    """strength |a - t|^2 / |t|^2 of the activations a of the model and t of the reference, a mean over positions and
    sites, logged as `metric` without the strength."""

    def loss(model: Model, batch: Tensor, step: int, seen: Seen) -> Tensor:
        with torch.no_grad(), tapped(reference, sites) as taps:
            seen.predict(reference)
        errors = []
        for site in sites:
            theirs = taps[site].float()
            error = (seen.activations[site].float() - theirs).square().sum(-1)
            errors.append((error / theirs.square().sum(-1)).mean())
        value = seen.share * torch.stack(errors).mean()
        seen.log(metric, value)
        return strength * value

    return loss


def elastic(model: Model, fisher: Mapping[str, Tensor], *, strength: float) -> Pull:
    """The pull of elastic weight consolidation: each weight's own, by its Fisher information over the mean."""
    found = [fisher[name].to(p.device) for name, p in model.named_parameters() if p.requires_grad]
    sums = torch.stack([tensor.double().sum() for tensor in found])
    mean = sums.sum().item() / sum(tensor.numel() for tensor in found)
    importance = [tensor / mean for tensor in found]

    def pull(learning_rate: float) -> Any:
        amounts = torch._foreach_mul(importance, learning_rate * strength)  # pyright: ignore[reportPrivateImportUsage]
        return torch._foreach_div(amounts, torch._foreach_add(amounts, 1))  # pyright: ignore[reportPrivateImportUsage]

    return pull


def frozen_copy(model: Model) -> Model:
    """The model as it is, in evaluation mode, without gradients."""
    return copy.deepcopy(model).requires_grad_(False).eval()


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """Mean over all tokens, in fp32, of logits (rows, length, vocabulary) against targets (rows, length)."""
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), label_smoothing=label_smoothing)


def summed_cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """Sum over the targets without a mark (`data.loss_mask`), in fp32."""
    flat = targets.flatten().clamp(min=UNSCORED)
    return F.cross_entropy(
        logits.flatten(0, 1).float(), flat, label_smoothing=label_smoothing, ignore_index=UNSCORED, reduction="sum"
    )


def summed_divergence(before: Tensor, logits: Tensor, scored: Tensor) -> Tensor:
    """Sum of KL(before || now) over the scored tokens, in fp32, for logits (rows, length, vocabulary)."""
    each = F.kl_div(
        logits.float().log_softmax(-1), before.float().log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    return (each * scored).sum()
