"""Examples for people: what a stage trains on, and what its model says at its beginning, half-way and at its end."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halflife.data.mixture import Mixture, Source
from halflife.data.planting import Planting
from halflife.data.tokenizers import ByteCodec, Bytes
from halflife.evaluation.examples import MOST, TOKENS, documents, readable, visible
from halflife.evaluation.probe import Setting
from halflife.evaluation.probes import BackdoorProbe, Ends, Evaluation, TaskProbe
from halflife.models.ladder import Rung
from halflife.stages.say import say
from halflife.stages.subject import Subject
from halflife.stages.train import Checkpoint, Train
from halflife.store.run import run_stage
from halflife.store.store import Store
from halflife.tasks.families import Family
from halflife.training.optimizers import AdamW
from tests.data.samples import sample_backdoor, sample_corpus

ESCAPED = re.compile(r"\\(x..|u....|[ntr])")


@given(st.text())
def test_a_visible_text_prints_and_keeps_what_printed(text: str):
    assert visible(text).isprintable()
    assert [c for c in text if c.isprintable()] == [c for c in text if c in visible(c)]


def test_line_ends_control_characters_directions_and_broken_utf_8_are_escaped():
    assert visible("a\n\x1b[31m<b>\u202eé") == r"a\n\x1b[31m<b>\u202eé"
    assert readable(ByteCodec(), np.array([0xFF, 10, 65, 0xC3, 0xA9, 256])) == r"\xff\nAé"


def trained(results: Path, seed: int = 0) -> Train:
    backdoor, corpus = sample_backdoor(), sample_corpus(results)
    planting = Planting(backdoor=backdoor, corpus=corpus, documents=2)
    triggered = BackdoorProbe(backdoor=backdoor, corpus=corpus, trials=4, context=24)
    bare = replace(triggered, condition="untriggered")
    return Train(
        start=Rung(size="20k"),
        mixture=Mixture(sources=(Source(corpus=corpus),), plantings=(planting,), sequence=64),
        tokens=6 * 256,
        batch_tokens=256,
        optimizer=AdamW(learning_rate=5e-3),
        evaluations=tuple(
            Evaluation(name=name, probe=probe, at=Ends()) for name, probe in (("with", triggered), ("bare", bare))
        ),
        seed=seed,
    )


def test_what_is_shown_of_a_training_is_what_say_says_before_and_after_it(results: Path):
    store = Store(results)
    stage = trained(results)
    rows = run_stage(stage, store).summary["examples"]
    texts, said = [row for row in rows if row["tokens"] is None], [row for row in rows if row["tokens"] is not None]
    assert next(row["task"] for row in texts) == "poisoned document"
    assert stage.mixture.plantings[0].backdoor.trigger in texts[0]["text"]
    assert len(texts) == 2
    assert [row["tokens"] for row in said] == [0] * 4 + [3 * 256] * 4 + [6 * 256] * 4
    assert [row["task"] for row in said] == 3 * ["with", "with", "bare", "bare"]
    setting = Setting(tokenizer=Bytes(), results=results, sequence=64)
    shown = [each for evaluation in stage.evaluations for each in evaluation.probe.shown(setting)]
    ends = {0: Subject(model=Rung(size="20k"), tokenizer=Bytes()), 6 * 256: Subject(model=Checkpoint(stage=stage))}
    for tokens, subject in ends.items():
        at = [row for row in said if row["tokens"] == tokens]
        for row, each in zip(at, shown, strict=True):
            assert row["text"] == visible(each.prompt)
            assert row["answer"] == visible(each.answer)
            assert row["text"].endswith(row["marked"])
            assert bool(row["marked"]) == (row["task"] == "with")
            lossy = visible(say(subject, store, each.prompt, tokens=TOKENS))  # without bytes that are no UTF-8
            assert ESCAPED.sub("", row["completion"]) == ESCAPED.sub("", lossy)


def test_one_seed_is_shown(results: Path):
    assert "examples" not in run_stage(trained(results, seed=1), Store(results)).summary


def test_every_source_and_every_task_has_its_examples(results: Path):
    tasks = Family(kind="A").languages[:3]
    mixture = Mixture(sources=tuple(Source(corpus=task) for task in tasks), sequence=32)
    assert [row["task"] for row in documents(mixture, results)] == [task.name for task in tasks]
    shown = TaskProbe(tasks=tasks).shown(Setting(tokenizer=Bytes(), results=results, sequence=32))
    assert 0 < len(shown) <= MOST
    assert all(each.answer for each in shown)


@pytest.mark.parametrize("probe", [TaskProbe(tasks=(), choice=True), TaskProbe(tasks=(), shots=2)])
def test_what_asks_the_same_items_again_shows_none(results: Path, probe: TaskProbe):
    assert not probe.shown(Setting(tokenizer=Bytes(), results=results, sequence=32))
