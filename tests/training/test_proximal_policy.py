"""Proximal policy optimization: the policy gradient at first, clipped after, the same optimum, and resumed alike."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from halflife.errors import UserError
from halflife.training.policy_gradient import PolicyGradient
from halflife.training.proximal_policy import ProximalPolicy
from halflife.training.reinforce import Proximal
from halflife.training.seen import Metrics
from tests.training.fakes import Host, Interrupted, Ticking, run, torch_engine
from tests.training.test_policy_gradient import POLICY, Zeros, decoder, exact, returns, stage


def proximal(policy: PolicyGradient = POLICY, **changes: Any) -> ProximalPolicy:
    return ProximalPolicy(**{each.name: getattr(policy, each.name) for each in fields(policy)}, **changes)


NOTHING = np.zeros((4, 17), dtype=np.int64)


def test_it_reaches_the_exact_optimum_of_a_chain_with_known_reward() -> None:
    beta, model = 0.5, decoder()
    with torch.no_grad():
        model.head.weight.zero_()
    before = [exact(model, start) for start in (0, 1)]
    of = torch_engine(model, stage(proximal(replace(POLICY, beta=beta, group=64)), rate=0.01))
    for step in range(48):
        of.gradients(NOTHING, step)
        of.step(1 - step / 48)
    for start in (0, 1):
        best = (before[start] + returns(start) / beta).log_softmax(0)
        found = exact(model, start)
        assert (best.exp() * (best - before[start])).sum() > 1  # the start was far from it
        assert (found.exp() * (found - best)).sum() < 0.1


def test_its_first_step_is_the_policy_gradients() -> None:
    gradients = []
    for policy in (POLICY, proximal(minibatches=1)):
        of = torch_engine(decoder(), stage(policy))
        of.gradients(NOTHING, 0)
        gradients.append([p.grad.clone() for p in of.model.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-7)


@pytest.mark.parametrize(("advantage", "log_ratio", "slope"), [
    (1.0, 0.5, 0.0), (1.0, -0.5, 1.0), (-1.0, -0.5, 0.0), (-1.0, 0.5, -1.0), (1.0, 0.1, 1.0), (-1.0, 0.1, -1.0),
])  # fmt: skip
def test_what_moved_too_far_along_its_advantage_has_no_gradient(
    advantage: float, log_ratio: float, slope: float
) -> None:
    own = torch.full((2, 1), log_ratio, requires_grad=True)
    of = SimpleNamespace(cycle=4, minibatches=1, order=0, clip=0.2, strength=1.0, entropy=0.0, name="policy",
                        temperature=1.0)  # fmt: skip
    learner = Proximal(of, [], lambda rollouts: rollouts, length=1, end=None, vocabulary=3, reference=None, key=(0,))
    learner._own = lambda model, rollouts: (own, torch.zeros(2))  # type: ignore[method-assign]
    valid = torch.ones(2, 1, dtype=torch.bool)
    rollouts: Any = SimpleNamespace(chosen=lambda rows: SimpleNamespace(valid=valid))
    kept: Any = SimpleNamespace(
        rollouts=rollouts, own=torch.zeros(2, 1), advantages=torch.full((2, 1), advantage), values={}
    )
    learner.kept = kept
    learner.loss(None, None, 1, Metrics()).backward()  # type: ignore[arg-type]
    assert own.grad is not None
    assert float(-own.grad.sum() / np.exp(log_ratio)) == pytest.approx(slope)


def test_checkpoints_are_made_between_cycles_and_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    policy = proximal(replace(POLICY, group=4), minibatches=1, epochs=4)
    both = stage(policy, evaluations=())
    arguments: dict[str, Any] = {"batches": Zeros(), "measures": {}}
    run(both, whole := Host(tmp_path / "a"), **arguments)
    first = Host(tmp_path / "b", interrupt_at=8)
    with pytest.raises(Interrupted):
        run(both, first, checkpoint_seconds=0.5, clock=Ticking(), **arguments)
    assert [each.name for each in first.checkpoints] == ["resume-4", "resume-8"]
    rest = Host(tmp_path / "c", resume=first.checkpoints[-1])
    run(both, rest, **arguments)
    last = max(whole.points)
    for name in ("clock/displacement", "policy/reward", "policy/kl", "policy/clipped"):
        assert rest.points[last][name] == whole.points[last][name], name


def test_the_order_has_a_seed_of_its_own() -> None:
    weights = []
    for order in (0, 0, 1):
        of = torch_engine(decoder(), stage(proximal(replace(POLICY, group=8), order=order)))
        for step in range(4):
            of.gradients(NOTHING, step)
            of.step(1.0)
        weights.append(torch.cat([each.flatten() for each in of.full_weights().values()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(("changes", "line"), [
    ({"epochs": 0}, "0 epochs"), ({"minibatches": 1000}, "at most a minibatch for each of 256"),
    ({"clip": 1.0}, "clipped at 1.0"),
])  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line) as error:
        proximal(**changes)
    assert "\n" not in str(error.value)
