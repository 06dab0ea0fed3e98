"""Attribute grammars: what enumeration gives is what Bayes' rule gives by hand, and what is sampled is as it says."""

from __future__ import annotations

import itertools
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halflife.errors import UserError
from halflife.tasks import attributes
from halflife.tasks.attributes import UNTOLD, AttributeGrammar

TINY = AttributeGrammar(symbols=3, attributes=2, values=2, strength=1.0, base=0.5)
SIGNED = AttributeGrammar(symbols=6, attributes=3, values=2, scalar=True, strength=0.5, base=1.0)
RNG = np.random.default_rng(0)


def by_hand(grammar: AttributeGrammar, text: tuple[int, ...], told: tuple[int, ...], wrong: float) -> Any:
    """Posterior over values and the next symbol's distribution, by a loop over classes and symbols."""
    weights, tables = {}, {}
    for index, values in enumerate(itertools.product(range(grammar.values), repeat=grammar.attributes)):
        tables[values] = np.exp(grammar.log_transitions[index])
        weight = 1.0
        for tag, value in zip(told, values, strict=True):
            if tag != UNTOLD:
                weight *= 1 - wrong if tag == value else wrong / (grammar.values - 1)
        for before, after in itertools.pairwise(text):
            weight *= tables[values][before, after]
        weights[values] = weight
    total = sum(weights.values())
    following = sum(weight / total * tables[values][text[-1]] for values, weight in weights.items())
    return np.array(list(weights.values())) / total, following


@given(
    st.tuples(*[st.integers(0, 2)] * 6),
    st.tuples(*[st.integers(UNTOLD, 1)] * 2),
    st.sampled_from([0.0, 0.1, 0.5]),
)
def test_posterior_and_predictive_equal_a_loop_over_all_classes(text: Any, told: Any, wrong: float) -> None:
    evidence = TINY.evidence(np.array([told]), wrong)
    posterior, predictive = (of(np.array([text]), evidence)[0] for of in (TINY.posterior, TINY.predictive))
    for place in range(len(text)):
        classes, following = by_hand(TINY, text[: place + 1], told, wrong)
        np.testing.assert_allclose(posterior[place], classes, rtol=0, atol=1e-12)
        np.testing.assert_allclose(predictive[place], following, rtol=0, atol=1e-12)


@pytest.mark.parametrize("grammar", [TINY, SIGNED, replace(SIGNED, values=9, attributes=1, tables="unigram")])
def test_distributions_sum_to_one_and_marginals_are_of_the_classes(grammar: AttributeGrammar) -> None:
    _, symbols = grammar.sample(RNG, 20, 15)
    posterior = grammar.posterior(symbols)
    assert np.abs(posterior.sum(-1) - 1).max() < 1e-12
    assert np.abs(grammar.predictive(symbols).sum(-1) - 1).max() < 1e-12
    assert np.abs(np.exp(grammar.log_transitions).sum(-1) - 1).max() < 1e-12
    told = np.full(grammar.attributes, UNTOLD)
    told[0] = 1
    marginal = posterior[..., grammar.classes[:, 0] == 1].sum(-1)
    np.testing.assert_allclose(grammar.marginals(posterior)[..., 0, 1], marginal, atol=1e-12)
    np.testing.assert_allclose(np.exp(grammar.log_posterior(symbols, told)), marginal[:, -1], atol=1e-12)


@pytest.mark.parametrize("grammar", [AttributeGrammar(), replace(SIGNED, tables="unigram")])
def test_the_posterior_of_sampled_texts_is_calibrated(grammar: AttributeGrammar) -> None:
    values, symbols = grammar.sample(np.random.default_rng(1), 6000, 9)
    stated = grammar.marginals(grammar.posterior(symbols))[:, -1, 0, 1]
    true = values[:, 0] == 1
    for low, high in itertools.pairwise((0, 0.2, 0.4, 0.6, 0.8, 1.0)):
        here = (low <= stated) & (stated < high)
        error = np.sqrt((stated[here] * (1 - stated[here])).sum()) / here.sum()
        assert abs(true[here].mean() - stated[here].mean()) < 4 * error


def test_the_bayes_predictive_loses_its_own_entropy_and_knowing_all_values_the_floor() -> None:
    grammar = AttributeGrammar()
    values, symbols = grammar.sample(np.random.default_rng(2), 2000, 32)
    for evidence in (None, grammar.evidence(values)):
        predictive = grammar.predictive(symbols, evidence)[:, :-1]
        losses = -np.log(np.take_along_axis(predictive, symbols[:, 1:, None], 2))[..., 0].mean(1)
        entropy = -(predictive * np.log(predictive)).sum(-1).mean(1)
        difference = losses - entropy
        assert abs(difference.mean()) < 3 * difference.std() / np.sqrt(len(losses))
    floor = grammar.entropies(32)
    assert abs(losses.mean() - floor[1:].mean()) < 3 * losses.std() / np.sqrt(len(losses))
    assert floor[0] == np.log(8)


def test_a_strength_of_zero_leaves_nothing_to_know() -> None:
    grammar = replace(TINY, strength=0.0)
    _, symbols = grammar.sample(RNG, 5, 10)
    np.testing.assert_allclose(grammar.posterior(symbols), 1 / 4, atol=1e-12)
    told = grammar.predictive(symbols, grammar.evidence(np.array([0, 1])))
    np.testing.assert_allclose(told, np.exp(grammar.log_transitions[0])[symbols], atol=1e-12)


def test_an_inert_attribute_keeps_its_prior_and_the_others_their_tables() -> None:
    grammar = replace(TINY, attributes=3, inert=1)
    _, symbols = grammar.sample(RNG, 5, 10)
    posterior = grammar.marginals(grammar.posterior(symbols))
    np.testing.assert_allclose(posterior[:, :, 2], 1 / 2, atol=1e-12)
    np.testing.assert_allclose(posterior[:, :, :2], TINY.marginals(TINY.posterior(symbols)), atol=1e-12)
    assert np.abs(posterior[:, -1, 0] - 1 / 2).max() > 0.05


def test_new_names_of_the_symbols_change_nothing() -> None:
    order = np.array([3, 0, 5, 1, 4, 2])
    renamed = replace(SIGNED)
    renamed.__dict__["log_transitions"] = SIGNED.log_transitions[:, order][:, :, order]  # symbol i is order[i] there
    _, symbols = renamed.sample(RNG, 10, 12)
    np.testing.assert_allclose(renamed.posterior(symbols), SIGNED.posterior(order[symbols]), atol=1e-12)
    np.testing.assert_allclose(renamed.predictive(symbols), SIGNED.predictive(order[symbols])[..., order], atol=1e-12)


def test_texts_given_what_was_told_have_values_and_symbols_of_that_posterior() -> None:
    told = np.array([2, UNTOLD])
    grammar = AttributeGrammar(symbols=4)
    evidence = grammar.evidence(told, wrong=0.1)
    values, symbols = grammar.sample(np.random.default_rng(3), 20_000, 2, evidence)
    assert abs((values[:, 0] == 2).mean() - 0.9) < 0.01
    assert np.abs(np.bincount(values[:, 1], minlength=3) / 20_000 - 1 / 3).max() < 0.02
    pairs = np.zeros((4, 4))
    np.add.at(pairs, (symbols[:, 0], symbols[:, 1]), 1)
    expected = grammar.predictive(np.arange(4)[:, None], evidence)[:, 0]
    assert np.abs(pairs / pairs.sum(1, keepdims=True) - expected).max() < 0.03


def test_a_tag_that_is_wrong_as_often_as_by_chance_is_no_evidence() -> None:
    grammar = AttributeGrammar()
    evidence = grammar.evidence(np.array([[1, 2]]), grammar.uninformative)
    assert np.ptp(evidence) < 1e-12


def test_what_is_no_symbol_is_no_evidence() -> None:
    _, symbols = TINY.sample(RNG, 4, 8)
    with_gap = np.insert(symbols, 4, UNTOLD, axis=1)
    parts = [TINY.log_weights(part)[:, -1] for part in (symbols[:, :4], symbols[:, 4:])]
    np.testing.assert_allclose(TINY.log_weights(with_gap)[:, -1], sum(parts), atol=1e-12)
    np.testing.assert_allclose(TINY.predictive(with_gap)[:, 4], 1 / 3)


def test_two_scalar_values_are_a_sign_and_many_an_axis() -> None:
    assert SIGNED.scalars.tolist() == [-1, 1]
    uniform = replace(SIGNED, attributes=1, base=0.0, tables="unigram")
    logits = uniform.log_transitions - uniform.log_transitions.mean(-1, keepdims=True)
    np.testing.assert_allclose(logits[0], -logits[1], atol=1e-12)
    np.testing.assert_allclose(np.abs(logits), 0.5)  # half of an even number of symbols each way: centred
    line = replace(uniform, values=5)
    along = line.log_transitions - line.log_transitions.mean(-1, keepdims=True)
    np.testing.assert_allclose(along, line.scalars[:, None, None] * logits[1], atol=1e-12)


def test_a_seed_draws_everything_and_fewer_attributes_are_a_prefix() -> None:
    grammar = AttributeGrammar(attributes=1)
    again, other = AttributeGrammar(attributes=1), AttributeGrammar(attributes=1, seed=1)
    assert (grammar.log_transitions == again.log_transitions).all()
    assert np.abs(grammar.log_transitions - other.log_transitions).max() > 0.1
    more = AttributeGrammar(attributes=2, inert=1)
    np.testing.assert_array_equal(more.log_transitions[::3], grammar.log_transitions)


def test_many_texts_are_scored_in_parts_as_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    _, symbols = SIGNED.sample(RNG, 30, 10)
    told = np.array([1, UNTOLD, 0])
    whole = SIGNED.log_posterior(symbols, told)
    monkeypatch.setattr(attributes, "MOST_ENTRIES", 7 * 10 * 8)
    assert len(SIGNED.chunks(30, 10)) == 5
    np.testing.assert_array_equal(SIGNED.log_posterior(symbols, told), whole)


def test_a_description_travels_without_its_tables() -> None:
    grammar = AttributeGrammar(attributes=6)
    grammar.sample(RNG, 1, 2)
    sent = pickle.dumps(grammar)  # as Ray sends it to a worker
    assert len(sent) < 500
    assert pickle.loads(sent) == grammar


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"symbols": 1}, "1 symbols given: expected 2 to 62"),
        ({"values": 1}, "2 attributes of 1 values given"),
        ({"inert": 3}, "3 inert attributes given: expected 0 to 2"),
        ({"strength": -1.0}, r"strength -1.0 and base 0.0 given"),
        ({"strength": float("inf")}, r"strength inf and base 0.0 given"),
        ({"tables": "trigram"}, "tables of a grammar 'trigram' given"),
        ({"attributes": 12}, "531441 classes of 8 symbols given: expected at most 262144"),
    ],
)
def test_what_cannot_be_enumerated_or_drawn_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        AttributeGrammar(**fields)
