"""Searches that fit prompts as they go: the smallest k, a prompt at a given loss, the smallest random subspace."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from halflife.models.start import Model
from halflife.prompts.adam import PromptAdam
from halflife.prompts.batch import scale_of
from halflife.prompts.describe import SoftPrompt
from halflife.prompts.fitting import fit
from halflife.prompts.fragility import Behind
from halflife.prompts.groups import FitConfig, PromptGroup, Run, TargetItems
from halflife.prompts.results import Fitted
from halflife.prompts.scoring import cut

CHECKED = 5
"""Steps between looks at the held-out loss on the way to a given one."""
HALVINGS = 6
"""Of the way between the last two looks, to the place at which the loss is the given one."""


@dataclass
class Found:
    """What a search for the smallest k came to."""

    distance: int | None = None
    """C; None when the largest k did not get there."""
    best: dict[int, Fitted] = field(default_factory=dict)
    """By k tried: the best of its restarts, by training loss."""
    steps: int = 0
    """Steps of prompts, all together."""


def smallest(
    model: Model,
    target: TargetItems,
    prompt: SoftPrompt,
    begin: Callable[[SoftPrompt], Tensor],
    *,
    threshold: float,
    largest: int,
    restarts: int,
    course: FitConfig,
    told: Callable[[int, Fitted, int], None] = lambda k, fitted, steps: None,
) -> Found:
    """The smallest k whose best prompt has a held-out loss of at most `threshold` nats a token: k is doubled until it
    does, then bisected. Each k is fitted from `restarts` fresh beginnings and once from the next smaller k tried, so
    that it can hardly do worse; where it does, it is fitted once more from there.

    `prompt` is the kind, its `tokens` are what is searched; `begin` gives the initial vectors of one; `told` is called
    for each k with the best and the steps so far.
    """
    found = Found()

    def reaches(k: int) -> bool:
        best = _best_of(model, target, prompt, begin, k, restarts, course, found)
        found.best[k] = best
        told(k, best, found.steps)
        return best.loss <= threshold

    if reaches(0):
        found.distance = 0
        return found
    low, high = 0, 1
    while not reaches(high):
        if high >= largest:
            return found
        low, high = high, min(2 * high, largest)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    found.distance = high
    return found


def _best_of(
    model: Model,
    target: TargetItems,
    prompt: SoftPrompt,
    begin: Callable[[SoftPrompt], Tensor],
    k: int,
    restarts: int,
    course: FitConfig,
    found: Found,
) -> Fitted:
    kinds = [replace(prompt, tokens=k, restart=restart, label=f"k{k}-r{restart}") for restart in range(restarts)]
    runs = [Run(kind.name, target, kind, begin(kind), course.seed) for kind in (kinds if k else kinds[:1])]
    smaller = max((known for known in found.best if 0 < known < k), default=None)
    if smaller is not None and not math.isfinite(found.best[smaller].loss):
        smaller = None
    warm = _warmer(runs[0], found.best[smaller]) if smaller is not None else None
    fitted, _ = fit(model, runs + ([warm] if warm else []), course)
    found.steps += course.steps * (len(fitted) if k else 0)
    best = min(fitted, key=lambda run: run.chosen_by)
    if warm and smaller is not None and best.loss > found.best[smaller].loss:
        again, _ = fit(model, [_warmer(runs[0], found.best[smaller])], replace(course, seed=course.seed + 1))
        found.steps += course.steps
        best = min([best, *again], key=lambda run: run.chosen_by)
    return best


def _warmer(run: Run, smaller: Fitted) -> Run:
    """The run begun from a smaller prompt, its further tokens as they would begin."""
    known = smaller.vectors().to(run.start) / smaller.scale
    return replace(run, name=f"{run.name}-warm", start=torch.cat([known, run.start[len(known) :]]))


def at_loss(model: Model, run: Run, course: FitConfig, threshold: float) -> tuple[Tensor, int] | None:
    """The vectors (k, width), in the model's units, at which the held-out loss first is at most `threshold`, and the
    steps that took; None where it never was. So prompts of different behaviours are compared at one loss.

    The fit is looked at now and then; between the look before and the first at the threshold the place is found by
    bisection of the line, as an easy behaviour falls far below within a few steps.
    """
    device = run.start.device
    pack = PromptGroup(model, [run], course, scale_of(model.embed), device)
    held_out = Behind.of(model, cut(run.target.held_out, run.prompt.position).to(device))
    above = pack.bank.vectors()[0, 0].detach().clone()
    for step in range(course.steps):
        pack.step(step, 1.0)
        if (step + 1) % CHECKED:
            continue
        below = pack.bank.vectors()[0, 0].detach().clone()
        if pack.scores()[0].loss > threshold:
            above = below
            continue
        for _ in range(HALVINGS):
            middle = (above + below) / 2
            reached = float(held_out.score(middle[None])[0]) <= threshold
            above, below = (above, middle) if reached else (middle, below)
        return below, step + 1
    return None


def in_subspace(
    model: Model, train: Behind, start: Tensor, dimensions: int, *, rate: float, course: FitConfig
) -> Tensor:
    """The prompt (k, width) fitted in a random subspace through `start`: only its `dimensions` coordinates are trained,
    so a behaviour's size can be compared between widths (Li et al., arXiv 1804.08838).

    `start` in the model's units. Of ten moments, evenly apart, the one with the least training loss is given.
    """
    generator = torch.Generator().manual_seed(course.seed)
    basis = torch.randn(dimensions, start.numel(), generator=generator).to(start)
    basis = torch.linalg.qr(basis.T).Q.T * scale_of(model.embed) * (start.numel() / dimensions) ** 0.5
    coordinates = {"z": start.new_zeros(1, basis.shape[0]).requires_grad_()}
    optimizer = PromptAdam(
        coordinates, start.new_full((1,), rate), weight_decay=0.0, max_grad_norm=course.max_grad_norm
    )
    order = torch.Generator().manual_seed(course.seed + 1)
    best, least = start, float("inf")
    seen: list[float] = []
    for step in range(course.steps):
        at = torch.randint(len(train.texts), (course.batch,), generator=order)
        prompt = start + (coordinates["z"] @ basis).view(1, *start.shape)
        loss = Behind.of(train.model, train.texts.take(at.to(start.device))).losses(prompt).sum()
        loss.backward()
        seen.append(float(loss.detach()))
        optimizer.step(1.0)
        if (step + 1) % max(1, course.steps // 10) == 0:
            mean = sum(seen) / len(seen)
            if mean < least:
                least, best = mean, (start + (coordinates["z"] @ basis).view(start.shape)).detach().clone()
            seen = []
    return best
