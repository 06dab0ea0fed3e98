"""A MeasureSoftPrompts at work."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor

from halflife.data.codecs import load
from halflife.models.start import Model
from halflife.prompts import fragility
from halflife.prompts import results as prompt_results
from halflife.prompts.batch import scale_of
from halflife.prompts.describe import SoftPrompt
from halflife.prompts.description import PromptMeasurement, read_items
from halflife.prompts.fragility import Behind
from halflife.prompts.groups import FitConfig, Run, TargetItems
from halflife.prompts.runs import Beginning, frozen
from halflife.prompts.scoring import cut
from halflife.prompts.search import at_loss, in_subspace
from halflife.rng import seed_of
from halflife.stages.train import Checkpoint
from halflife.store.stage import Context

ASCENTS, PRODUCTS = 20, 12
"""Steps of gradient ascent for F3; Hessian-vector products for the curvature."""


def measure(stage: PromptMeasurement, context: Context) -> dict[str, Any]:
    """Measure every run, one after another; the summary has each run's numbers."""
    fit, began = stage.fit, time.monotonic()
    codec = load(fit.codec, context.results)
    folder = context.parent(fit.model.stage) if isinstance(fit.model, Checkpoint) else None
    model = frozen(fit, codec.size, folder, context.device)
    fitted = prompt_results.read(context.parent(fit) / "final")
    known = {prompt.name: prompt for prompt in fit.prompts}
    runs: dict[str, dict[str, float]] = {}
    for target in fit.targets:
        items = read_items(fit, target, codec, context.results)
        for name in stage.prompts:
            prompt, run = known[name], fit.run_name(target, known[name])
            key = (fit.seed, "soft prompt", target.name, prompt.tokens, prompt.restart)
            start = Beginning(model, codec, items, key, {}).vectors(prompt)
            made = Run(run, items, prompt, start, seed_of(*key, "network"))
            vectors, steps = fitted[run].vectors().to(context.device), fit.steps
            if stage.matched is not None:
                reached = at_loss(model, made, _course(stage), stage.matched)
                if reached is None:
                    continue
                vectors, steps = reached
            if not vectors.isfinite().all():  # it diverged: nothing is there to be measured
                continue
            found = {"matched_steps": float(steps), "numbers": float(vectors.numel())}
            if stage.fragile:
                found |= _fragility(stage, model, items, prompt, vectors)
            if stage.bits:
                found |= _quantised(stage, model, items, prompt, vectors)
            if stage.subspaces:
                found |= _subspaces(stage, model, items, prompt, scale_of(model.embed) * start)
            runs[run] = {name: value for name, value in found.items() if math.isfinite(value)}
    context.record(0, {f"{run}/{name}": value for run, found in runs.items() for name, value in found.items()})
    seconds = time.monotonic() - began
    context.computing(seconds)
    return {"runs": runs, "tokens": stage.cost.tokens, "seconds_training": seconds}


def _course(stage: PromptMeasurement) -> FitConfig:
    fit = stage.fit
    return FitConfig(
        steps=fit.steps, batch=fit.batch, weight_decay=fit.weight_decay, max_grad_norm=fit.max_grad_norm, seed=fit.seed
    )


def _fragility(
    stage: PromptMeasurement, model: Model, items: TargetItems, prompt: SoftPrompt, vectors: Tensor
) -> dict[str, float]:
    generator = torch.Generator().manual_seed(seed_of(stage.fit.seed, "fragility", prompt.name))
    whole = Behind.of(model, cut(items.held_out, prompt.position).to(vectors.device))
    some = Behind.of(model, cut(items.held_out[: stage.num_eval], prompt.position).to(vectors.device))
    unit = scale_of(model.embed) * math.sqrt(vectors.shape[1])
    radius, draws = stage.radius * unit, stage.draws
    losses, success = whole.score(vectors[None])
    loss = float(losses)
    found: dict[str, float | None] = {
        "loss": loss,
        "success": float(success),
        "norm": float(vectors.norm()) / unit,
        "f1": fragility.gradient_norm(some, vectors, radius, draws, generator),
        "f2": fragility.noise_rise(some, vectors, radius, draws, generator),
        "f3": fragility.worst_rise(some, vectors, radius, ASCENTS, generator),
        "r50": fragility.half_radius(some, vectors, unit, draws, generator),
        "curvature": fragility.largest_curvature(some, vectors, PRODUCTS, generator) * unit**2,
        "noise": fragility.noise_tolerated(whole, vectors, stage.threshold or 2 * loss, draws, generator),
    }
    return {name: value for name, value in found.items() if value is not None}


def _quantised(
    stage: PromptMeasurement, model: Model, items: TargetItems, prompt: SoftPrompt, vectors: Tensor
) -> dict[str, float]:
    held_out = Behind.of(model, cut(items.held_out, prompt.position).to(vectors.device))
    found: dict[str, float] = {}
    for bits in stage.bits:
        found |= _asked(held_out, fragility.quantised(vectors, bits), f"{bits}bits")
    return found


def _subspaces(
    stage: PromptMeasurement, model: Model, items: TargetItems, prompt: SoftPrompt, start: Tensor
) -> dict[str, float]:
    train = Behind.of(model, cut(items.train, prompt.position).to(start.device))
    held_out = Behind.of(model, cut(items.held_out, prompt.position).to(start.device))
    found: dict[str, float] = {}
    for numbers in stage.subspaces:
        dimensions = min(numbers, start.numel())
        vectors = in_subspace(model, train, start, dimensions, rate=prompt.learning_rate, course=_course(stage))
        found |= _asked(held_out, vectors, f"{numbers}numbers")
    return found


def _asked(behind: Behind, vectors: Tensor, what: str) -> dict[str, float]:
    losses, success = behind.score(vectors[None])
    return {f"loss_{what}": float(losses), f"hits_{what}": float(success) * len(behind.texts)}
