"""Subjects as Hugging Face folders: whatever is a plain model, with equal logits; the rest is refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from halflife.__main__ import main
from halflife.data.tokenizers import Bytes
from halflife.errors import UserError
from halflife.evaluation.probe import Threshold
from halflife.models.ladder import Rung
from halflife.stages.edits import PutBack
from halflife.stages.export import completed_parents, export
from halflife.stages.measure import Measure
from halflife.stages.subject import Subject
from halflife.stages.train import Checkpoint
from halflife.store.run import run_stage
from halflife.store.store import Store
from halflife.training.recipe import Snapshot
from tests.plugin.added import Silenced
from tests.stages.test_measure import BRANCH, PROBE, TRUNK

EDITED = Subject(
    model=Checkpoint(stage=BRANCH), edits=(PutBack(source=Checkpoint(stage=TRUNK), components=("mlp-1",)),)
)
UNTRAINED = Subject(model=Rung(size="20k"), tokenizer=Bytes(), seed=3)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("results"))


def assert_equal_logits(folder: Path, subject: Subject, store: Store) -> None:
    tokens = torch.randint(0, 256, (2, 48), generator=torch.Generator().manual_seed(0))
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        ours = subject.load(completed_parents(subject, store))(tokens)
        torch.testing.assert_close(theirs(tokens).logits, ours, rtol=1e-5, atol=1e-5)


def test_a_measured_subject_with_weights_put_back_is_exported_by_its_stage(store: Store, tmp_path: Path) -> None:
    stage = Measure(subject=EDITED, evaluations=(PROBE,), sequence=64)
    run_stage(stage, store)
    assert main(["export", stage.key, "--out", str(tmp_path / "out"), "--results", str(store.root)]) == 0
    assert_equal_logits(tmp_path / "out", EDITED, store)
    with pytest.raises(AssertionError):
        assert_equal_logits(tmp_path / "out", replace(EDITED, edits=()), store)


def test_an_untrained_rung_is_exported(store: Store, tmp_path: Path) -> None:
    export(UNTRAINED, store, tmp_path / "out")
    assert_equal_logits(tmp_path / "out", UNTRAINED, store)


def test_an_edit_of_what_flows_is_refused_by_name(store: Store, tmp_path: Path) -> None:
    silenced = replace(UNTRAINED, edits=(Silenced(directions=2),))
    with pytest.raises(UserError, match="Silenced changes what flows through 20k"):
        export(silenced, store, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_subject_whose_weights_were_never_made_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not complete: run its study first"):
        export(Subject(model=Checkpoint(stage=replace(TRUNK, seed=9))), store, tmp_path / "out")
    never = Snapshot(name="never", when=Threshold(metric="b/hits", threshold=1e9))
    trunk = replace(TRUNK, snapshots=(never,), tokens=256)
    run_stage(trunk, store)
    with pytest.raises(UserError, match="the trunk never reached snapshot 'never'"):
        export(Subject(model=Checkpoint(stage=trunk, at="never")), store, tmp_path / "out")
    assert not list(tmp_path.iterdir())
