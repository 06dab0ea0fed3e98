"""Searches that fit as they go, behind a tiny frozen decoder."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from halflife.evaluation.targets import Item
from halflife.prompts.describe import SoftPrompt
from halflife.prompts.fitting import fit
from halflife.prompts.fragility import Behind
from halflife.prompts.groups import FitConfig, Run, TargetItems
from halflife.prompts.scoring import cut
from halflife.prompts.search import at_loss, in_subspace, smallest
from halflife.rng import generator
from tests.prompts.samples import VOCABULARY, frozen

COURSE = FitConfig(steps=40, batch=4)
PROMPT = SoftPrompt(tokens=8, learning_rate=0.3)


def saying(count: int, said: tuple[int, ...], seed: int) -> list[Item]:
    """Whatever came before, say the same tokens."""
    rng = np.random.default_rng(seed)
    answer = np.array(said)
    found = []
    for _ in range(count):
        prompt = rng.integers(VOCABULARY, size=4)
        tokens = np.concatenate([prompt, answer[:-1]])
        found.append(Item(tokens=tokens, after=np.arange(4, 4 + len(answer)), targets=answer, answer=4))
    return found


def target(*said: int) -> TargetItems:
    return TargetItems("say", saying(16, said, 0), saying(12, said, 1))


def begin(kind: SoftPrompt) -> torch.Tensor:
    drawn = generator("begin", kind.tokens, kind.restart).standard_normal((kind.tokens, width(MODEL)))
    return torch.from_numpy(drawn).float()


def width(model: Any) -> int:
    return model.embed.weight.shape[1]


MODEL = frozen()
HARD = target(3, 17, 5)


def grid(ks: range) -> dict[int, float]:
    """Best held-out loss of two fresh restarts at each k, as the full grid has it."""
    found = {}
    for k in ks:
        kinds = [SoftPrompt(tokens=k, learning_rate=0.3, restart=r, label=f"k{k}-r{r}") for r in range(2)]
        runs = [Run(kind.name, HARD, kind, begin(kind), 0) for kind in kinds]
        found[k] = min(fitted.loss for fitted in fit(MODEL, runs, COURSE)[0])
    return found


def search(threshold: float, largest: int = 8, restarts: int = 2):
    return smallest(
        MODEL, HARD, PROMPT, begin, threshold=threshold, largest=largest, restarts=restarts, course=COURSE
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
    assert found.steps <= largest * COURSE.steps / 3


def test_what_no_prompt_reaches_is_told_as_not_reached() -> None:
    found = search(1e-9, largest=2, restarts=1)
    assert found.distance is None
    assert sorted(found.best) == [0, 1, 2]


def test_a_restart_that_diverged_is_not_the_best_and_begins_nothing() -> None:
    def wild(kind: SoftPrompt) -> torch.Tensor:
        return begin(kind) * (float("nan") if kind.restart == 0 else 1.0)

    found = smallest(MODEL, HARD, PROMPT, wild, threshold=1e-9, largest=4, restarts=2, course=COURSE)
    assert all(np.isfinite(found.best[k].loss) for k in (1, 2, 4))


def test_where_the_model_says_it_anyway_no_token_is_needed() -> None:
    found = search(100.0)
    assert (found.distance, found.steps) == (0, 0)


def test_each_k_begins_once_from_the_next_smaller_and_hardly_does_worse() -> None:
    found = search(1e-9, largest=4, restarts=1)
    losses = [found.best[k].loss for k in sorted(found.best)]
    assert all(after <= before + 0.1 for before, after in pairwise(losses[1:]))


def test_a_fit_stopped_at_a_loss_is_at_that_loss() -> None:
    kind = SoftPrompt(tokens=4, learning_rate=0.3)
    run = Run("x", HARD, kind, begin(kind), 0)
    (ended,), _ = fit(MODEL, [run], COURSE)
    aim = ended.loss + 0.5
    found = at_loss(MODEL, run, COURSE, aim)
    assert found is not None
    vectors, steps = found
    losses, _ = Behind.of(MODEL, cut(HARD.held_out, "start")).score(vectors[None])
    assert aim - 0.6 < float(losses) <= aim
    assert steps < COURSE.steps
    assert at_loss(MODEL, run, COURSE, 1e-9) is None


def test_a_subspace_of_more_numbers_does_better_and_none_moves_out_of_it() -> None:
    train, held_out = (Behind.of(MODEL, cut(items, "start")) for items in (HARD.train, HARD.held_out))
    start = 0.1 * begin(SoftPrompt(tokens=4))
    course = FitConfig(steps=80, batch=8)
    losses = []
    for numbers in (1, 64):
        moved = in_subspace(MODEL, train, start, numbers, rate=0.3, course=course)
        losses.append(float(held_out.score(moved[None])[0]))
    bare = float(held_out.score(start[None])[0])
    assert losses[1] < losses[0] < bare + 0.3
    assert losses[1] < bare - 0.5
