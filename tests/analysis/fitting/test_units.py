"""Units do not matter: x or y times 10^k changes what is found by that factor and by nothing else."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.errors import UserError
from analysis.fitting.censored import Censored
from analysis.fitting.fit import fit
from analysis.fitting.intervals import Intervals, intervals
from analysis.fitting.log1p import Log1p
from analysis.fitting.objectives import BetaBinomial, Binomial, Gaussian, Huber, Objective
from analysis.fitting.observations import Observations
from analysis.fitting.result import Fit
from analysis.fitting.units import rescaling, scalable
from analysis.laws import LAWS, Law, Parameter, law
from analysis.laws.units import powers, shifts
from analysis.stats.intervals import Interval

ABSOLUTE = {
    "ebbinghaus": {"x", "y"}, "floor_size": {"y"}, "exponential_floor_over_size": {"y"},
    "power_floor_over_size": {"y"}, "forgetting_injection": {"p"}, "d_cpt": {"r"},
}  # fmt: skip
"""Inputs and responses with a unit of their own: minutes, rates, shares."""
ERRORS: dict[str, Objective] = {
    "gaussian": Gaussian(), "lognormal": Gaussian(log=True), "huber": Huber(delta=0.05), "log1p": Log1p(),
    "binomial": Binomial(), "beta-binomial": BetaBinomial(), "gaussian, censored": Censored(),
    "lognormal, censored": Censored(log=True),
}  # fmt: skip
SIZES = {"N": 1e6, "D": 1e8, "U": 3e7, "lambda": 0.1, "s": 0.4, "p": 0.05, "r": 0.3, "L": 3.0, "count": 60.0, "X": 8.0}


def test_every_law_says_how_its_parameters_are_measured():
    for name, found in LAWS.items():
        assert {*found.inputs, "y"} - set(scalable(found)) == ABSOLUTE.get(name, set()), name


def test_a_law_that_does_not_say_it_is_fitted_to_the_data_as_they_are():
    @law(
        register=False, name="mine", formula="y = a exp(-x/T) + r x", source="a test",
        parameters=(
            Parameter(name="a", low=0, high=10, unit="y", meaning="level"),
            Parameter(name="T", low=1e-3, high=1e3, log=True, unit="x", meaning="scale"),
            Parameter(name="r", low=-1, high=1, start=(-0.1, 0.1), meaning="drift, in y/x"),
        ),
    )  # fmt: skip
    def mine(x, a, t, r):
        return a * np.exp(-x / t) + r * x

    assert scalable(mine) == ()
    x = np.linspace(0, 30, 20)
    y = mine.value(np.array([2.0, 5.0, 0.01]), x[:, None])
    np.testing.assert_allclose(fit(mine, Observations(x=x, y=y), starts=16).theta, [2.0, 5.0, 0.01], rtol=1e-5)


@pytest.mark.parametrize(("unit", "shift"), [("y per x", ""), ("z", ""), ("y", "alpha N"), ("y", "b ln x")])
def test_units_that_say_nothing_are_refused(unit: str, shift: str):
    with pytest.raises(UserError, match="expected"):
        law(
            register=False, name="q", formula="", source="",
            parameters=(Parameter(name="a", low=0, high=1, unit=unit, shift=shift),
                        Parameter(name="b", low=0, high=1, log=True)),
        )(abs)  # fmt: skip


def planted(found: Law, error: str, seed: int) -> Observations:
    """18 points of a curve of the law that an error suits, without much noise."""
    rng = np.random.default_rng(seed)
    spread = np.sort(rng.uniform(0.05, 1.0, (18, len(found.inputs))), axis=0)
    spread[:, 1:] = rng.permuted(spread[:, 1:], axis=0)
    x = np.array([SIZES.get(name, 20.0) for name in found.inputs]) * (20**spread if found.inputs[0] != "L" else spread)
    theta = []
    for p in found.parameters:
        low, high = {"x": (8.0, 60.0), "y": (0.3, 0.9), "1/x": (0.5, 2.0)}.get(p.unit, p.start or (0.5, 2.0))
        low, high = max(low, p.low + 1e-3), min(high, p.high)
        theta.append(0.7 * low + 0.3 * high if not p.log else low**0.6 * high**0.4)
    scales = {name: float(np.exp(np.log(x[:, i]).mean())) for i, name in enumerate(found.inputs)}
    matrix, offset = rescaling(found, {name: scales[name] for name in scalable(found) if name in scales})
    shifted = np.array([bool(p.shift) for p in found.parameters])
    z = np.where(found.log, np.log(np.where(found.log, theta, 1.0)), theta)
    z = np.where(shifted, matrix @ z + offset, z)
    clean = found.value(np.where(found.log, np.exp(np.where(found.log, z, 0.0)), z), x)
    clean = np.abs(clean) + 1e-3 * np.abs(clean).max()
    if "binomial" in error:
        rate = np.clip(clean / clean.max(), 0.02, 0.98)
        return Observations(x=x, hits=rng.binomial(30_000, rate).astype(float), trials=np.full(18, 3e4))
    y = clean * np.exp(0.003 * rng.standard_normal(18))
    if "censored" in error:
        return Observations(x=x, low=y, high=np.where(np.arange(18) % 5 == 4, np.inf, y))
    return Observations(x=x, y=y)


def moved(data: Observations, by: np.ndarray, y: float) -> Observations:
    parts = {name: None if (a := getattr(data, name)) is None else a * y for name in ("y", "low", "high")}
    return Observations(x=data.x * by, hits=data.hits, trials=data.trials, **parts)


@functools.cache
def found_for(name: str, error: str) -> tuple[Fit, Intervals]:
    made = fit(LAWS[name], planted(LAWS[name], error, 0), objective=ERRORS[error], starts=16, diagnosed=False)
    return made, intervals(made)


def narrow(found: Interval) -> bool:
    """Whether the data determine it: far from the optimum a flat profile ends where the search stops."""
    if found.low is None or found.high is None:
        return False
    return abs(found.high - found.low) < abs(found.estimate)


def check(name: str, error: str, exponents: list[int], exponent: int) -> None:
    own = LAWS[name]
    free = set(scalable(own)) - ({"y"} if ERRORS[error].unit == "1" or "binomial" in error else set())
    scales = {given: 10.0**k for given, k in zip(own.inputs, exponents, strict=False) if given in free}
    if own.alike:
        scales |= dict.fromkeys(own.alike, scales[own.alike[0]])
    scales |= {"y": 10.0**exponent} if "y" in free else {}
    here, ends_here = found_for(name, error)
    data = moved(here.observations, np.array([scales.get(n, 1.0) for n in own.inputs]), scales.get("y", 1.0))
    there = fit(own, data, objective=ERRORS[error], starts=16, diagnosed=False)
    np.testing.assert_allclose(
        there.predict(data.x), here.predict(here.observations.x) * scales.get("y", 1.0), rtol=1e-4
    )
    ends_there = intervals(there)
    for parameter in own.parameters:
        if not shifts(parameter.shift) and not parameter.unit.startswith("ln"):
            factor = np.prod([scales.get(given if given in (*own.inputs, "y") else own.inputs[0], 1.0) ** power
                              for given, power in powers(parameter.unit).items()])  # fmt: skip
            one, two = ends_here.parameters[parameter.name], ends_there.parameters[parameter.name]
            for a, b in ((one.low, two.low), (one.high, two.high)):
                if narrow(one):
                    assert a is not None
                    assert b is not None
                    assert b / factor == pytest.approx(a, rel=5e-3, abs=5e-3 * abs(a)), parameter.name
    if (one := ends_here.half_life) is not None and (two := ends_there.half_life) is not None and one.estimate:
        assert two.estimate == pytest.approx(one.estimate * scales.get(own.inputs[0], 1.0), rel=5e-3)


NAMES = sorted(set(LAWS) - {"half_life_full", "log_linear"})
"""Without one of 12 parameters, and one whose clip at 0 makes many nearly equal optima."""
FEW = [name for name in NAMES if len(LAWS[name].parameters) <= 3]
EXPONENTS = st.integers(-12, 25)


@pytest.mark.parametrize("error", sorted(ERRORS))
@settings(max_examples=2, deadline=None)
@given(name=st.sampled_from(FEW), exponents=st.lists(EXPONENTS, min_size=5, max_size=5), exponent=EXPONENTS)
def test_a_power_of_ten_of_x_or_y_changes_estimates_and_intervals_by_that_factor(
    error: str, name: str, exponents: list[int], exponent: int
):
    check(name, error, exponents, exponent)


@pytest.mark.nightly
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=2, deadline=None)
@given(exponents=st.lists(EXPONENTS, min_size=5, max_size=5), exponent=EXPONENTS)
def test_no_unit_matters_to_any_law_under_any_error(name: str, exponents: list[int], exponent: int):
    for error in ERRORS:
        check(name, error, exponents, exponent)
