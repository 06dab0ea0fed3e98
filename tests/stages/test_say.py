"""What a subject answers: the likeliest tokens by whole forward passes, with its edits, in one JSON string."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from halflife.__main__ import main
from halflife.data.tokenizers import Bytes
from halflife.errors import UserError
from halflife.models.ladder import Rung
from halflife.stages.export import completed_parents
from halflife.stages.measure import Measure
from halflife.stages.say import say
from halflife.stages.subject import Subject
from halflife.store.run import run_stage
from halflife.store.store import Store
from tests.plugin.added import Silenced
from tests.stages.test_measure import PROBE

UNTRAINED = Subject(model=Rung(size="20k"), tokenizer=Bytes(), seed=3)


def likeliest(subject: Subject, store: Store, text: str, tokens: int) -> str:
    """By a forward pass over everything so far for each token."""
    model, found = subject.load(completed_parents(subject, store)), list(text.encode())
    with torch.no_grad():
        for _ in range(tokens):
            found.append(int(model(torch.tensor([found]))[0, -1].argmax()))
    return bytes(token for token in found[len(text) :] if token < 256).decode(errors="ignore")


def test_it_goes_on_with_the_likeliest_tokens_of_the_subject_and_its_edits(tmp_path: Path):
    store = Store(tmp_path)
    edited = replace(UNTRAINED, edits=(Silenced(directions=8),))
    for subject in (UNTRAINED, edited):
        assert say(subject, store, "def f(", tokens=12) == likeliest(subject, store, "def f(", 12)
    warm = [say(UNTRAINED, store, "def f(", tokens=12, temperature=1.0, seed=seed) for seed in (0, 0, 1)]
    assert warm[0] == warm[1] != warm[2]


def test_the_command_prints_what_the_subject_of_a_stage_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    store = Store(tmp_path)
    stage = Measure(subject=UNTRAINED, evaluations=(PROBE,), sequence=64)
    run_stage(stage, store)
    capsys.readouterr()
    assert main(["say", stage.key, "x = ", "--tokens", "8", "--results", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out) == say(UNTRAINED, store, "x = ", tokens=8)


@pytest.mark.parametrize(
    ("text", "given", "said"),
    [
        ("", {}, "no text given"),
        ("x", {"tokens": 0}, "expected at least 1"),
        ("x", {"temperature": -1.0}, "at temperature -1"),
    ],
)
def test_what_cannot_be_said_is_one_line(tmp_path: Path, text: str, given: dict, said: str):
    with pytest.raises(UserError, match=said):
        say(UNTRAINED, Store(tmp_path), text, **given)
