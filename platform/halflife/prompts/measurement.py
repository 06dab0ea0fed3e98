"""All that MeasureSoftPrompts reports of one prompt, by name."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from halflife.evaluation.targets import TargetItems
from halflife.models.model import Model
from halflife.prompts import fragility
from halflife.prompts.batch import scale_of
from halflife.prompts.fragility import PromptEvaluator
from halflife.prompts.scoring import cut
from halflife.prompts.search import fit_in_subspace
from halflife.prompts.soft_prompt import FitConfig, SoftPrompt
from halflife.rng import seed_of

ASCENT_STEPS, PRODUCTS = 20, 12
"""Steps of gradient ascent for F3; Hessian-vector products for the curvature."""


def fragility_of(
    model: Model,
    items: TargetItems,
    prompt: SoftPrompt,
    vectors: Tensor,
    *,
    radius: float,
    draws: int,
    threshold: float | None,
    num_eval: int,
    seed: int,
) -> dict[str, float]:
    """The measures of `prompts.fragility` on held-out items, the costly ones on the first `num_eval`.

    `radius` in norms of one token embedding; `threshold` as in MeasureSoftPrompts.
    """
    generator = torch.Generator().manual_seed(seed_of(seed, "fragility", prompt.name))
    every = PromptEvaluator.of(model, cut(items.held_out, prompt.position).to(vectors.device))
    few = PromptEvaluator.of(model, cut(items.held_out[:num_eval], prompt.position).to(vectors.device))
    unit = scale_of(model.embed) * math.sqrt(vectors.shape[1])
    losses, success = every.score(vectors[None])
    loss = float(losses)
    found: dict[str, float | None] = {
        "loss": loss,
        "success": float(success),
        "norm": float(vectors.norm()) / unit,
        "f1": fragility.gradient_norm(few, vectors, radius * unit, draws, generator),
        "f2": fragility.noise_rise(few, vectors, radius * unit, draws, generator),
        "f3": fragility.worst_rise(few, vectors, radius * unit, ASCENT_STEPS, generator),
        "r50": fragility.half_radius(few, vectors, unit, draws, generator),
        "curvature": fragility.largest_curvature(few, vectors, PRODUCTS, generator) * unit**2,
        "noise": fragility.noise_tolerated(every, vectors, threshold or 2 * loss, draws, generator),
    }
    return {name: value for name, value in found.items() if value is not None}


def quantized_scores(
    model: Model, items: TargetItems, prompt: SoftPrompt, vectors: Tensor, bits: Sequence[int]
) -> dict[str, float]:
    """Held-out loss and hits of the vectors rounded to each number of bits."""
    held_out = PromptEvaluator.of(model, cut(items.held_out, prompt.position).to(vectors.device))
    found: dict[str, float] = {}
    for each in bits:
        found |= _scores(held_out, fragility.quantized(vectors, each), f"{each}bits")
    return found


def subspace_scores(
    model: Model, items: TargetItems, prompt: SoftPrompt, start: Tensor, subspaces: Sequence[int], config: FitConfig
) -> dict[str, float]:
    """Held-out loss and hits of prompts fitted in random subspaces through `start` (k, width), in the model's units."""
    train = PromptEvaluator.of(model, cut(items.train, prompt.position).to(start.device))
    held_out = PromptEvaluator.of(model, cut(items.held_out, prompt.position).to(start.device))
    found: dict[str, float] = {}
    for numbers in subspaces:
        dimensions = min(numbers, start.numel())
        vectors = fit_in_subspace(model, train, start, dimensions, lr=prompt.learning_rate, config=config)
        found |= _scores(held_out, vectors, f"{numbers}numbers")
    return found


def _scores(evaluator: PromptEvaluator, vectors: Tensor, name: str) -> dict[str, float]:
    losses, success = evaluator.score(vectors[None])
    return {f"loss_{name}": float(losses), f"hits_{name}": float(success) * len(evaluator.texts)}
