"""The second organism: Python text, fresh or released, fine-tuned for lower case."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from halflife.data.corpus import Corpus, lower_cased, prepare_corpus, read_documents
from halflife.data.tokenizers import Pretrained
from halflife.errors import UserError
from halflife.evaluation.texts import CorpusTexts
from halflife.interpret.attribution import Attribute
from halflife.kits.finetuning_text import Corpora, TextCell
from halflife.kits.starts import Start, starts
from halflife.stages.measure import Measure
from halflife.stages.train import Train
from halflife.sweep.site import ExecutionSite
from halflife.training.parameters import LoRA
from studies import finetuning_attribution as study
from tests.models import tiny

SMOKE = study.PRESETS["smoke"].settings
CORPORA = Corpora(usual=Corpus(digest="a"), intents=(Corpus(digest="b"), Corpus(digest="c")))
ROLES = ("treatment", "null", "absent")


def cell(start: Start | None = None) -> TextCell:
    settings = replace(SMOKE, organism="python", text_length=16)
    return TextCell(settings, "30k", 0, start=start, corpora=CORPORA)


def stages(made: TextCell, role: str) -> dict[str, Any]:
    return study.stages(made, study.Treatment(algorithm="sft"), role, 0)


def read(stage: Any) -> str:
    (source,) = stage.mixture.sources
    return source.corpus.digest


@pytest.mark.parametrize("released", [False, True])
def test_it_is_tuned_on_other_text_and_compared_on_text_that_no_training_reads(released: bool, tmp_path: Path) -> None:
    start = None
    if released:
        (start,) = starts((), (str(tiny.folder(tmp_path / "tiny", "llama")),), tmp_path / "results").values()
    found = {role: stages(cell(start), role) for role in ROLES}
    attributions = {role: cast("Attribute", each["attribution"]) for role, each in found.items()}
    tuned = {role: cast("Any", each.tuned).model.stage for role, each in attributions.items()}
    assert [read(tuned[role]) for role in ROLES] == ["b", "a", "c"]
    assert read(cast("Any", attributions["treatment"].null).model.stage) == "a"
    own = attributions["treatment"]
    assert (own.properties, own.intended) == (None, None)
    assert isinstance(own.texts, CorpusTexts)
    assert own.texts.split == "validation"
    assert isinstance(found["treatment"]["trunk"], Measure if released else Train)
    assert isinstance(tuned["treatment"].parameters, LoRA) is released
    assert isinstance(own.subject.codec, Pretrained) is released


def test_a_lower_cased_corpus_has_the_same_documents(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(f"def F{number}(Value):\n    return Value + {number}" for number in range(3000)))
    corpus = prepare_corpus(str(path), tmp_path)
    made = lower_cased(corpus, tmp_path)
    assert lower_cased(corpus, tmp_path) == made != corpus
    before, after = (read_documents(tmp_path, each) for each in (corpus, made))
    assert after["split"].equals(before["split"])
    assert after["text"].to_list() == [text.lower() for text in before["text"]]


def test_without_known_attributes_only_what_edits_do_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(SMOKE, organism="python", sizes=("30k",))
    declared = study.declare("smoke", settings, lambda *given: TextCell(*given, corpora=CORPORA))
    asked = {question.name: question for question in declared.questions}
    assert [name for name, question in asked.items() if question.primary] == ["causal", "path"]
    assert "intended_loss" in asked
    assert not {quantity.name for quantity in declared.quantities} & {"alignment", "scores", "intended", "learned"}
    assert declared.figures == ("feature_edits",)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"organism": "yeast"}, "--organism 'yeast' given: expected one of grammar, python"),
        (
            {"organism": "python", "algorithms": ("sft", "rl")},
            "--algorithms rl with --organism python: it needs known attributes",
        ),
        ({"sizes": ("smollm2",)}, "smollm2"),
        ({"text_length": 0}, "--text-length 0: expected a positive number"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(changes: dict[str, Any], line: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=line) as error:
        study.build("smoke", replace(SMOKE, **changes), ExecutionSite(results=tmp_path))
    assert "\n" not in str(error.value)
