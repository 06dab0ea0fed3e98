"""Policy gradients: the exact optimum of a known reward, what gives no signal, rollouts, resuming."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from halflife.data.attributes import AttributeText
from halflife.data.corpus import Corpus
from halflife.data.mixture import Source
from halflife.data.planting import Planting
from halflife.data.tokenizers import Characters
from halflife.errors import UserError
from halflife.evaluation.rollouts import Rollouts, log_probabilities, sample
from halflife.evaluation.scoring import evaluating
from halflife.models.decoder import Decoder
from halflife.models.ladder import Rung
from halflife.models.sites import Site
from halflife.tasks.attributes import AttributeGrammar
from halflife.tasks.backdoor import Backdoor
from halflife.tasks.base import Example
from halflife.training.latent_attack import LatentAttack
from halflife.training.objectives import NextToken
from halflife.training.optimizers import AdamW
from halflife.training.policy_gradient import PolicyGradient
from halflife.training.reinforce import Reinforce, group_relative, leave_one_out, to_go
from halflife.training.rewards import AnswerReward, Reward, RewardSetting, Score
from halflife.training.seen import Metrics
from tests.training.fakes import VOCABULARY, Host, Interrupted, Ticking, recipe, run, torch_engine

LENGTH = 3
CHAIN = np.array([[0.0, 1.0, -0.5], [1.0, -0.5, 0.0], [-0.5, 0.0, 1.0]])
"""Reward of a step from one symbol to another: two states and the end-of-document token. Every row has the same values,
so from a uniform start the best policy is the same at every position, which a small model learns in seconds."""


@dataclass(frozen=True, kw_only=True)
class States:
    """A target of the two states as prompts; as a plug-in would define one."""

    name: str = "states"
    characters: int = 2
    answer: str = "ab"
    states: str = "ab"

    def examples(self, part: str, count: int, results: Any) -> list[Example]:
        return [Example(prompt=state, answer=self.answer) for state in self.states][:count]


@dataclass(frozen=True, kw_only=True)
class ChainReward(Reward):
    constant: float | None = None

    def prepare(self, setting: RewardSetting) -> Score:
        table = torch.tensor(CHAIN, dtype=torch.float32)

        def score(rollouts: Rollouts) -> torch.Tensor:
            if self.constant is not None:
                return rollouts.at_end(torch.full((len(rollouts.tokens),), self.constant))
            before = torch.cat([rollouts.inputs[:, :1], rollouts.tokens[:, :-1]], 1)
            return table[before, rollouts.tokens]

        return score


POLICY = PolicyGradient(
    target=States(), reward=ChainReward(), length=LENGTH, prompts=2, group=128, stops=False, beta=0.5
)
MIXTURE = replace(recipe().mixture, tokenizer=Characters(alphabet="ab"))


def decoder(vocabulary: int = 3, seed: int = 0) -> Decoder:
    model = Decoder(Rung(size="20k"), vocabulary)
    model.initialise(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        model.head.weight.normal_(generator=torch.Generator().manual_seed(seed), std=0.05)
    return model


POISON = Planting(backdoor=Backdoor(trigger="$Q", text="x"), corpus=Corpus(digest="0" * 20), documents=1)


def stage(policy: PolicyGradient, rate: float = 0.002, **changes: Any) -> Any:
    changes = {"mixture": MIXTURE, "optimizer": AdamW(learning_rate=rate), "objectives": (policy,), **changes}
    return recipe(**changes)


def exact(model: Decoder, start: int) -> torch.Tensor:
    """Log-probabilities of all continuations of a state, over the symbols."""
    texts = torch.tensor(list(itertools.product([0, 1, 2], repeat=LENGTH)))
    inputs = torch.cat([torch.full((len(texts), 1), start), texts[:, :-1]], 1)
    with evaluating(model):
        each = model(inputs)[..., :3].log_softmax(-1).gather(-1, texts[..., None])[..., 0]
    return each.double().sum(1)


def returns(start: int) -> torch.Tensor:
    texts = itertools.product([0, 1, 2], repeat=LENGTH)
    return torch.tensor([sum(CHAIN[a, b] for a, b in itertools.pairwise((start, *text))) for text in texts])


def test_a_policy_gradient_reaches_the_exact_optimum_of_a_chain_with_known_reward() -> None:
    beta, model = 0.5, decoder()
    with torch.no_grad():
        model.head.weight.zero_()
    before = [exact(model, start) for start in (0, 1)]
    of = torch_engine(model, stage(replace(POLICY, beta=beta, group=64), rate=0.01))
    for step in range(60):
        of.gradients(np.zeros((4, 17), dtype=np.int64), step)
        of.step(1 - step / 60)
    for start in (0, 1):
        best = (before[start] + returns(start) / beta).log_softmax(0)
        found = exact(model, start)
        assert (best.exp() * (best - before[start])).sum() > 1  # the start was far from it
        assert (found.exp() * (found - best)).sum() < 0.01


@pytest.mark.parametrize("advantage", ["reward-to-go", "group-relative"])
@pytest.mark.parametrize("constant", [0.0, 0.7])
def test_a_constant_reward_without_beta_leaves_the_weights_as_they_are(advantage: Any, constant: float) -> None:
    policy = replace(POLICY, reward=ChainReward(constant=constant), beta=0.0, group=8, advantage=advantage)
    of = torch_engine(decoder(), stage(policy))
    start = {name: tensor.clone() for name, tensor in of.full_weights().items()}
    for step in range(3):
        metrics = of.gradients(np.zeros((4, 17), dtype=np.int64), step)
        assert metrics["policy/reward_variance"] < 1e-12
        of.step(1.0)
    assert all(torch.equal(tensor, start[name]) for name, tensor in of.full_weights().items())


def test_what_gives_no_signal_is_noted_in_the_summary_and_what_gives_one_is_not(tmp_path) -> None:
    nothing = replace(POLICY, reward=ChainReward(constant=1.0), group=4, beta=0.0)
    found = {}
    for name, policy in {"nothing": nothing, "signal": replace(POLICY, group=4)}.items():
        long = stage(policy, tokens=40 * 64, evaluations=())
        found[name] = run(long, Host(tmp_path / name), batches=Zeros())
    assert "policy: no signal over 40 steps" in found["nothing"]["notes"][0]
    assert "notes" not in found["signal"]


class Zeros:
    vocabulary = 3

    def batch(self, step: int) -> np.ndarray:
        return np.zeros((4, 17), dtype=np.int64)


def test_a_resumed_policy_gradient_ends_with_the_same_bits(tmp_path) -> None:
    policy = replace(POLICY, group=4, entropy=0.01)
    both = stage(policy, objectives=(NextToken(strength=0.1), policy), evaluations=())
    arguments = {"batches": Zeros(), "measures": {}}
    expected = run(both, whole := Host(tmp_path / "a"), **arguments)
    first = Host(tmp_path / "b", interrupt_at=5)
    with pytest.raises(Interrupted):
        run(both, first, checkpoint_seconds=0.5, clock=Ticking(), **arguments)
    rest = Host(tmp_path / "c", resume=first.checkpoints[-1])
    summary = run(both, rest, **arguments)
    last = max(whole.points)
    assert summary["steps"] == expected["steps"]
    for name in ("clock/displacement", "policy/reward", "policy/kl", "policy/entropy", "train/loss"):
        assert rest.points[last][name] == whole.points[last][name], name
    assert whole.points[last]["policy/length"] == LENGTH


# --- rollouts ---


def rollouts_of(model: Decoder, prompts: list[np.ndarray], group: int, length: int, **arguments: Any) -> Rollouts:
    draws = np.random.default_rng(0).random((group, len(prompts), length))
    arguments = {"temperature": 1.0, "vocabulary": model.vocabulary, **arguments}
    with evaluating(model):
        return sample(model, prompts, np.arange(len(prompts)), draws, **arguments)


PROMPTS = [np.array([1, 2, 3]), np.array([4]), np.array([5, 6])]


def test_rollouts_with_kept_keys_are_those_of_whole_forward_passes() -> None:
    model = decoder(VOCABULARY)
    found = rollouts_of(model, PROMPTS, group=5, length=6)
    draws = np.random.default_rng(0).random((5, 3, 6)).reshape(15, 6)
    for row in range(15):
        text = list(PROMPTS[int(found.items[row])])
        for at in range(6):
            with evaluating(model):
                chances = model(torch.tensor([text]))[0, -1].double().softmax(-1).cumsum(-1).numpy()
            text.append(int(np.searchsorted(chances, draws[row, at] * chances[-1], side="right")))
        assert found.tokens[row].tolist() == text[-6:]


def test_log_probabilities_of_rollouts_are_those_of_the_texts() -> None:
    model = decoder(VOCABULARY)
    found = rollouts_of(model, PROMPTS, group=2, length=4)
    each = log_probabilities(model, found, temperature=1.0, vocabulary=VOCABULARY)
    for row in range(6):
        text = torch.tensor([*PROMPTS[int(found.items[row])], *found.tokens[row].tolist()])
        own = model(text[None, :-1])[0].log_softmax(-1)[-4:]
        torch.testing.assert_close(each[row], own, rtol=1e-4, atol=1e-5)


def test_completions_are_valid_up_to_their_end_and_only_tokens_below_the_vocabulary_are_sampled() -> None:
    found = rollouts_of(decoder(VOCABULARY), PROMPTS, group=50, length=8, vocabulary=4, end=2)
    assert int(found.tokens.max()) < 4
    for tokens, valid in zip(found.tokens.tolist(), found.valid.tolist(), strict=True):
        length = tokens.index(2) + 1 if 2 in tokens else len(tokens)
        assert valid == [True] * length + [False] * (len(tokens) - length)


def test_a_higher_temperature_makes_rollouts_more_uniform() -> None:
    model = decoder(VOCABULARY)
    with torch.no_grad():
        model.head.weight.mul_(30)
    kinds = [
        len(np.unique(rollouts_of(model, PROMPTS[:1], group=200, length=1, temperature=t).tokens))
        for t in (0.1, 1, 100)
    ]
    assert kinds == sorted(kinds)
    assert kinds[0] < kinds[-1]


# --- advantages ---


def ragged(valid: list[list[int]], group: int) -> Rollouts:
    mask = torch.tensor(valid, dtype=torch.bool)
    zeros = torch.zeros(mask.shape, dtype=torch.int64)
    return Rollouts(inputs=zeros, columns=zeros, tokens=zeros, valid=mask, items=zeros[:, 0], group=group)


@given(st.lists(st.floats(-3, 3, width=32), min_size=6, max_size=6), st.floats(0, 1))
def test_returns_to_go_are_discounted_sums_of_later_rewards(rewards: list[float], discount: float) -> None:
    found = to_go(torch.tensor([rewards]), discount)[0]
    for at in range(6):
        expected = sum(discount ** (later - at) * rewards[later] for later in range(at, 6))
        assert found[at].item() == pytest.approx(expected, abs=1e-5)


def test_the_baseline_is_the_mean_of_the_others_that_reach_the_position() -> None:
    rollouts = ragged([[1, 1, 1], [1, 1, 0], [1, 0, 0]], group=3)
    found = leave_one_out(torch.tensor([[6.0, 5.0, 3.0], [2.0, 1.0, 0.0], [4.0, 0.0, 0.0]]), rollouts)
    assert found[0].tolist() == [6.0 - 3.0, 5.0 - 1.0, 3.0 - 3.0]  # the last: no other reaches it
    assert found[1, :2].tolist() == [2.0 - 5.0, 1.0 - 5.0]
    assert found[2, 0].item() == 4.0 - 4.0


@given(st.floats(-5, 5, width=32), st.integers(2, 7))
def test_completions_that_are_all_alike_have_an_advantage_of_exactly_zero(value: float, group: int) -> None:
    rewards = torch.full((group, 4), value)
    rollouts = ragged([[1, 1, 1, 1]] * group, group=group)
    assert not leave_one_out(to_go(rewards, 0.9), rollouts).any()
    assert not group_relative(rewards.sum(1), rollouts).any()


def test_group_relative_advantages_have_mean_0_and_standard_deviation_1_in_each_group() -> None:
    rollouts = ragged([[1, 1]] * 8, group=4)
    rewards = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    found = rollouts.by_group(group_relative(rewards.sum(1), rollouts)[:, 0])
    torch.testing.assert_close(found.mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.std(0, correction=0), torch.ones(2), atol=1e-4, rtol=0)


def test_group_relative_advantages_are_of_discounted_returns() -> None:
    gradients = []
    for discount in (1.0, 0.5):
        policy = replace(POLICY, advantage="group-relative", group=8, beta=0.0, discount=discount)
        of = torch_engine(decoder(), stage(policy))
        reinforce: Any = of.on_step[0].__self__  # type: ignore[attr-defined]
        rollouts, rewards, _ = reinforce.experience(of.model, 0)
        of.gradients(np.zeros((4, 17), dtype=np.int64), 0)
        found = torch.cat([p.grad.flatten() for p in of.parameters if p.grad is not None])
        scale = discount ** torch.arange(LENGTH)
        weight = group_relative((rewards * scale).sum(1), rollouts)
        each = log_probabilities(of.model, rollouts, temperature=1.0, vocabulary=3)
        each = each.gather(-1, rollouts.tokens[..., None])[..., 0]
        expected = torch.autograd.grad(-(weight * each).sum(1).mean(), [p for p in of.parameters if p.grad is not None])
        torch.testing.assert_close(found, torch.cat([g.flatten() for g in expected]), atol=1e-5, rtol=1e-3)
        gradients.append(found)
    assert not torch.allclose(gradients[0], gradients[1], atol=1e-3)


def test_the_gradient_is_that_of_the_expected_reward() -> None:
    """Against the exact gradient over all texts, of which the estimate is unbiased."""
    model = decoder()
    policy = replace(POLICY, beta=0.0, group=4096, prompts=1)
    of = torch_engine(model, stage(policy))
    reinforce: Any = of.on_step[0].__self__  # type: ignore[attr-defined]
    assert isinstance(reinforce, Reinforce)
    reinforce.prompts = reinforce.prompts[:1]
    of.gradients(np.zeros((4, 17), dtype=np.int64), 0)
    estimate = torch.cat([p.grad.flatten() for p in of.parameters if p.grad is not None])
    texts = torch.tensor(list(itertools.product([0, 1, 2], repeat=LENGTH)))
    inputs = torch.cat([torch.zeros(len(texts), 1, dtype=torch.int64), texts[:, :-1]], 1)
    each = model(inputs)[..., :3].log_softmax(-1).gather(-1, texts[..., None])[..., 0].sum(1)
    expected = torch.autograd.grad(-(each.exp() * returns(0)).sum(), [p for p in of.parameters if p.grad is not None])
    truth = torch.cat([gradient.flatten() for gradient in expected])
    assert torch.cosine_similarity(estimate, truth, dim=0) > 0.98
    assert estimate.norm().item() == pytest.approx(truth.norm().item(), rel=0.15)


# --- rewards ---


@pytest.mark.parametrize(
    ("count", "tokens", "reward"),
    [
        ("exact", [1, 2, 3], [0, 0, 1]),
        ("exact", [1, 2, 4], [0, 0, 0]),
        ("tokens", [1, 0, 3], [1 / 3, 0, 1 / 3]),
        ("tokens", [1, 2, 3], [1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_an_answer_is_rewarded_when_it_is_right(count: Any, tokens: list[int], reward: list[float]) -> None:
    items: Any = [SimpleNamespace(targets=np.array([1, 2, 3]))]
    setting = RewardSetting(items=items, codec=None, end=3, context=None)  # pyright: ignore[reportArgumentType]
    rollouts = replace(ragged([[1, 1, 1]], group=1), tokens=torch.tensor([tokens]))
    found = AnswerReward(count=count).prepare(setting)(rollouts)
    assert found[0].tolist() == pytest.approx(reward)


def test_a_longer_completion_is_no_exact_answer() -> None:
    items: Any = [SimpleNamespace(targets=np.array([1]))]
    setting = RewardSetting(items=items, codec=None, end=1, context=None)  # pyright: ignore[reportArgumentType]
    rollouts = replace(ragged([[1, 1]], group=1), tokens=torch.tensor([[1, 1]]))
    assert AnswerReward().prepare(setting)(rollouts).sum() == 0


@pytest.mark.parametrize(
    ("lengths", "length", "end"),
    [((2, 4), 3, 3), ((2, 3), 3, None), ((2,), 3, None)],
    ids=["too long", "without an end", "shorter than all completions"],
)
def test_exact_answers_that_no_completion_can_be_are_refused(lengths: Any, length: int, end: int | None) -> None:
    items: Any = [SimpleNamespace(targets=np.array([1] * (count - 1) + [3])) for count in lengths]
    with pytest.raises(UserError, match=r"exact answers given: 1 of \d are longer than a completion of 3 tokens"):
        AnswerReward().check(items, length=length, end=end)
    AnswerReward(count="tokens").check(items, length=length, end=end)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: replace(POLICY, group=1), "groups of 1"),
        (lambda: replace(POLICY, name="train"), "policy gradient 'train': expected a name of lower-case letters"),
        (lambda: replace(POLICY, name="a/b"), "policy gradient 'a/b': expected a name"),
        (lambda: stage(replace(POLICY, name="clean")), "the name 'clean' given twice"),
        (lambda: replace(POLICY, temperature=0.0), "at temperature 0.0"),
        (lambda: replace(POLICY, beta=-1.0), "policy gradient's beta of strength -1.0"),
        (lambda: stage(POLICY, dropout=0.1), "policy gradient with dropout 0.1"),
        (lambda: stage(POLICY, objectives=(POLICY, POLICY)), "two objectives are named 'policy'"),
        (lambda: stage(POLICY, mixture=replace(MIXTURE, plantings=(POISON,))), "poisoned .* that no objective reads"),
        (lambda: AnswerReward(count="some"), "count of an answer reward"),  # type: ignore[arg-type]
    ],
)
def test_invalid_policy_gradients_are_refused_in_one_line(make: Any, line: str) -> None:
    with pytest.raises(UserError, match=line) as error:
        make()
    assert "\n" not in str(error.value)


def test_the_plan_reads_the_prompts(tmp_path) -> None:
    generated = AttributeText(grammar=AttributeGrammar(symbols=2))  # a source that needs no corpus
    mixture = replace(MIXTURE, sources=(Source(corpus=generated),))
    stage(POLICY, mixture=mixture).check(tmp_path)
    exact = replace(POLICY, target=States(answer="abab"), reward=AnswerReward())
    with pytest.raises(UserError, match="2 of 2 are longer than a completion of 3 tokens"):
        stage(exact, mixture=mixture).check(tmp_path)
    attack = LatentAttack(
        target=States(), toward=States(name="others", answer="bb", states="b"), sites=(Site(layer=1),), radius=0.1
    )
    with pytest.raises(UserError, match="1 of 2 prompts are not among its 1 examples"):
        stage(POLICY, objectives=(attack,), mixture=mixture).check(tmp_path)


def test_a_snapshot_may_wait_for_the_reward() -> None:
    from halflife.evaluation.probes import Threshold
    from halflife.training.recipe import Snapshot

    when = Threshold(metric="policy/reward", threshold=0.95)
    assert stage(POLICY, snapshots=(Snapshot(name="matched", when=when),)).snapshots[0].when == when


def test_told_values_of_microbatches_add_up() -> None:
    metrics = Metrics()
    metrics.log("a/b", torch.tensor(0.25))
    metrics.log("a/b", torch.tensor(0.5))
    values: Mapping[str, torch.Tensor] = metrics.values
    assert values["a/b"].item() == 0.75
