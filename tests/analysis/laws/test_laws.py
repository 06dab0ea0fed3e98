"""Every law of the registry: derivatives, bounds, half-lives, documentation."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.errors import UserError
from analysis.laws import LAWS, Law, Parameter, find_law
from analysis.laws.half_life import half_life_law, over_size
from analysis.laws.soft_prompts import conditional_distance, saturation

NAMES = sorted(LAWS)
COMPLEX_UNSAFE = {"log_linear", "bnsl", "half_life_poison", "half_life_full"}
"""They compare values or add in logarithms, which complex steps cannot do: checked by central differences."""


def drawn(law: Law, rng: np.random.Generator) -> np.ndarray:
    """A parameter vector within the bounds, in the range used in practice."""
    theta = []
    for p in law.parameters:
        low, high = {"x": (1.0, 300.0), "y": (0.05, 2.0)}.get(p.unit, p.start or (max(p.low, 0.05), min(p.high, 300.0)))
        low, high = max(low, p.low), min(high, p.high)
        theta.append(np.exp(rng.uniform(np.log(low), np.log(high))) if p.log else rng.uniform(low, high))
    return np.array(theta)


def inputs(law: Law, rng: np.random.Generator, n: int = 7) -> np.ndarray:
    scale = {"N": 1e6, "D": 1e8, "s": 0.5, "lambda": 0.1}
    return np.stack([scale.get(name, 20.0) * np.exp(rng.uniform(-1, 2, n)) for name in law.inputs], axis=1)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_derivatives_are_those_of_the_value(name: str, seed: int) -> None:
    law, rng = LAWS[name], np.random.default_rng(seed)
    theta, x = drawn(law, rng), inputs(law, rng)
    given_, size = law.gradient(theta, x), np.abs(law.value(theta, x)).max() + 1e-200
    for i in range(theta.size):
        if name not in COMPLEX_UNSAFE:
            moved = theta.astype(complex)
            moved[i] += 1e-30j
            columns = [x[:, j] for j in range(x.shape[1])]
            value = law.function(*columns, *moved)
            value = value[0] if isinstance(value, tuple) else value
            expected = np.broadcast_to(np.imag(value) / 1e-30, x.shape[:1])
        else:
            up, down = theta.copy(), theta.copy()
            up[i] *= 1 + 1e-6
            down[i] *= 1 - 1e-6
            expected = (law.value(up, x) - law.value(down, x)) / (2e-6 * theta[i])
            if (np.sign(law.value(up, x)) != np.sign(law.value(down, x))).any():
                continue  # the clip lies between
        near = 1e-9 if name not in COMPLEX_UNSAFE else 1e-5
        np.testing.assert_allclose(given_[:, i], expected, rtol=near, atol=near * size / max(abs(theta[i]), 1e-3))


@pytest.mark.parametrize("name", [n for n in NAMES if len(LAWS[n].evaluate(
    drawn(LAWS[n], np.random.default_rng(0)), inputs(LAWS[n], np.random.default_rng(0)))[2] or {})])  # fmt: skip
@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_second_derivatives_are_those_of_the_first(name: str, seed: int) -> None:
    law, rng = LAWS[name], np.random.default_rng(seed)
    theta, x = drawn(law, rng), inputs(law, rng)
    second = law.evaluate(theta, x)[2] or {}
    columns = [x[:, j] for j in range(x.shape[1])]
    for i in range(theta.size):
        moved = theta.astype(complex)
        moved[i] += 1e-30j
        for j, column in enumerate(law.function(*columns, *moved)[1]):
            expected = np.broadcast_to(np.imag(column) / 1e-30, x.shape[:1])
            found = np.broadcast_to(second.get((min(i, j), max(i, j)), 0.0), x.shape[:1])
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_leading_axes_broadcast_and_the_docstring_documents_the_law(name: str) -> None:
    law, rng = LAWS[name], np.random.default_rng(1)
    many, x = np.stack([drawn(law, rng) for _ in range(3)]), inputs(law, rng)
    assert law.value(many, x).shape == (3, 7)
    assert law.gradient(many, x).shape == (3, 7, len(law.parameters))
    np.testing.assert_array_equal(law.value(many[1], x), law.value(many, x)[1])
    text = inspect.getdoc(law) or ""
    assert law.formula in text
    assert law.source in text
    for parameter in law.parameters:
        assert parameter.name in text
        assert parameter.meaning
        assert parameter.meaning in text


@pytest.mark.parametrize("name", [n for n in NAMES if LAWS[n].decays])
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_law_at_its_half_life_is_half_its_initial_value(name: str, seed: int) -> None:
    law = LAWS[name]
    theta = drawn(law, np.random.default_rng(seed))
    half = law.half_life(theta)
    assert half is not None
    start, end = law.value(theta, np.array([[0.0], [1e30]]))
    if np.isinf(half):
        assert end >= start / 2 * (1 - 1e-9)
    elif half < 1e25:
        assert law.value(theta, half.reshape(1, 1))[0] == pytest.approx(start / 2, rel=1e-9)


@pytest.mark.parametrize("name", ["exponential", "exponential_floor", "power_floor", "stretched", "logistic_log"])
def test_bisection_finds_the_closed_form(name: str) -> None:
    given_, rng = LAWS[name], np.random.default_rng(2)
    many = np.stack([drawn(given_, rng) for _ in range(20)])
    blind = Law(
        name="blind", formula="", source="", parameters=given_.parameters, function=given_.function, decays=True
    )
    closed, found = given_.half_life(many), blind.half_life(many)
    assert closed is not None
    assert found is not None
    reached = closed < 1e25
    np.testing.assert_allclose(found[reached], closed[reached], rtol=1e-9)


def test_a_half_life_is_found_in_any_unit() -> None:
    law = LAWS["double_exponential"]
    here = law.half_life(np.array([0.5, 0.4, 10.0, 4.0]))
    assert here is not None
    for scale in (1e-30, 1e44):
        assert law.half_life(np.array([0.5, 0.4, 10.0 * scale, 4.0])) == pytest.approx(here * scale, rel=1e-9)


def test_a_law_that_rises_loses_half_of_its_rise_at_its_half_life() -> None:
    shift = LAWS["cpt_loss_shift"]
    half = shift.half_life(np.array([2.0, 0.8, 30.0, 0.5]))
    assert half is not None
    assert shift.value(np.array([2.0, 0.8, 30.0, 0.5]), np.reshape(half, (1, 1)))[0] == pytest.approx(2.4)


@pytest.mark.parametrize("name", [n for n in NAMES if LAWS[n].linear])
def test_linear_parameters_are_linear_and_homogeneous(name: str) -> None:
    law, rng = LAWS[name], np.random.default_rng(3)
    theta, x = drawn(law, rng), inputs(law, rng)
    at = [law.names.index(n) for n in law.linear]
    doubled = theta.copy()
    doubled[at] *= 2
    np.testing.assert_allclose(law.value(doubled, x), 2 * law.value(theta, x), rtol=1e-9)


def test_half_life_over_size_and_other_axes_has_the_planted_interactions() -> None:
    law = half_life_law("mine", "regularization", "overlap")
    assert law.inputs == ("N", "lambda", "s")
    assert law.names == ("T0", "gamma", "delta", "lambda0", "xi", "kappa", "kappa2", "zeta")
    theta = np.array([100.0, 0.5, 1.0, 0.1, 0.2, 0.3, -0.4, 0.1])
    n, strength, overlap = 8e6, 0.4, 0.7
    size, log = np.log(8), np.log(1 + 0.4 / 0.1)
    expected = 100 * np.exp(0.5 * size + (1.0 + 0.2 * size) * log + (0.3 - 0.4 * overlap + 0.1 * size) * overlap)
    assert law.value(theta, np.array([[n, strength, overlap]]))[0] == pytest.approx(expected)
    with pytest.raises(UserError, match="half-life has no term momentum"):
        half_life_law("mine", "momentum")


def test_decay_over_size_is_the_decay_law_at_each_size() -> None:
    base, joint = LAWS["exponential_floor"], LAWS["exponential_floor_over_size"]
    assert joint.names == ("a", "T0", "gamma", "f0", "phi")
    x = np.array([0.0, 5.0, 50.0])
    floor = 1 / (1 + np.exp(1.0 - 0.3 * np.log(3)))
    at_size = base.value(np.array([0.9, 10 * 3**0.7, floor]), x[:, None])
    both = joint.value(np.array([0.9, 10.0, 0.7, -1.0, 0.3]), np.stack([x, np.full(3, 3e6)], axis=1))
    np.testing.assert_allclose(both, at_size)
    with pytest.raises(UserError, match="no time scale T"):
        over_size(LAWS["constant"])


def test_conditional_distance_is_the_shortest_prompt_that_reaches_the_target() -> None:
    for name, theta in (("soft_prompt_exponential", [0.6, 2.0, 8.0]), ("soft_prompt_power", [0.6, 2.0, 8.0, 1.5])):
        law, theta = LAWS[name], np.array(theta)
        k = conditional_distance(law, theta, 1.0)
        assert law.value(theta, np.reshape(k, (1, 1)))[0] == pytest.approx(1.0)
        assert np.isinf(conditional_distance(law, theta, 0.5))
        assert conditional_distance(law, theta, 3.0) == 0
        assert law.value(theta, np.reshape(saturation(law, theta), (1, 1)))[0] == pytest.approx(0.62)


def test_a_law_with_bad_bounds_or_an_unknown_name_is_refused() -> None:
    with pytest.raises(UserError, match="expected low < high"):
        Parameter(name="T", low=-1, high=1, log=True)
    a = Parameter(name="a", low=0, high=1)
    with pytest.raises(UserError, match="linear"):
        Law(name="q", formula="", source="", parameters=(a,), linear=("b",), function=abs)
    with pytest.raises(UserError, match="no law 'expo', did you mean exponential\\?; `python -m analysis laws`"):
        find_law("expo")
