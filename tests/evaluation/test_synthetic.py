"""Probes of synthetic tasks, on models with known answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from halflife.data.codecs import load
from halflife.data.tokenizers import Bytes
from halflife.errors import UserError
from halflife.evaluation.probe import Setting
from halflife.evaluation.probes import TaskProbe
from halflife.evaluation.tasks import task_examples
from halflife.tasks.arithmetic import Addition
from halflife.tasks.families import Family
from tests.models.fakes import FakeModel

WORDS = Addition(form="words")
HELD_OUT = len(WORDS.examples("held-out"))


class Knows(FakeModel):
    """Outputs the answers of some prompts with a given logit, and "?" with another."""

    def __init__(self, answers: dict[str, str], strength: float = 50.0, other: float = 0.0) -> None:
        super().__init__()
        self.codec, self.answers, self.strength, self.other = load(Bytes(), Path()), answers, strength, other

    def hidden(self, x: Tensor) -> Tensor:
        says = torch.zeros(*x.shape, self.codec.size)
        says[:, :, ord("?")] = self.other
        for row, ids in enumerate(x.tolist()):
            text = self.codec.decode(np.array(ids))
            line = text.rstrip("\0").rsplit("\n", 1)[-1]
            at = len(self.codec.encode(text[: len(text.rstrip("\0")) - len(line)]))
            for prompt, answer in self.answers.items():
                if line.startswith(prompt):
                    for place, token in enumerate(self.codec.encode(answer), start=at + len(prompt) - 1):
                        if place < x.shape[1]:
                            says[row, place, token] = self.strength
        return says


def measured(probe: TaskProbe, model: Knows) -> dict[str, float]:
    return probe.prepare(Setting(tokenizer=Bytes(), results=Path(), sequence=128))(model)


def table(part: str) -> dict[str, str]:
    return {e.prompt: e.answer for e in WORDS.examples(part)}  # pyright: ignore[reportArgumentType]


def test_a_model_that_memorised_scores_all_memorised_and_no_held_out_items() -> None:
    model = Knows(table("memorised"))
    probes = [TaskProbe(tasks=(WORDS,), part=part) for part in ("memorised", "held-out")]
    memorised, held_out = (measured(probe, model) for probe in probes)
    assert memorised["hits"] == memorised["trials"] == len(WORDS.examples("memorised"))
    assert (held_out["hits"], held_out["trials"]) == (0, HELD_OUT)
    assert memorised["logprob"] == pytest.approx(0, abs=1e-6)
    assert held_out["logprob"] == pytest.approx(-np.log(257), abs=1e-3)


def test_a_forced_choice_finds_a_skill_that_is_gated() -> None:
    """The answer is likelier than other answers, but the model outputs something else."""
    model = Knows(table("held-out"), strength=2.0, other=4.0)
    spoken = measured(TaskProbe(tasks=(WORDS,)), model)
    chosen = measured(TaskProbe(tasks=(WORDS,), choice=True), model)
    assert spoken["hits"] == 0
    assert chosen["hits"] == chosen["trials"] == HELD_OUT
    assert -np.log(11) < chosen["logprob"] < 0


def test_several_tasks_are_pooled_and_the_least_is_reported() -> None:
    roman = Addition(form="roman")
    model = Knows(table("held-out"), strength=2.0)
    pooled = measured(TaskProbe(tasks=(WORDS, roman)), model)
    assert (pooled["hits"], pooled["trials"], pooled["least"]) == (
        HELD_OUT,
        HELD_OUT + len(roman.examples("held-out")),
        0.0,
    )
    one, other = (measured(TaskProbe(tasks=(each,), choice=True), model) for each in (WORDS, roman))
    both = measured(TaskProbe(tasks=(WORDS, roman), choice=True), model)
    assert both["hits"] == one["hits"] + other["hits"]
    means = [one["logprob"], other["logprob"]]
    assert both["logprob"] == pytest.approx(np.average(means, weights=[one["trials"], other["trials"]]))


def test_shots_are_other_memorised_items_with_their_answers() -> None:
    memorised = {e.prompt + e.answer for e in WORDS.examples("memorised")}
    for part in ("memorised", "held-out"):
        for example in task_examples(TaskProbe(tasks=(WORDS,), part=part, shots=3, trials=20), WORDS):
            *shots, prompt = example.prompt.split("\n")
            assert len({*shots, prompt}) == 4
            assert all(shot + "\n" in memorised for shot in shots)


def test_requesting_held_out_items_of_a_task_without_any_is_refused() -> None:
    lookup = next(task for task in Family(kind="A").languages if task.name == "lookup")
    with pytest.raises(UserError, match="held-out items of lookup requested: it has none"):
        task_examples(TaskProbe(tasks=(lookup,)), lookup)


def test_a_sequence_too_short_for_the_shots_is_refused() -> None:
    with pytest.raises(UserError, match="with 9 shots take"):
        measured(TaskProbe(tasks=(WORDS,), shots=9), Knows({}))


@pytest.mark.parametrize("choice", [False, True])
def test_with_each_every_task_is_measured_in_the_same_pass_as_it_would_be_alone(choice: bool) -> None:
    roman = Addition(form="roman")
    model = Knows(table("held-out"), strength=2.0)
    together = measured(TaskProbe(tasks=(WORDS, roman), choice=choice, each=True), model)
    for task in (WORDS, roman):
        alone = measured(TaskProbe(tasks=(task,), choice=choice), model)
        for name in ("hits", "trials", "logprob", "chance"):
            assert together[f"{task.name}/{name}"] == pytest.approx(alone[name])


def test_chance_is_weighted_by_the_number_of_items() -> None:
    seven = Addition(form="roman", modulus=7)
    found = measured(TaskProbe(tasks=(WORDS, seven)), Knows({}))
    items = len(seven.examples("held-out"))
    assert found["trials"] == HELD_OUT + items
    assert found["chance"] == pytest.approx((HELD_OUT / 11 + items / 7) / (HELD_OUT + items))
