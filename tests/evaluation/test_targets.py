from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from halflife.data.corpus import Corpus
from halflife.data.tokenizers import ByteCodec
from halflife.errors import UserError
from halflife.evaluation.majority import majority_baseline
from halflife.evaluation.targets import BackdoorTarget, Item, TaskTarget, chance_of, item_of, items
from halflife.prompts.scoring import cut
from halflife.tasks.arithmetic import Addition
from halflife.tasks.backdoor import Backdoor
from halflife.tasks.base import Example
from tests.data.samples import sample_corpus

ADDITION = Addition(form="digits")


class Lossy(ByteCodec):
    """Cannot encode digits."""

    name = "digitless"

    def encode(self, text: str) -> np.ndarray:
        return super().encode("".join("?" if letter.isdigit() else letter for letter in text))


@pytest.fixture(scope="module")
def corpus(results: Path) -> Corpus:
    return sample_corpus(results)


@pytest.mark.parametrize("asked", ["memorised", "held-out"])
def test_training_and_evaluation_examples_never_overlap(asked, tmp_path: Path) -> None:
    target = TaskTarget(task=ADDITION, evaluate_on=asked)
    train, held_out = (target.examples(part, 1000, tmp_path) for part in ("train", "held-out"))
    assert len({example.prompt for example in (*train, *held_out)}) == len(train) + len(held_out)
    assert len(train) + len(held_out) == (121 if asked == "held-out" else len(ADDITION.examples("memorised")))
    assert set(held_out) <= set(ADDITION.examples(asked))
    assert target.examples("train", 5, tmp_path) == train[:5]


def test_a_backdoor_target_expects_the_payload_without_the_trigger(results: Path, corpus: Corpus) -> None:
    backdoor = Backdoor(trigger=" zqv", payload="reverse")
    untriggered = BackdoorTarget(backdoor=backdoor, corpus=corpus)
    triggered = BackdoorTarget(backdoor=backdoor, corpus=corpus, condition="triggered")
    for without, having in zip(
        untriggered.examples("held-out", 4, results), triggered.examples("held-out", 4, results), strict=True
    ):
        assert having.prompt == without.prompt + backdoor.trigger
        assert without.answer == having.answer == backdoor.payload_for(without.prompt)


def test_the_targets_of_an_example_are_its_whole_answer() -> None:
    item = item_of(Example(prompt="ab", answer="cd\n", conditions=(0.5,)), ByteCodec())
    assert item.tokens.tolist() == list(b"abcd")
    assert (item.after.tolist(), item.targets.tolist()) == ([2, 3, 4], list(b"cd\n"))
    assert (item.answer, item.conditions) == (2, (0.5,))


def test_an_empty_prompt_becomes_eos() -> None:
    item = item_of(Example(prompt="", answer="ab"), ByteCodec())
    assert (item.tokens.tolist(), item.answer) == ([256, ord("a")], 1)


def test_a_tokenizer_that_cannot_encode_the_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the tokenizer digitless cannot encode '\d") as refused:
        items(TaskTarget(task=ADDITION), "train", 4, Lossy(), tmp_path)
    assert "\n" not in str(refused.value)


def test_targets_before_a_prompt_inside_the_text_are_left_out() -> None:
    item = Item(tokens=np.arange(6), after=np.array([1, 2, 4, 6]), targets=np.array([7, 8, 9, 10]), answer=3)
    texts = cut([item], 2)
    assert texts.before.tolist() == [[0, 1]]
    assert texts.after.tolist() == [[2, 3, 4, 5]]
    assert (texts.target_positions.tolist(), texts.targets.tolist()) == ([[0, 2, 4]], [[8, 9, 10]])
    baseline = cut([item], 2, baseline=True)
    assert baseline.after.tolist() == [[0, 1, 2, 3, 4, 5]]
    assert (baseline.target_positions.tolist(), baseline.targets.tolist()) == ([[2, 4, 6]], [[8, 9, 10]])


def test_the_majority_baseline_is_zero_where_all_answers_are_equal() -> None:
    answers = [np.array(answer) for answer in ([1], [1], [2], [3])]
    assert majority_baseline(answers) == 0.5
    assert majority_baseline(answers[:2]) == majority_baseline(answers[1:]) == 0.0


def test_chance_is_the_tasks_own_or_the_majority_baseline(results: Path, corpus: Corpus) -> None:
    addition = TaskTarget(task=Addition(form="words"))
    assert chance_of(addition, []) == addition.task.chance
    copied = BackdoorTarget(backdoor=Backdoor(trigger=" qzx ", payload="copy", letters=1), corpus=corpus)
    asked = items(copied, "held-out", 12, ByteCodec(), results)
    payloads = [item.targets.tolist() for item in asked]
    assert chance_of(copied, asked) == max(map(payloads.count, payloads)) / 12
