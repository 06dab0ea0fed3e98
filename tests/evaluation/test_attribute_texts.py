"""The exact distribution of the next token of tagged and retrodicted grammar text, against sums by hand."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import normalizers

from halflife.data.attributes import AttributeText, symbols_of
from halflife.data.pretrained import prepare_tokenizer
from halflife.data.tokenizers import Bytes, special_ids, vocabulary_of
from halflife.data.transforms import FillInTheMiddle, Retrodiction, Tags, Transform, tag
from halflife.errors import UserError
from halflife.evaluation.attribute_score import AttributeScore
from halflife.evaluation.attribute_texts import AttributeTexts
from halflife.evaluation.probe import Setting
from halflife.interpret.distance import DistanceProbe
from halflife.models.ladder import Rung
from halflife.models.start import fresh
from halflife.rng import generator
from halflife.tasks.attributes import UNTOLD, AttributeGrammar
from tests.data.test_pretrained import folder
from tests.models import tiny
from tests.models.fakes import FakeModel

GRAMMAR = AttributeGrammar(symbols=3, values=2, strength=1.5)
TEXT = AttributeText(grammar=GRAMMAR)
NONE = Path()


def exact(*transforms: Transform, length: int = 7, count: int = 40) -> tuple[NDArray[np.int64], Any, dict[str, int]]:
    texts = AttributeTexts(text=TEXT, transforms=transforms, length=length, count=count)
    tokenizer = TEXT.tokenizer(transforms)
    rows = texts.rows(tokenizer, NONE)
    return rows, texts.conditional(rows, tokenizer, NONE), special_ids(tokenizer)


@pytest.mark.parametrize("tags", [Tags(told=0.5), Tags(told=0.5, wrong=0.2), Tags(fixed=(1, UNTOLD)), Tags(told=0)])
def test_after_tags_and_symbols_the_next_symbol_has_bayes_distribution(tags: Tags) -> None:
    rows, table, ids = exact(tags)
    told = np.full((len(rows), 2), UNTOLD)
    for attribute, value in itertools.product(range(2), range(2)):
        told[rows[:, attribute] == ids[tag(attribute, value)], attribute] = value
    expected = GRAMMAR.predictive(rows[:, 2:], GRAMMAR.evidence(told, tags.wrong))
    np.testing.assert_allclose(table[:, 2:, :3], expected, atol=1e-12)
    np.testing.assert_allclose(table[:, 1, :3], 1 / 3)
    assert (table[:, 1:, 3:] == 0).all()


@pytest.mark.parametrize("wrong", [0.0, 0.2])
def test_after_a_text_the_prompt_has_its_exact_posterior_tag_by_tag(wrong: float) -> None:
    synonyms = 2
    rows, table, ids = exact(Tags(synonyms=synonyms, wrong=wrong), Retrodiction(), length=8)
    names = {(a, v): [ids[tag(a, v, s)] for s in range(synonyms)] for a in range(2) for v in range(2)}
    for row, probabilities in zip(rows, table, strict=True):
        text, last = row[:6], next(v for v in range(2) if row[7] in names[1, v])
        joint = np.zeros((2, 2))  # of the two tags as told
        for index, true in enumerate(GRAMMAR.classes):
            likelihood = np.exp(sum(GRAMMAR.log_transitions[index][a, b] for a, b in itertools.pairwise(text)))
            for tags in itertools.product(range(2), range(2)):
                joint[tags] += likelihood * np.prod(
                    [1 - wrong if t == v else wrong for t, v in zip(tags, true, strict=True)]
                )
        joint /= joint.sum()
        for value in range(2):
            np.testing.assert_allclose(probabilities[6, names[1, value]], joint[:, value].sum() / synonyms, atol=1e-12)
            expected = joint[value, last] / joint[:, last].sum() / synonyms
            np.testing.assert_allclose(probabilities[7, names[0, value]], expected, atol=1e-12)
        np.testing.assert_allclose(probabilities[[6, 7]].sum(-1), 1, atol=1e-12)


class Bayes(FakeModel):
    """Predicts what it is given for each row."""

    def __init__(self, rows: NDArray[np.int64], table: NDArray[np.float64]) -> None:
        super().__init__()
        self.answers = {
            row.tobytes(): torch.from_numpy(one).log().float() for row, one in zip(rows, table, strict=True)
        }

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.answers[row.numpy().tobytes()] for row in x])


def test_a_model_that_is_bayes_rule_is_at_distance_zero_and_one_told_nothing_is_not() -> None:
    tags, length = Tags(told=0.5), 9
    rows, table, _ = exact(tags, length=length)
    texts = AttributeTexts(text=TEXT, transforms=(tags,), length=length, count=len(rows))
    setting = Setting(tokenizer=TEXT.tokenizer([tags]), results=NONE, sequence=length)
    measure = DistanceProbe(texts=texts, first=1).prepare(setting)
    assert measure(Bayes(rows, table)) == {
        "kl": pytest.approx(0, abs=1e-6),
        "tv": pytest.approx(0, abs=1e-6),
        "tokens": 320,
    }
    untold = np.concatenate([table[:, :2], np.zeros_like(table[:, 2:])], axis=1)
    untold[:, 2:, :3] = GRAMMAR.predictive(rows[:, 2:])
    assert measure(Bayes(rows, untold))["kl"] > 0.02


def test_the_classifier_reads_generated_tokens_and_finds_what_was_told() -> None:
    rows, _, ids = exact(Tags(), length=60, count=100)
    tokenizer = TEXT.tokenizer([Tags()])
    found = np.exp(TEXT.classifier((1, UNTOLD), tokenizer, NONE)(rows))
    told = rows[:, 0] == ids[tag(0, 1)]
    assert ((found > 0.5) == told).mean() > 0.8
    assert abs(found.mean() - told.mean()) < 4 * np.sqrt((found * (1 - found)).sum()) / len(found)


def test_what_has_no_exact_distribution_is_refused_where_a_distance_to_it_is_asked() -> None:
    def prepare(*transforms: Transform, first: int = 1, text: AttributeText = TEXT) -> None:
        texts = AttributeTexts(text=text, transforms=transforms, length=12)
        setting = Setting(tokenizer=text.tokenizer(transforms), results=NONE, sequence=12)
        DistanceProbe(texts=texts, first=first).prepare(setting)

    prepare(Tags())
    prepare(Tags(told=0.5))
    with pytest.raises(
        UserError, match=r"distances from position 0 on given: .* unknown after position 0; begin later"
    ):
        prepare(Tags(told=0.5), first=0)
    with pytest.raises(UserError, match="unknown after position 11; begin later, or shorten"):
        prepare(Tags(), text=replace(TEXT, length=8))
    for chain in ((Tags(), FillInTheMiddle()), (Tags(wrong=0.2), Tags(wrong=0.3, attributes=(0,)))):
        with pytest.raises(UserError, match="these texts have none; give a reference"):
            prepare(*chain)


def test_two_chains_of_tags_that_tell_of_different_attributes_are_evidence_of_both() -> None:
    rows, table, ids = exact(Tags(attributes=(0,), wrong=0.2), Tags(attributes=(1,), wrong=0.1), length=8)
    evidence = np.zeros((len(rows), GRAMMAR.class_count))
    for place, (attribute, wrong) in enumerate(((1, 0.1), (0, 0.2))):
        told = np.full((len(rows), 2), UNTOLD)
        told[:, attribute] = rows[:, place] == ids[tag(attribute, 1)]
        evidence += GRAMMAR.evidence(told, wrong)
    np.testing.assert_allclose(table[:, 2:, :3], GRAMMAR.predictive(rows[:, 2:], evidence), atol=1e-12)


@pytest.mark.parametrize("told", [(0,), (0, 2), (-2, 0)])
def test_a_classifier_of_values_that_the_grammar_does_not_have_is_refused(told: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"expected one of 0 to 1, or UNTOLD, for each of 2 attributes"):
        TEXT.classifier(told, TEXT.tokenizer(), NONE)


def test_any_tokenizer_with_a_token_for_each_symbol_writes_the_text(results: Path, tmp_path: Path) -> None:
    assert set(AttributeTexts(text=TEXT).rows(Bytes(), NONE).ravel()) == set(b"abc")
    lower = tiny.tokenizer()
    lower.normalizer = normalizers.Lowercase()
    tokenizer = prepare_tokenizer(folder(tmp_path, lower, tiny.ENDS), results)
    assert AttributeTexts(text=TEXT).rows(tokenizer, results).shape == (256, 32)
    many = AttributeText(grammar=replace(GRAMMAR, symbols=30))  # with A beside a
    with pytest.raises(UserError, match=r"the tokenizer has no token of its own for each of 'abc.*ABCD'"):
        AttributeTexts(text=many).rows(tokenizer, results)


def test_documents_of_fixed_values_have_these_and_their_own_exact_distribution() -> None:
    fixed = replace(TEXT, fixed=(1, UNTOLD))
    tokenizer = TEXT.tokenizer()
    values = fixed.prepare(tokenizer, NONE)(generator(0), 50, 12).values
    assert set(values[:, 0]) == {1}
    assert len(set(values[:, 1])) > 1
    texts = AttributeTexts(text=fixed, count=4, length=10)
    rows = texts.rows(tokenizer, NONE)
    symbols = symbols_of(rows, TEXT.symbol_ids(tokenizer, NONE))
    expected = TEXT.grammar.predictive(symbols, TEXT.grammar.evidence(np.array([1, UNTOLD])))
    found = texts.conditional(rows, tokenizer, NONE)
    assert found is not None
    np.testing.assert_allclose(found[..., TEXT.symbol_ids(tokenizer, NONE)], expected, atol=1e-12)
    with pytest.raises(UserError, match="fixed values"):
        replace(TEXT, fixed=(9, 0))


def test_documents_that_a_model_writes_are_scored_by_the_exact_posterior() -> None:
    """Of a model that always writes the symbol which one value makes likely, almost all have it."""
    grammar = AttributeGrammar(symbols=2, attributes=1, values=2, strength=2, scalar=True, tables="unigram")
    text = AttributeText(grammar=grammar)
    tokenizer = text.tokenizer()
    liked = int(np.exp(grammar.log_transitions)[1, 0].argmax())
    setting = Setting(tokenizer=tokenizer, results=NONE, sequence=16)
    model: Any = fresh(Rung(size="20k"), vocabulary_of(tokenizer), 0.0, 0)
    certain = torch.full((vocabulary_of(tokenizer),), -50.0)
    certain[text.symbol_ids(tokenizer, NONE)[liked]] = 50.0
    model.logits = lambda hidden: certain.expand(*hidden.shape[:-1], -1)
    scores = {}
    for value in (0, 1):
        probe = AttributeScore(text=text, told=(value,), count=8, length=12)
        scores[value] = probe.prepare(setting)(model)["score"]
    assert scores[1] > 0.99
    assert scores[0] + scores[1] == pytest.approx(1)
