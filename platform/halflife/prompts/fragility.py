"""How easily a fitted prompt breaks, and how few bits it needs: numbers from a prompt, a frozen model and texts.

Easy behaviours reach a lower loss and so have smaller gradients: compare prompts at matched loss and matched radius. A
radius is in norms of one token embedding (the embeddings' root mean square times the root of the width), the same for
every prompt.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from halflife.models.kv_cache import KVCache
from halflife.models.model import Model
from halflife.prompts.scoring import Texts, prefill, score_prompts, score_targets

BATCH = 8
"""Perturbed prompts evaluated at once."""
BISECTIONS = 7
"""Halvings of a factor of 2 ** 16 in radius or noise: to a factor of 1.09."""
SMALLEST, LARGEST = 2.0**-8, 2.0**8
"""Range of radii and noise searched, in units of what they perturb."""


@dataclass(frozen=True)
class PromptEvaluator:
    """Evaluates prompts (prompts, k, width) on texts with a frozen model in evaluation mode."""

    model: Model
    texts: Texts
    past: KVCache | None

    @classmethod
    def of(cls, model: Model, texts: Texts) -> PromptEvaluator:
        return cls(model, texts, prefill(model, texts))

    def losses(self, prompts: Tensor) -> Tensor:
        """(prompts,): nats per target token, over all texts together; differentiable."""
        return score_targets(self.model, prompts[:, None], _lengths(prompts), self.texts, self.past).nats.mean(1)

    def score(self, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """(prompts,) losses and fractions of texts with every target right, without gradients."""
        found = [
            score_prompts(self.model, lambda _, part=part: part[:, None], _lengths(part), self.texts)
            for part in prompts.detach().split(BATCH)
        ]
        losses = torch.cat([torch.from_numpy(part.losses) for part in found])
        return losses, torch.cat([torch.from_numpy(part.correct).double().mean(1) for part in found])


def _lengths(prompts: Tensor) -> Tensor:
    return torch.full((len(prompts),), prompts.shape[1], device=prompts.device)


def on_sphere(prompt: Tensor, radius: float, draws: int, generator: torch.Generator) -> Tensor:
    """(draws, k, width): uniform directions of norm `radius`."""
    drawn = torch.randn(draws, *prompt.shape, generator=generator).to(prompt)
    return radius * drawn / drawn.flatten(1).norm(dim=1)[:, None, None]


def gradient_norm(
    evaluator: PromptEvaluator, prompt: Tensor, radius: float, draws: int, generator: torch.Generator
) -> float:
    """F1: E ||dL/de (e + eps)|| ||e||, eps on the sphere of `radius`: how steep the loss is around the prompt
    (k, width), for a change by its own norm."""
    norms = []
    for noise in on_sphere(prompt, radius, draws, generator).split(BATCH):
        moved = (prompt + noise).requires_grad_()
        (gradient,) = torch.autograd.grad(evaluator.losses(moved).sum(), moved)
        norms.append(gradient.flatten(1).norm(dim=1))
    return float(torch.cat(norms).mean() * prompt.norm())


def noise_rise(
    evaluator: PromptEvaluator, prompt: Tensor, radius: float, draws: int, generator: torch.Generator
) -> float:
    """F2: E [L(e + eps)] - L(e), eps on the sphere of `radius`."""
    losses, _ = evaluator.score(torch.cat([prompt[None], prompt + on_sphere(prompt, radius, draws, generator)]))
    return float(losses[1:].mean() - losses[0])


def worst_rise(
    evaluator: PromptEvaluator, prompt: Tensor, radius: float, steps: int, generator: torch.Generator
) -> float:
    """F3: the largest increase of the loss within `radius`, by projected gradient ascent from four starting points
    (Madry et al., arXiv 1706.06083); a lower bound."""
    with torch.no_grad():
        moved = on_sphere(prompt, 0.5 * radius, 4, generator)
    for _ in range(steps):
        at = (prompt + moved).requires_grad_()
        (gradient,) = torch.autograd.grad(evaluator.losses(at).sum(), at)
        size = gradient.flatten(1).norm(dim=1).clamp_min(1e-20)[:, None, None]
        moved = moved + 0.25 * radius * gradient / size
        moved = moved * (radius / moved.flatten(1).norm(dim=1)).clamp(max=1.0)[:, None, None]
    losses, _ = evaluator.score(torch.cat([prompt[None], prompt + moved]))
    return float(losses[1:].max() - losses[0])


def half_radius(
    evaluator: PromptEvaluator, prompt: Tensor, unit: float, draws: int, generator: torch.Generator
) -> float | None:
    """r50, in `unit`s: the smallest radius at which success, over random directions, is at most half of the prompt's
    own, by bisection; infinite if there is none up to LARGEST, None if the prompt has no success."""
    _, success = evaluator.score(prompt[None])
    if not float(success):
        return None
    directions = on_sphere(prompt, unit, draws, generator)

    def breaks(radius: float) -> bool:
        _, found = evaluator.score(prompt + radius * directions)
        return float(found.mean()) <= 0.5 * float(success)

    return smallest_where(breaks)


def noise_tolerated(
    evaluator: PromptEvaluator, prompt: Tensor, threshold: float, draws: int, generator: torch.Generator
) -> float | None:
    """The largest standard deviation of Gaussian noise, over the root mean square of the prompt's own numbers, at which
    the mean loss is still at most `threshold`; None if the prompt itself is above it."""
    losses, _ = evaluator.score(prompt[None])
    if float(losses) > threshold:
        return None
    unit = prompt.square().mean().sqrt()
    noise = torch.randn(draws, *prompt.shape, generator=generator).to(prompt) * unit

    def exceeds(size: float) -> bool:
        found, _ = evaluator.score(prompt + size * noise)
        return float(found.mean()) > threshold

    return smallest_where(exceeds)


def smallest_where(breaks: Callable[[float], bool]) -> float:
    """The smallest size between SMALLEST and LARGEST at which `breaks` holds, by bisection of its logarithm; infinite
    if it never does."""
    if not breaks(LARGEST):
        return math.inf
    low, high = math.log2(SMALLEST), math.log2(LARGEST)
    if breaks(SMALLEST):
        return SMALLEST
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if breaks(2.0**middle) else (middle, high)
    return 2.0**high


def largest_curvature(evaluator: PromptEvaluator, prompt: Tensor, steps: int, generator: torch.Generator) -> float:
    """lambda_max: the largest eigenvalue of the loss's Hessian with respect to the prompt, by Lanczos with `steps`
    Hessian-vector products in float64.

    Second derivatives need torch's own operations and the math attention kernel, which supports double precision.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    model = copy.deepcopy(evaluator.model).to(torch.float64)
    with sdpa_kernel(SDPBackend.MATH):
        exact = PromptEvaluator.of(model, evaluator.texts)
        at = prompt.double().requires_grad_()
        (slope,) = torch.autograd.grad(exact.losses(at[None]).sum(), at, create_graph=True)
        size = prompt.numel()
        vector = torch.randn(size, generator=generator).to(at)
        basis, diagonal, off_diagonal = [vector / vector.norm()], [], []
        for step in range(min(steps, size)):
            (product,) = torch.autograd.grad(slope.flatten() @ basis[-1], at, retain_graph=True)
            left = product.flatten()
            diagonal.append(float(left @ basis[-1]))
            for known in basis:  # full reorthogonalization
                left = left - (left @ known) * known
            norm = float(left.norm())
            if norm < 1e-10 or step + 1 == min(steps, size):
                break
            off_diagonal.append(norm)
            basis.append(left / norm)
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    for row, value in enumerate(off_diagonal):
        matrix[row, row + 1] = matrix[row + 1, row] = value
    return float(torch.linalg.eigvalsh(matrix)[-1])


def quantized(prompt: Tensor, bits: int) -> Tensor:
    """Each number rounded to one of 2 ** bits values, evenly spaced between the prompt's smallest and largest."""
    low, high = prompt.min(), prompt.max()
    if bits < 1 or high == low:
        raise ValueError(f"{bits} bits per number of a prompt from {low} to {high}: expected 1 or more, and a range")
    step = (high - low) / (2**bits - 1)
    return low + ((prompt - low) / step).round() * step
