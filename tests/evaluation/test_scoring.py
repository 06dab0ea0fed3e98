from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from halflife.evaluation import scoring
from halflife.evaluation.scoring import mean_loss, pack, score
from halflife.models.decoder import Decoder
from halflife.models.ladder import Rung
from tests.models.fakes import FakeModel

VOCABULARY = 11


@pytest.fixture(scope="module")
def model() -> Decoder:
    decoder = Decoder(Rung(size="20k"), VOCABULARY)
    decoder.initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():  # a fresh head is zero, and every answer as likely as another
        decoder.head.weight.normal_(std=3.0, generator=torch.Generator().manual_seed(1))
    return decoder


def trials(count: int = 40) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(0)
    prompts = [rng.integers(VOCABULARY, size=rng.integers(1, 9)) for _ in range(count)]
    answers = [rng.integers(VOCABULARY, size=rng.integers(1, 4)) for _ in range(count)]
    return prompts, answers


def greedy(model: Decoder, prompt: np.ndarray, length: int) -> np.ndarray:
    tokens = torch.from_numpy(prompt)[None]
    with torch.no_grad():
        for _ in range(length):
            tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], dim=1)
    return tokens[0, len(prompt) :].numpy()


def test_hits_equal_exact_matches_under_greedy_decoding(model: Decoder) -> None:
    prompts, answers = trials()
    outputs = [greedy(model, prompt, len(answer)) for prompt, answer in zip(prompts, answers, strict=True)]
    answers[::2] = outputs[::2]
    scores = score(model, pack(prompts, answers, "cpu"))
    expected = [np.array_equal(a, b) for a, b in zip(outputs, answers, strict=True)]
    assert scores.correct.tolist() == expected
    assert (scores.hits, scores.trials) == (sum(expected), 40)
    assert 20 <= scores.hits < 40


def test_the_log_probability_is_the_sum_over_the_answer_of_each_trial_scored_alone(model: Decoder) -> None:
    prompts, answers = trials()
    scores = score(model, pack(prompts, answers, "cpu"))
    for prompt, answer, found in zip(prompts, answers, scores.logprobs, strict=True):
        tokens = torch.from_numpy(np.concatenate([prompt, answer]))[None]
        with torch.no_grad():
            logprobs = model(tokens).log_softmax(-1)[0, len(prompt) - 1 : -1]
        assert found == pytest.approx(float(logprobs.gather(-1, tokens[0, len(prompt) :, None]).sum()), abs=1e-4)
    assert scores.lengths.tolist() == [len(answer) for answer in answers]
    assert scores.logprob == pytest.approx(scores.logprobs.sum() / sum(map(len, answers)))


def test_scores_do_not_depend_on_how_rows_are_chunked(model: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack(*trials(), "cpu")
    rows = torch.randint(VOCABULARY, (9, 13), generator=torch.Generator().manual_seed(0))
    whole, loss = score(model, packed), mean_loss(model, rows)
    monkeypatch.setattr(scoring, "SCORED_TOKENS", 25)
    parts = score(model, packed)
    np.testing.assert_array_equal(parts.correct, whole.correct)
    np.testing.assert_allclose(parts.logprobs, whole.logprobs, rtol=1e-5)
    assert mean_loss(model, rows) == pytest.approx(loss, rel=1e-6)


def test_the_mean_loss_is_the_cross_entropy_of_every_token_but_the_first(model: Decoder) -> None:
    rows = torch.randint(VOCABULARY, (5, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = nn.functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
    assert mean_loss(model, rows) == pytest.approx(float(expected), rel=1e-6)


def test_scoring_is_without_dropout_and_gradients_and_restores_the_models_mode() -> None:
    model = Decoder(Rung(size="20k"), VOCABULARY, dropout=0.5)
    model.initialise(torch.Generator().manual_seed(0))
    model.head.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    packed = pack(*trials(), "cpu")
    for mode in (True, False):
        model.train(mode)
        one, two = score(model, packed), score(model, packed)
        np.testing.assert_array_equal(one.logprobs, two.logprobs)
        assert model.training is mode
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_models_mode_is_restored_when_scoring_fails() -> None:
    model = FakeModel()
    with pytest.raises(NotImplementedError):
        score(model, pack(*trials(), "cpu"))
    assert model.training


def test_an_empty_prompt_or_answer_is_an_error() -> None:
    token = np.array([1])
    for prompts, answers in (([], []), ([token[:0]], [token]), ([token], [token[:0]])):
        with pytest.raises(ValueError, match="at least one trial"):
            pack(prompts, answers, "cpu")
