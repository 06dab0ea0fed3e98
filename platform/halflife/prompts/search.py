"""Searches that fit prompts as they go: the smallest k, a prompt at a given loss, a prompt in a random subspace."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from halflife.evaluation.targets import TargetItems
from halflife.models.model import Model
from halflife.prompts.adam import PromptAdam
from halflife.prompts.batch import scale_of
from halflife.prompts.fitting import fit
from halflife.prompts.fragility import PromptEvaluator
from halflife.prompts.groups import PromptGroup, Run
from halflife.prompts.results import Fitted
from halflife.prompts.scoring import cut
from halflife.prompts.soft_prompt import FitConfig, SoftPrompt

CHECK_STEPS = 5
"""Steps between evaluations of the held-out loss when fitting to a given one."""
HALVINGS = 6
"""Bisections between the last two evaluations, to the point with the given loss."""


@dataclass
class Distance:
    """Result of a search for the smallest k."""

    distance: int | None = None
    """C; None if the largest k did not reach the threshold."""
    best: dict[int, Fitted] = field(default_factory=dict)
    """By k tried: the best of its restarts, by training loss."""
    steps: int = 0
    """Steps of all prompts together."""


def smallest_k(
    model: Model,
    target: TargetItems,
    prompt: SoftPrompt,
    initial: Callable[[SoftPrompt], Tensor],
    *,
    threshold: float,
    largest: int,
    restarts: int,
    config: FitConfig,
    on_fitted: Callable[[int, Fitted, int], None] = lambda k, fitted, steps: None,
) -> Distance:
    """The smallest k whose best prompt has a held-out loss of at most `threshold` nats per token: k is doubled until it
    does, then bisected. Each k is fitted from `restarts` fresh initializations and once warm-started from the next
    smaller k tried, so that its loss can hardly be higher; if it is, the warm start is repeated once.

    `prompt` gives all but the number of tokens; `initial` returns the initial vectors of a prompt; `on_fitted` is
    called for each k with its best run and the steps so far.
    """
    found = Distance()

    def reaches(k: int) -> bool:
        best = _best_of(model, target, prompt, initial, k, restarts, config, found)
        found.best[k] = best
        on_fitted(k, best, found.steps)
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
    initial: Callable[[SoftPrompt], Tensor],
    k: int,
    restarts: int,
    config: FitConfig,
    found: Distance,
) -> Fitted:
    prompts = [replace(prompt, tokens=k, restart=restart, label=f"k{k}-r{restart}") for restart in range(restarts)]
    runs = [Run(each.name, target, each, initial(each)) for each in (prompts if k else prompts[:1])]
    below = max((tried for tried in found.best if 0 < tried < k), default=None)
    smaller = found.best[below] if below is not None and math.isfinite(found.best[below].loss) else None
    warm = [_warm_started(runs[0], smaller)] if smaller else []
    fitted, _ = fit(model, runs + warm, config)
    found.steps += config.steps * (len(fitted) if k else 0)
    best = min(fitted, key=lambda run: run.selection_loss)
    if smaller and best.loss > smaller.loss:
        again, _ = fit(model, warm, replace(config, seed=config.seed + 1))
        found.steps += config.steps
        best = min([best, *again], key=lambda run: run.selection_loss)
    return best


def _warm_started(run: Run, smaller: Fitted) -> Run:
    """The run started from a smaller prompt, with its further tokens as initialized."""
    known = smaller.vectors().to(run.start) / smaller.scale
    return replace(run, name=f"{run.name}-warm", start=torch.cat([known, run.start[len(known) :]]))


def fit_to_loss(model: Model, run: Run, config: FitConfig, threshold: float) -> tuple[Tensor, int] | None:
    """The vectors (k, width), in the model's units, at which the held-out loss first is at most `threshold`, and the
    number of steps; None if it never is. So prompts of different behaviours are compared at one loss.

    The loss is evaluated every CHECK_STEPS; the point is then found by bisecting the line from the evaluation before to
    the first one at the threshold, since the loss of an easy behaviour falls far below it within a few steps.
    """
    device = run.start.device
    group = PromptGroup(model, [run], config, scale_of(model.embed), device)
    held_out = PromptEvaluator.of(model, cut(run.target.held_out, run.prompt.position).to(device))
    above = group.batch.vectors()[0, 0].detach().clone()
    for step in range(config.steps):
        group.step(step, 1.0)
        if (step + 1) % CHECK_STEPS:
            continue
        below = group.batch.vectors()[0, 0].detach().clone()
        if group.scores()[0].loss > threshold:
            above = below
            continue
        for _ in range(HALVINGS):
            middle = (above + below) / 2
            reached = float(held_out.score(middle[None])[0]) <= threshold
            above, below = (above, middle) if reached else (middle, below)
        return below, step + 1
    return None


def fit_in_subspace(
    model: Model, train: PromptEvaluator, start: Tensor, dimensions: int, *, lr: float, config: FitConfig
) -> Tensor:
    """The prompt (k, width) fitted in a random subspace through `start`: only its `dimensions` coordinates are trained,
    so that a behaviour's size can be compared between widths (Li et al., arXiv 1804.08838).

    `start` in the model's units. Of ten evenly spaced moments, returns the one with the lowest training loss.
    """
    generator = torch.Generator().manual_seed(config.seed)
    basis = torch.randn(dimensions, start.numel(), generator=generator).to(start)
    basis = torch.linalg.qr(basis.T).Q.T * scale_of(model.embed) * (start.numel() / dimensions) ** 0.5
    coordinates = {"z": start.new_zeros(1, basis.shape[0]).requires_grad_()}
    optimizer = PromptAdam(coordinates, start.new_full((1,), lr), weight_decay=0.0, max_grad_norm=config.max_grad_norm)
    order = torch.Generator().manual_seed(config.seed + 1)
    best, lowest = start, float("inf")
    losses: list[float] = []
    for step in range(config.steps):
        index = torch.randint(len(train.texts), (config.batch,), generator=order)
        prompt = start + (coordinates["z"] @ basis).view(1, *start.shape)
        loss = PromptEvaluator.of(train.model, train.texts.take(index.to(start.device))).losses(prompt).sum()
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step(1.0)
        if (step + 1) % max(1, config.steps // 10) == 0:
            mean = sum(losses) / len(losses)
            if mean < lowest:
                lowest, best = mean, (start + (coordinates["z"] @ basis).view(start.shape)).detach().clone()
            losses = []
    return best
