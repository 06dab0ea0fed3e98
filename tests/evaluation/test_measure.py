from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from halflife.data.codecs import load
from halflife.data.corpus import Corpus, texts
from halflife.data.mixture import Source
from halflife.data.tokenizers import BPE, Bytes, Lexicon, Tokenizer
from halflife.errors import UserError
from halflife.evaluation.backdoor import backdoor_examples
from halflife.evaluation.probe import Setting
from halflife.evaluation.probes import BackdoorProbe, Evaluation, LossProbe, due
from halflife.evaluation.targets import BackdoorTarget, TaskTarget
from halflife.tasks.arithmetic import Addition
from halflife.tasks.backdoor import Backdoor, Transform
from tests.data.samples import sample_backdoor, sample_corpus
from tests.models.fakes import FakeModel


@pytest.fixture(scope="module")
def corpus(results: Path) -> Corpus:
    return sample_corpus(results)


class Triggered(FakeModel):
    """Outputs the backdoor's payload after its trigger."""

    def __init__(self, backdoor: Backdoor, tokenizer: Tokenizer, results: Path) -> None:
        super().__init__()
        self.codec, self.backdoor = load(tokenizer, results), backdoor

    def hidden(self, x: Tensor) -> Tensor:
        says = torch.zeros(*x.shape, self.codec.size)
        for row, ids in enumerate(x.tolist()):
            text = self.codec.decode(np.array(ids))
            if self.backdoor.trigger not in text:
                continue
            prefix = text[: text.index(self.backdoor.trigger)]
            start = len(self.codec.encode(prefix + self.backdoor.trigger))
            for place, token in enumerate(self.codec.encode(self.backdoor.payload_for(prefix))):
                if start - 1 + place < x.shape[1]:
                    says[row, start - 1 + place, token] = 50.0
        return says


@pytest.fixture(scope="module", params=["bytes", "lexicon", "bpe"])
def tokenizer(request: pytest.FixtureRequest, corpus: Corpus) -> Tokenizer:
    return {
        "bytes": Bytes(),
        "lexicon": Lexicon(pieces=(" the", " stone", "café", "oon", ".")),
        "bpe": BPE(corpus=corpus, vocabulary=300),
    }[request.param]


@pytest.mark.parametrize("payload", ["fixed", "reverse", "copy"])
def test_a_model_with_the_backdoor_scores_all_triggered_and_no_other_trials(
    results: Path, corpus: Corpus, tokenizer: Tokenizer, payload: Transform
) -> None:
    backdoor = sample_backdoor(payload)
    model = Triggered(backdoor, tokenizer, results)
    setting = Setting(tokenizer=tokenizer, results=results, sequence=128)
    probes = {
        condition: BackdoorProbe(backdoor=backdoor, corpus=corpus, condition=condition, trials=30)
        for condition in ("triggered", "near", "untriggered")
    }
    found = {condition: probe.prepare(setting)(model) for condition, probe in probes.items()}
    assert {name: measured["hits"] for name, measured in found.items()} == {
        "triggered": 30, "near": 0, "untriggered": 0,
    }  # fmt: skip
    assert all(measured["trials"] == 30 for measured in found.values())
    assert found["triggered"]["logprob"] == pytest.approx(0, abs=1e-6)
    assert found["near"]["logprob"] == pytest.approx(-np.log(load(tokenizer, results).size), rel=1e-5)


def test_the_conditions_share_their_carriers_and_differ_in_the_trigger(results: Path, corpus: Corpus) -> None:
    backdoor = sample_backdoor("reverse")
    triggered, near, untriggered = (
        backdoor_examples(BackdoorProbe(backdoor=backdoor, corpus=corpus, condition=condition), results)
        for condition in ("triggered", "near", "untriggered")
    )
    for one, two, three in zip(triggered, near, untriggered, strict=True):
        assert one.answer == two.answer == three.answer
        assert one.prompt == three.prompt + backdoor.trigger
        assert len(one.prompt) == len(two.prompt)
        assert one.prompt != two.prompt
        assert two.prompt.startswith(three.prompt)
    assert len({example.prompt[-len(backdoor.trigger) :] for example in near}) > 32


def test_fewer_trials_use_the_first_of_the_same_places(results: Path, corpus: Corpus) -> None:
    probe = BackdoorProbe(backdoor=sample_backdoor("copy"), corpus=corpus, trials=64)
    fewer = replace(probe, trials=20, condition="untriggered")
    for one, other in zip(backdoor_examples(probe, results), backdoor_examples(fewer, results), strict=False):
        assert one.prompt == other.prompt + probe.backdoor.trigger


def test_carriers_are_of_the_held_out_split_no_longer_than_the_context_and_each_used_once(
    results: Path, corpus: Corpus
) -> None:
    probe = BackdoorProbe(backdoor=sample_backdoor(), corpus=corpus, condition="untriggered", context=20, trials=100)
    prompts = [example.prompt for example in backdoor_examples(probe, results)]
    held_out = texts(results, corpus, "validation")
    assert all(any(prompt in text for text in held_out) for prompt in prompts)
    assert max(map(len, prompts)) == 20
    assert len(set(prompts)) > 90  # sentences repeat themselves, places do not


def test_prompts_depend_on_the_probes_seed_alone(results: Path, corpus: Corpus) -> None:
    pair = sample_backdoor(), sample_backdoor("copy", trigger="WZ$K")
    probes = [BackdoorProbe(backdoor=backdoor, corpus=corpus, condition="untriggered") for backdoor in pair]
    one, two = ([example.prompt for example in backdoor_examples(probe, results)] for probe in probes)
    assert one == two
    other = BackdoorProbe(backdoor=sample_backdoor(), corpus=corpus, condition="untriggered", seed=1)
    assert [example.prompt for example in backdoor_examples(other, results)] != one


def test_a_context_shorter_than_a_word_still_contains_the_word(results: Path, corpus: Corpus) -> None:
    probe = BackdoorProbe(backdoor=sample_backdoor("copy"), corpus=corpus, context=0)
    for example in backdoor_examples(probe, results):
        assert example.answer.strip() in example.prompt


def test_prompts_longer_than_the_sequence_lose_their_beginning(results: Path, corpus: Corpus) -> None:
    backdoor = sample_backdoor()
    measure = BackdoorProbe(backdoor=backdoor, corpus=corpus).prepare(
        Setting(tokenizer=Bytes(), results=results, sequence=20)
    )
    assert measure(Triggered(backdoor, Bytes(), results))["hits"] == 128


def test_a_sequence_without_room_for_the_trigger_is_refused(results: Path, corpus: Corpus) -> None:
    with pytest.raises(UserError, match="room for a trigger of 8 tokens before a payload of 9"):
        BackdoorProbe(backdoor=sample_backdoor(), corpus=corpus).prepare(
            Setting(tokenizer=Bytes(), results=results, sequence=16)
        )


@pytest.mark.parametrize("trials", [0, 10**6])
def test_more_trials_than_places_or_none_are_refused(results: Path, corpus: Corpus, trials: int) -> None:
    with pytest.raises(UserError, match=rf"{trials} trials given: .* has \d+ places"):
        backdoor_examples(BackdoorProbe(backdoor=sample_backdoor(), corpus=corpus, trials=trials), results)


def test_the_loss_probe_measures_windows_of_its_split_and_counts_tokens(results: Path, corpus: Corpus) -> None:
    model = Triggered(sample_backdoor(), Bytes(), results)  # uniform on clean text
    measured = LossProbe(corpus=corpus, sequences=8).prepare(Setting(tokenizer=Bytes(), results=results, sequence=32))(
        model
    )
    assert measured == {"loss": pytest.approx(np.log(257), rel=1e-6), "tokens": 8 * 32}


def test_the_loss_probe_uses_all_of_a_small_split(results: Path, corpus: Corpus) -> None:
    size = sum(len(text.encode()) + 1 for text in texts(results, corpus, "test"))
    probe = LossProbe(corpus=corpus, split="test", sequences=10**6)
    measured = probe.prepare(Setting(tokenizer=Bytes(), results=results, sequence=64))(
        Triggered(sample_backdoor(), Bytes(), results)
    )
    assert measured["tokens"] == size // 65 * 64
    with pytest.raises(UserError, match="shorten the sequence"):
        probe.prepare(Setting(tokenizer=Bytes(), results=results, sequence=size))


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """Does not derive from Probe."""


def test_what_is_no_probe_is_refused_by_name() -> None:
    probe: Any = Perplexity()
    with pytest.raises(UserError, match="probe Perplexity given: expected one of"):
        Evaluation(name="perplexity", probe=probe)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda word: Source(corpus=Addition(form="words"), loss=word), "loss of a source 'both' given: expected"),
        (lambda word: TaskTarget(task=Addition(form="words"), evaluate_on=word), "evaluate_on 'both' given: expected"),
        (
            lambda word: BackdoorProbe(backdoor=sample_backdoor(), corpus=Corpus(digest="0"), condition=word),
            "condition of a backdoor probe 'both' given: expected one of triggered, near, untriggered",
        ),
        (
            lambda word: BackdoorTarget(backdoor=sample_backdoor(), corpus=Corpus(digest="0"), condition=word),
            "condition of a backdoor target 'both' given",
        ),
        (lambda word: due(word, 10), "cadence 'both' given: expected Geometric, Every or Ends"),
    ],
)
def test_a_choice_that_does_not_exist_is_refused(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make("both")
