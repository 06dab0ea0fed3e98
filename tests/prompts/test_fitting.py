from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from halflife.evaluation.targets import Judged
from halflife.prompts import groups
from halflife.prompts.batch import scale_of
from halflife.prompts.fitting import fit
from halflife.prompts.generation import generate, texts_to_continue
from halflife.prompts.groups import PromptGroup, grouped
from halflife.prompts.scoring import cut, prefill, score_targets
from halflife.prompts.soft_prompt import Direct, InputModel, Linear, SoftPrompt
from halflife.training.schedules import Schedule
from tests.prompts.samples import CONFIG, VOCABULARY, frozen, items, run, target

MODELS: tuple[InputModel, ...] = (Direct(), Linear())


@pytest.fixture(scope="module")
def model() -> Any:
    return frozen()


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "CPU_GROUP_BYTES", 2**40)


@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: type(kind).__name__)
@pytest.mark.parametrize("position", ["start", "answer", 2])
def test_a_prompt_fitted_alone_and_in_a_group_is_the_same(
    model: Any, kind: InputModel, position: Any, together: None
) -> None:
    made = target(conditions=2)
    prompts = [
        SoftPrompt(tokens=k, position=position, model=kind, learning_rate=lr, restart=restart)
        for k, lr, restart in ((1, 0.03, 0), (5, 0.1, 0), (5, 0.1, 1), (2, 0.01, 0))
    ]
    runs = [run(model, prompt, made) for prompt in prompts]
    fitted, _ = fit(model, runs, CONFIG)
    for each, found in zip(runs, fitted, strict=True):
        (alone,), _ = fit(model, [each], CONFIG)
        np.testing.assert_allclose(found.nats, alone.nats, rtol=1e-5, atol=1e-5)
        for name, value in alone.parameters.items():
            torch.testing.assert_close(found.parameters[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [Direct(), Linear()], ids=lambda kind: type(kind).__name__)
def test_targets_that_share_a_batch_are_fitted_as_if_alone(model: Any, kind: InputModel, together: None) -> None:
    targets = [target(name, conditions=1, seed=seed) for seed, name in enumerate("abc")]
    prompts = [SoftPrompt(tokens=k, position="answer", model=kind) for k in (1, 4)]
    runs = [run(model, prompt, of) for of in targets for prompt in prompts]
    formed = grouped(runs, CONFIG, model.architecture, VOCABULARY, torch.device("cpu"))
    assert [sorted(each.name for each in group) for group in formed] == [sorted(each.name for each in runs)]
    found, _ = fit(model, runs, CONFIG)
    for each, of_group in zip(runs, found, strict=True):
        (alone,), _ = fit(model, [each], CONFIG)
        np.testing.assert_allclose(of_group.nats, alone.nats, rtol=1e-5, atol=1e-5)


def test_a_group_stays_within_its_bytes_and_every_run_is_in_one(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [
        run(model, SoftPrompt(tokens=k, position=position), of)
        for of in (target("a"), target("b", seed=1), target("long", longest=40))
        for k in (0, 1, 3, 8)
        for position in ("start", "answer")
    ]
    each = model.architecture.activation_bytes(VOCABULARY) * CONFIG.batch
    for rows in (1, 30, 100, 10_000):
        monkeypatch.setattr(groups, "CPU_GROUP_BYTES", rows * each)
        formed = grouped(runs, CONFIG, model.architecture, VOCABULARY, torch.device("cpu"))
        assert sorted(one.name for group in formed for one in group) == sorted(one.name for one in runs)
        for group in formed:
            longest = max(one.prompt.tokens for one in group) + max(one.target.longest for one in group)
            assert len(group) == 1 or len(group) * longest <= rows
            lengths = sorted(one.target.longest for one in group)
            assert lengths[-1] <= 1.25 * lengths[0]


@settings(max_examples=25)
@given(ks=st.lists(st.integers(0, 7), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_padding_to_the_largest_k_changes_no_score(ks: list[int], seed: int) -> None:
    model, texts = frozen(seed=seed % 3), cut(items(3, seed), "start")
    width, longest = model.embed.weight.shape[1], max(ks)
    drawn = torch.randn(len(ks), 1, longest, width, generator=torch.Generator().manual_seed(seed))
    drawn[torch.arange(longest) >= torch.tensor(ks)[:, None, None]] = 1e3  # arbitrary padding
    together = score_targets(model, drawn, torch.tensor(ks), texts).nats
    for at, k in enumerate(ks):
        alone = score_targets(model, drawn[at : at + 1, :, :k], torch.tensor([k]), texts).nats[0]
        torch.testing.assert_close(together[at], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("position", ["answer", 2])
def test_shared_keys_and_values_change_no_loss_and_no_gradient(model: Any, position: Any) -> None:
    made, ks = items(4), torch.tensor([1, 3])
    texts = cut(made, position)
    prompts = torch.randn(2, 1, 3, model.embed.weight.shape[1], generator=torch.Generator().manual_seed(0))
    prompts.requires_grad_()
    shared = score_targets(model, prompts, ks, texts, prefill(model, texts)).nats
    (gradient,) = torch.autograd.grad(shared.sum(), prompts)
    for at, k in enumerate(ks.tolist()):
        for item, found in zip(
            range(4), shared[at].split([int((row >= 0).sum()) for row in texts.target_positions]), strict=True
        ):
            tokens, place = torch.from_numpy(made[item].tokens), int(texts.before_lengths[item])
            row = model.embed(tokens)
            row = torch.cat([row[:place], prompts[at, 0, :k], row[place:]])
            afters = [after for after in made[item].after.tolist() if after >= place]
            logits = model.logits(model.hidden(row[None])[0, [after + k - 1 for after in afters]])
            correct = [
                t
                for t, after in zip(made[item].targets.tolist(), made[item].after.tolist(), strict=True)
                if after >= place
            ]
            expected = torch.nn.functional.cross_entropy(logits, torch.tensor(correct), reduction="none")
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
            (part,) = torch.autograd.grad(expected.sum(), prompts)
            gradient = gradient - part
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-4)


@pytest.mark.parametrize("position", ["start", "answer"])
def test_a_run_that_diverges_does_not_affect_the_others(model: Any, position: Any, together: None) -> None:
    lrs = {"sound": 0.03, "wild": 1e38}
    prompts = [SoftPrompt(tokens=2, position=position, learning_rate=lr, label=name) for name, lr in lrs.items()]
    runs = [run(model, prompt, target()) for prompt in prompts]
    (sound, wild), _ = fit(model, runs, CONFIG)
    (alone,), _ = fit(model, runs[:1], CONFIG)
    np.testing.assert_allclose(sound.nats, alone.nats, rtol=1e-5, atol=1e-5)
    assert (wild.summary()["diverged"], wild.summary()["loss"], wild.train_loss) == (True, None, None)
    assert not sound.summary()["diverged"]


def test_the_model_has_no_gradients_and_does_not_change(model: Any) -> None:
    before = {name: value.clone() for name, value in model.named_parameters()}
    fit(model, [run(model, SoftPrompt(tokens=2), target())], CONFIG)
    assert all(value.grad is None and not value.requires_grad for value in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_fitting_lowers_the_training_loss(model: Any) -> None:
    (short,), _ = fit(model, [run(model, SoftPrompt(tokens=4), target())], replace(CONFIG, steps=1))
    (long,), _ = fit(model, [run(model, SoftPrompt(tokens=4), target())], replace(CONFIG, steps=60))
    assert short.train_loss
    assert long.train_loss
    assert long.train_loss < short.train_loss - 0.2


def test_the_train_loss_of_a_prompt_is_that_of_its_last_steps_alone(model: Any) -> None:
    config, schedule = replace(CONFIG, steps=60), Schedule()
    runs = [run(model, SoftPrompt(tokens=4), target())]
    (found,), _ = fit(model, runs, config, schedule=schedule)
    group = PromptGroup(model, runs, config, scale_of(model.embed), torch.device("cpu"))
    losses = []
    for step in range(config.steps):
        group.step(step, schedule.lr_multiplier(step, config.steps))
        losses += group.mean_losses()
    assert 6 <= group.final_steps <= 30
    assert found.train_loss is not None
    assert found.train_loss == pytest.approx(np.mean(losses[-group.final_steps :]), abs=1e-5)
    assert found.train_loss < np.mean(losses) - 0.1


def test_without_a_prompt_the_loss_is_the_models_own(model: Any) -> None:
    made = target()
    (found,), _ = fit(model, [run(model, SoftPrompt(tokens=0, position="answer"), made)], CONFIG)
    for item, nats in zip(made.held_out, found.nats, strict=True):
        logprobs = model(torch.from_numpy(item.tokens)[None])[0, item.after - 1].log_softmax(-1)
        assert nats == pytest.approx(-float(logprobs[range(3), item.targets].sum()), abs=1e-5)
    assert (found.train_loss, found.norm) == (None, None)


@pytest.mark.parametrize("position", ["start", "answer"])
def test_completions_behind_each_prompt_are_judged_as_if_generated_one_by_one(model: Any, position: Any) -> None:
    judged: list[tuple[int, ...]] = []

    def judge(prompt: np.ndarray, completion: np.ndarray) -> dict[str, int]:
        judged.append(tuple(completion))
        return {"hits": int(completion.sum() % 2), "longest": len(completion)}

    held_out = target().held_out
    to_judge = Judged(
        prompts=[item.tokens[: item.answer] for item in held_out], conditions=(), max_tokens=4, end=3, judge=judge
    )
    of = replace(target(), judged=to_judge)
    prompts = [SoftPrompt(tokens=k, position=position, restart=restart) for k in (1, 4) for restart in (0, 1)]
    fitted, _ = fit(model, [run(model, prompt, of) for prompt in (*prompts, SoftPrompt(tokens=0))], CONFIG)
    together = dict(zip([each.name for each in fitted], [each.generated for each in fitted], strict=True))
    judged.clear()
    for each in fitted:
        texts = texts_to_continue(to_judge.prompts, position if each.tokens else "start")
        alone = generate(model, each.vectors()[None, None], torch.tensor([each.tokens]), texts, 4, 3)[0]
        expected = [judge(prompt, completion) for prompt, completion in zip(to_judge.prompts, alone, strict=True)]
        assert together[each.name] == {
            "trials": len(alone),
            "hits": sum(found["hits"] for found in expected),
            "longest": sum(found["longest"] for found in expected),
        }
    assert len(set(judged)) > 3
