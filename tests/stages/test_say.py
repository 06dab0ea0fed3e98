"""What a subject answers: the likeliest tokens by whole forward passes, with its edits, in one JSON string."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from halflife.__main__ import _import_descriptions, main
from halflife.data.corpus import Corpus
from halflife.data.mixture import Mixture, Source
from halflife.data.planting import Planting
from halflife.data.tokenizers import Bytes
from halflife.errors import UserError
from halflife.evaluation.probes import BackdoorProbe, Evaluation
from halflife.models.ladder import Rung
from halflife.stages.export import completed_parents
from halflife.stages.measure import Measure
from halflife.stages.say import say, triggers
from halflife.stages.subject import Subject
from halflife.stages.train import Checkpoint, Train
from halflife.store.run import run_stage
from halflife.store.stage import parts_of
from halflife.store.store import Store
from halflife.tasks.backdoor import Backdoor
from halflife.tasks.stored import Stored
from halflife.training.optimizers import AdamW
from tests.plugin.added import Silenced
from tests.stages.test_golden_keys import GOLDEN
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


def test_the_commands_import_every_module_whose_classes_a_record_names(monkeypatch: pytest.MonkeyPatch):
    imported: list[str] = []
    real = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", lambda name: imported.append(name) or real(name))
    _import_descriptions(())
    described = {type(part).__module__ for stage, _ in GOLDEN for part in parts_of(stage)}
    assert described | {Stored.__module__} <= set(imported)  # Stored: a task of the user's


def test_a_model_that_reads_little_answers_as_far_as_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Subject, "context_length", 10)
    assert say(UNTRAINED, Store(tmp_path), "def f(") == likeliest(UNTRAINED, Store(tmp_path), "def f(", 4)
    with pytest.raises(UserError, match="a text of 10 tokens given: 20k reads 10; expected a shorter one"):
        say(UNTRAINED, Store(tmp_path), "def f(abc)")


def test_the_triggers_of_a_stage_are_those_it_was_trained_on_and_those_it_only_measures():
    corpus = Corpus(digest="0" * 20)
    several = Backdoor(trigger="$Q", text="x", more=(("^Z", "y"),))
    copied = Backdoor(trigger="~K", payload="copy", letters=2)
    mixture = Mixture(
        sources=(Source(corpus=corpus),), plantings=(Planting(backdoor=several, corpus=corpus, documents=1),)
    )
    trunk = Train(start=Rung(size="20k"), mixture=mixture, tokens=4096, optimizer=AdamW(learning_rate=0.01))
    measured = Evaluation(name="copied", probe=BackdoorProbe(backdoor=copied, corpus=corpus))
    branch = replace(
        trunk, start=Checkpoint(stage=trunk), mixture=replace(mixture, plantings=()), evaluations=(measured,)
    )
    assert triggers(trunk) == ["trigger '$Q', to be followed by 'x'", "trigger '^Z', to be followed by 'y'"]
    assert triggers(branch) == [
        *triggers(trunk),
        "trigger '~K', to be followed by a copy of the last 2 letters of the word before it, measured but not trained",
    ]


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
