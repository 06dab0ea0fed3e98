"""Linear probes of layers, on models with a known residual stream."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from halflife.data.codecs import load
from halflife.data.tokenizers import Bytes
from halflife.errors import UserError
from halflife.evaluation.layers import STRENGTHS, one_hot_characters, ridge
from halflife.evaluation.probe import Setting
from halflife.evaluation.probes import LayerProbe, TaskProbe
from halflife.evaluation.scoring import named
from halflife.rng import generator
from halflife.tasks.arithmetic import Addition
from halflife.tasks.sequences import Lookup
from halflife.tasks.synthetic import SyntheticTask
from tests.models.fakes import FakeModel

WORDS, ROMAN = Addition(form="words"), Addition(form="roman")
WIDTH = 96


class Holds(FakeModel):
    """Layer 0 is noise. Layer 1 has a rotation of the answer's characters at the prompt's last token, and noise
    elsewhere. The output is uniform."""

    def __init__(self, task: SyntheticTask, noise: float = 0.01) -> None:
        super().__init__()
        self.codec, self.noise = load(Bytes(), Path()), noise
        examples = [*task.examples("memorised"), *task.examples("held-out")]
        codes = one_hot_characters([example.answer for example in examples])
        rotation = generator("rotation").normal(size=(codes.shape[1], WIDTH))
        held = zip(examples, codes @ rotation, strict=True)
        self.held = {example.prompt: (len(self.codec.encode(example.prompt)) - 1, code) for example, code in held}

    def residuals(self, x: Tensor) -> list[Tensor]:
        # keyed by the prompt, so that every evaluation sees the same noise
        texts = [self.codec.decode(np.array(ids)).rstrip("\0") for ids in x.tolist()]
        noise = np.stack([generator("noise", text).normal(size=(x.shape[1], WIDTH)) for text in texts])
        held = self.noise * noise
        for row, text in enumerate(texts):
            at, code = self.held[text]
            held[row, at] += code
        return [torch.from_numpy(noise).float(), torch.from_numpy(held).float()]

    def hidden(self, x: Tensor) -> Tensor:
        return torch.zeros(*x.shape, self.codec.size)


def layers(task: SyntheticTask, model: FakeModel, trials: int = 128) -> list[dict[str, float]]:
    measured = LayerProbe(tasks=(task,), trials=trials).prepare(
        Setting(tokenizer=Bytes(), results=Path(), sequence=64)
    )(model)
    return [{name: measured[f"{layer}/{name}"] for name in ("hits", "trials", "chance", "control")} for layer in (0, 1)]


def test_an_answer_that_is_encoded_linearly_but_never_output_is_read_for_every_held_out_item() -> None:
    model = Holds(WORDS)
    output = TaskProbe(tasks=(WORDS,)).prepare(Setting(tokenizer=Bytes(), results=Path(), sequence=64))(model)
    noise, held = layers(WORDS, model)
    assert output["hits"] == 0
    assert held["hits"] == held["trials"] == len(WORDS.examples("held-out"))
    assert noise["hits"] <= 7  # chance is 1 in 11: more than 7 of 23 has probability 0.001
    assert held["control"] <= 7
    assert held["chance"] == pytest.approx(1 / 11)


def test_a_task_without_a_rule_is_cross_validated_on_memorised_items() -> None:
    table = Lookup()
    noise, held = layers(table, Holds(table))
    assert held["trials"] == len(table.examples("memorised")) == 100
    assert held["hits"] >= 95  # a letter that only one fold has cannot be read
    assert max(noise["hits"], held["control"]) <= 6


def test_hits_of_several_tasks_add_up_and_trials_limit_each() -> None:
    model = Holds(WORDS)
    model.held |= Holds(ROMAN).held
    both = LayerProbe(tasks=(WORDS, ROMAN), trials=10).prepare(Setting(tokenizer=Bytes(), results=Path(), sequence=64))(
        model
    )
    assert both["1/hits"] == both["1/trials"] == 20


def test_a_layer_probe_with_too_few_items_or_too_short_a_sequence_is_refused() -> None:
    with pytest.raises(UserError, match="linear probe of words given: it has 4 items to train on"):
        LayerProbe(tasks=(Addition(form="words", modulus=2, held_out=0),)).prepare(
            Setting(tokenizer=Bytes(), results=Path(), sequence=64)
        )
    with pytest.raises(UserError, match="a prompt of words takes"):
        LayerProbe(tasks=(WORDS,)).prepare(Setting(tokenizer=Bytes(), results=Path(), sequence=8))


def test_ridge_is_least_squares_without_noise_and_the_mean_for_constant_features() -> None:
    rng = np.random.default_rng(0)
    x, w = torch.from_numpy(rng.normal(size=(1, 60, 5))), torch.from_numpy(rng.normal(size=(5, 3)))
    y = x[0] @ w + 2
    torch.testing.assert_close(ridge(x, y, x)[0], y, rtol=1e-4, atol=1e-4)
    constant = torch.ones(1, 60, 5, dtype=torch.float64)
    torch.testing.assert_close(ridge(constant, y, constant[:, :7])[0], y.mean(0).expand(7, 3))


def by_hand(x: np.ndarray, y: np.ndarray, strength: float, asked: np.ndarray) -> np.ndarray:
    """Ridge regression by the normal equations, without a penalty on the intercept."""
    middle = x.mean(0)
    inverse = np.linalg.inv((x - middle).T @ (x - middle) + strength * np.eye(x.shape[1]))
    return y.mean(0) + (asked - middle) @ inverse @ (x - middle).T @ (y - y.mean(0))


@pytest.mark.parametrize("signal", [0.0, 1.0, 10.0])
def test_ridge_takes_the_penalty_with_the_best_leave_one_out_error(signal: float) -> None:
    rng = np.random.default_rng(1)
    x, asked = rng.normal(size=(20, 30)), rng.normal(size=(7, 30))
    y = signal * x[:, :2] + rng.normal(size=(20, 2))
    strengths = STRENGTHS * ((x - x.mean(0)) ** 2).sum() / 20
    every = np.arange(20)
    errors = [
        sum(((by_hand(x[every != i], y[every != i], s, x[i : i + 1]) - y[i]) ** 2).sum() for i in every)
        for s in strengths
    ]
    expected = by_hand(x, y, strengths[int(np.argmin(errors))], asked)
    found = ridge(*(torch.from_numpy(values) for values in (x[None], y, asked[None])))[0]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-8)


def test_parts_of_a_probe_become_tasks() -> None:
    assert named("layer", "3/hits") == "layer-3/hits"
    assert named("dropped", "hits") == "dropped/hits"
