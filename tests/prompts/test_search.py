"""Searches that fit as they go, behind a tiny frozen decoder."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from halflife.evaluation.targets import Item, TargetItems
from halflife.prompts.fitting import fit
from halflife.prompts.fragility import PromptEvaluator
from halflife.prompts.groups import Run
from halflife.prompts.scoring import cut
from halflife.prompts.search import fit_in_subspace, fit_to_loss, smallest_k
from halflife.prompts.soft_prompt import FitConfig, SoftPrompt
from halflife.rng import generator
from tests.prompts.samples import VOCABULARY, frozen

CONFIG = FitConfig(steps=40, batch=4)
PROMPT = SoftPrompt(tokens=8, learning_rate=0.3)


def answering(count: int, answer: tuple[int, ...], seed: int) -> list[Item]:
    """The same answer after any prompt."""
    rng = np.random.default_rng(seed)
    targets = np.array(answer)
    found = []
    for _ in range(count):
        prompt = rng.integers(VOCABULARY, size=4)
        tokens = np.concatenate([prompt, targets[:-1]])
        found.append(Item(tokens=tokens, after=np.arange(4, 4 + len(targets)), targets=targets, answer=4))
    return found


def target(*answer: int) -> TargetItems:
    return TargetItems("say", answering(16, answer, 0), answering(12, answer, 1))


def begin(kind: SoftPrompt) -> torch.Tensor:
    drawn = generator("begin", kind.tokens, kind.restart).standard_normal((kind.tokens, width(MODEL)))
    return torch.from_numpy(drawn).float()


def width(model: Any) -> int:
    return model.embed.weight.shape[1]


MODEL = frozen()
HARD = target(3, 17, 5)


def grid(ks: range) -> dict[int, float]:
    """Best held-out loss of two fresh restarts at each k, of the full grid."""
    found = {}
    for k in ks:
        kinds = [SoftPrompt(tokens=k, learning_rate=0.3, restart=r, label=f"k{k}-r{r}") for r in range(2)]
        runs = [Run(kind.name, HARD, kind, begin(kind)) for kind in kinds]
        found[k] = min(fitted.loss for fitted in fit(MODEL, runs, CONFIG)[0])
    return found


def search(threshold: float, largest: int = 8, restarts: int = 2):
    return smallest_k(
        MODEL, HARD, PROMPT, begin, threshold=threshold, largest=largest, restarts=restarts, config=CONFIG
    )  # fmt: skip


@pytest.fixture(scope="module")
def full() -> dict[int, float]:
    return grid(range(1, 9))


def test_the_search_finds_the_grids_distance_within_a_token_at_fewer_steps(full: dict[int, float]) -> None:
    threshold = 0.5 * (full[3] + full[4])
    expected = min(k for k, loss in full.items() if loss <= threshold)
    found = search(threshold)
    assert found.distance is not None
    assert abs(found.distance - expected) <= 1
    assert found.best[found.distance].loss <= threshold


def test_a_search_over_many_tokens_takes_at_most_a_third_of_the_grids_steps(full: dict[int, float]) -> None:
    largest = 32
    found = search(0.5 * (full[2] + full[3]), largest=largest, restarts=1)
    assert found.distance is not None
    assert found.steps <= largest * CONFIG.steps / 3


def test_a_threshold_that_no_prompt_reaches_is_reported_as_not_reached() -> None:
    found = search(1e-9, largest=2, restarts=1)
    assert found.distance is None
    assert sorted(found.best) == [0, 1, 2]


def test_a_restart_that_diverged_is_not_the_best_and_warm_starts_nothing() -> None:
    def wild(kind: SoftPrompt) -> torch.Tensor:
        return begin(kind) * (float("nan") if kind.restart == 0 else 1.0)

    found = smallest_k(MODEL, HARD, PROMPT, wild, threshold=1e-9, largest=4, restarts=2, config=CONFIG)
    assert all(np.isfinite(found.best[k].loss) for k in (1, 2, 4))


def test_no_token_is_needed_where_the_model_reaches_the_threshold_without() -> None:
    found = search(100.0)
    assert (found.distance, found.steps) == (0, 0)


def test_each_k_is_warm_started_once_from_the_next_smaller_and_its_loss_is_hardly_higher() -> None:
    found = search(1e-9, largest=4, restarts=1)
    losses = [found.best[k].loss for k in sorted(found.best)]
    assert all(after <= before + 0.1 for before, after in pairwise(losses[1:]))


def test_a_fit_stopped_at_a_loss_is_at_that_loss() -> None:
    kind = SoftPrompt(tokens=4, learning_rate=0.3)
    run = Run("x", HARD, kind, begin(kind))
    (ended,), _ = fit(MODEL, [run], CONFIG)
    aim = ended.loss + 0.5
    found = fit_to_loss(MODEL, run, CONFIG, aim)
    assert found is not None
    vectors, steps = found
    losses, _ = PromptEvaluator.of(MODEL, cut(HARD.held_out, "start")).score(vectors[None])
    assert aim - 0.6 < float(losses) <= aim
    assert steps < CONFIG.steps
    assert fit_to_loss(MODEL, run, CONFIG, 1e-9) is None


def test_a_subspace_of_more_dimensions_has_a_lower_loss() -> None:
    train, held_out = (PromptEvaluator.of(MODEL, cut(items, "start")) for items in (HARD.train, HARD.held_out))
    start = 0.1 * begin(SoftPrompt(tokens=4))
    config = FitConfig(steps=80, batch=8)
    losses = []
    for numbers in (1, 64):
        moved = fit_in_subspace(MODEL, train, start, numbers, lr=0.3, config=config)
        losses.append(float(held_out.score(moved[None])[0]))
    bare = float(held_out.score(start[None])[0])
    assert losses[1] < losses[0] < bare + 0.3
    assert losses[1] < bare - 0.5
