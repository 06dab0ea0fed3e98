"""Behaviours in tokens: prompts, answers, and targets of soft prompts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from halflife.data.codecs import load
from halflife.data.corpus import Corpus, texts
from halflife.data.tokenizers import Bytes
from halflife.errors import UserError
from halflife.evaluation.behaviours import BehaviourTarget, behaviour_examples, behaviour_tokens
from halflife.evaluation.probe import Setting
from halflife.evaluation.probes import BehaviourProbe
from halflife.evaluation.scoring import pack, score
from halflife.tasks.behaviours import Continuation, Repetition
from halflife.tasks.boards import Pathfinding
from tests.data.samples import sample_corpus
from tests.models.fakes import FakeModel


@pytest.fixture(scope="module")
def corpus(results: Path) -> Corpus:
    return sample_corpus(results)


class Cyclic(FakeModel):
    """Knows a cycle of tokens, and predicts the one `ahead` of the next."""

    def __init__(self, ahead: int, period: int = 7) -> None:
        super().__init__()
        self.ahead, self.period = ahead, period

    def hidden(self, x: Tensor) -> Tensor:
        return nn.functional.one_hot((x + 1 + self.ahead) % self.period, self.period) * 50.0


@pytest.mark.parametrize("ahead", [0, 1, 4])
def test_an_answer_is_what_lies_ahead_of_the_next_token(ahead: int) -> None:
    cycle = [np.arange(start, start + 20) % 7 for start in (0, 3)]
    packed = pack([row[:5] for row in cycle], [row[5:] for row in cycle], "cpu", ahead)
    assert packed.lengths.tolist() == [15 - ahead] * 2
    assert score(Cyclic(ahead), packed).hits == 2
    assert score(Cyclic(ahead + 1), packed).hits == 0


def test_without_ahead_the_target_is_the_next_token() -> None:
    prompts, answers = [np.array([1, 2]), np.array([3])], [np.array([4, 5, 6]), np.array([7])]
    packed = pack(prompts, answers, "cpu")
    assert packed.inputs.tolist() == [[1, 2, 4, 5], [3, 0, 0, 0]]
    assert packed.answer.tolist() == [[False, True, True, True], [True, False, False, False]]
    assert packed.targets.tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_windows_are_text_of_their_split_without_overlap(split, results: Path, corpus: Corpus) -> None:
    behaviour = Continuation(context=12, length=6, ahead=2)
    probe = BehaviourProbe(behaviour=behaviour, corpus=corpus, split=split, trials=8)
    prompts, answers, ahead = behaviour_tokens(probe, Bytes(), results)
    text = "\x00".join(texts(results, corpus, split))
    codec = load(Bytes(), results)
    windows = [codec.decode(np.concatenate(pair)) for pair in zip(prompts, answers, strict=True)]
    assert all(len(prompt) == 12 for prompt in prompts)
    assert all(len(answer) == 8 for answer in answers)
    assert len(set(windows)) == 8
    assert all(all(part in text for part in window.split("\x00")) for window in windows)
    assert ahead == 2


def test_the_token_at_an_index_is_one_token(results: Path, corpus: Corpus) -> None:
    probe = BehaviourProbe(behaviour=Continuation(context=8, length=1), corpus=corpus, split="train", trials=40)
    _, answers, _ = behaviour_tokens(probe, Bytes(), results)
    assert [len(answer) for answer in answers] == [1] * 40


def test_carriers_are_text_of_their_split(results: Path, corpus: Corpus) -> None:
    behaviour = Repetition(text="abcd", times=2)
    found = {
        split: behaviour_examples(BehaviourProbe(behaviour=behaviour, corpus=corpus, split=split, trials=8), results)
        for split in ("train", "validation")
    }
    for split, examples in found.items():
        documents = texts(results, corpus, split)
        assert all(any(example.prompt in document for document in documents) for example in examples)
        assert {example.answer for example in examples} == {"abcdabcd\n"}
    assert not {e.prompt for e in found["train"]} & {e.prompt for e in found["validation"]}


def test_a_probe_of_a_behaviour_measures_counts_and_loss(results: Path, corpus: Corpus) -> None:
    probe = BehaviourProbe(behaviour=Repetition(text="abc"), corpus=corpus, split="train", trials=6)

    class Says(FakeModel):
        def hidden(self, x: Tensor) -> Tensor:
            begun = (x & 0xC0 != 0x80).cumsum(1)  # characters: some of the text's have two bytes
            says = torch.zeros(*x.shape, 257)
            for place, byte in enumerate(b"abc\n"):
                says[..., byte] += 50.0 * (begun == probe.context + place)
            return says

    measured = probe.prepare(Setting(tokenizer=Bytes(), results=results, sequence=64))(Says())
    assert measured["hits"] == measured["trials"] == 6
    assert measured["loss"] == -measured["logprob"] < 1e-6


def test_invalid_probes_of_behaviours_are_refused(results: Path, corpus: Corpus) -> None:
    with pytest.raises(UserError, match="expected a corpus"):
        BehaviourProbe(behaviour=Repetition(text="abc"))
    with pytest.raises(UserError, match="expected no corpus"):
        BehaviourProbe(behaviour=Pathfinding(), corpus=corpus)
    with pytest.raises(UserError, match="expected 1 or more of each"):
        BehaviourProbe(behaviour=Pathfinding(), trials=0)
    with pytest.raises(UserError, match="1000000 windows of 64 tokens requested"):
        behaviour_tokens(BehaviourProbe(behaviour=Continuation(), corpus=corpus, trials=10**6), Bytes(), results)
    with pytest.raises(UserError, match="give a longer sequence"):
        BehaviourProbe(behaviour=Pathfinding(), trials=2).prepare(
            Setting(tokenizer=Bytes(), results=results, sequence=16)
        )


def target(behaviour, corpus: Corpus | None = None, **fields) -> BehaviourTarget:
    return BehaviourTarget(behaviour=behaviour, corpus=corpus, **fields)


def test_a_continuation_target_expects_the_token_ahead_of_the_next(results: Path, corpus: Corpus) -> None:
    plain, ahead = (
        target(Continuation(context=8, length=4, ahead=n), corpus).items("train", 30, load(Bytes(), results), results)
        for n in (0, 3)
    )
    for item in plain:
        assert item.targets[:-1].tolist() == item.tokens[8:].tolist()
        assert item.after.tolist() == [8, 9, 10, 11]
    for item in ahead:
        assert len(item.tokens) == 11
        assert len(item.targets) == 4


def test_tokens_ahead_are_those_of_the_text(results: Path, corpus: Corpus) -> None:
    codec, text = load(Bytes(), results), "".join(texts(results, corpus, "train"))
    for item in target(Continuation(context=8, length=6, ahead=2), corpus).items("train", 10, codec, results):
        whole = np.concatenate([item.tokens[:8], np.full(2, -1), item.targets])  # the two skipped are read, not asked
        assert item.tokens[10:].tolist() == whole[10:13].tolist()
        assert codec.decode(item.tokens) in text


def test_fewer_items_are_the_first_of_more_and_parts_never_overlap(results: Path, corpus: Corpus) -> None:
    codec = load(Bytes(), results)
    for asked_for in (
        target(Continuation(context=8, length=4), corpus),
        target(Repetition(text="ab"), corpus),
        target(Pathfinding(side=4)),
    ):
        many, few = (asked_for.items("train", count, codec, results) for count in (20, 5))
        assert [item.tokens.tolist() for item in many[:5]] == [item.tokens.tolist() for item in few]
        held_out = {tuple(item.tokens) for item in asked_for.items("held-out", 10, codec, results)}
        assert not held_out & {tuple(item.tokens) for item in many}
        assert asked_for.characters >= 8


def test_a_target_without_the_corpus_that_it_needs_is_refused() -> None:
    with pytest.raises(UserError, match="expected a corpus"):
        target(Repetition(text="abc"))
