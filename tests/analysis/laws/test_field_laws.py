"""The field's laws: each recovers what was planted, and the published numbers follow from the published parameters."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analysis.errors import UserError
from analysis.fitting.fit import fit
from analysis.fitting.objectives import Gaussian, Huber
from analysis.fitting.observations import Observations
from analysis.laws import LAWS
from analysis.laws.allocation import FLOPS
from analysis.laws.menu import INPUTS, shown

MUENNIGHOFF = np.array([np.exp(0.6254804), np.exp(6.255414), np.exp(7.3049974), 0.3526596, 0.3526596, 15.387756,
                        5.309743])  # fmt: skip
"""Muennighoff et al. 2023: E, A, B, alpha, beta, R_D, R_N of their C4 runs."""


def grid(*axes: list[float] | np.ndarray) -> np.ndarray:
    return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1)


SIZES, TOKENS = np.geomspace(1e7, 1e10, 6), np.geomspace(1e9, 3e11, 6)
CLOCK = np.concatenate([[0.0], np.geomspace(1, 3000, 24)])[:, None]
PLANTED = {
    "saturating_power": ([1.7, 400.0, 0.3], np.geomspace(1e17, 1e22, 12)[:, None]),
    "forgetting_injection": ([0.02, 2.0, 300.0, 0.5, 0.4], grid(np.geomspace(1e6, 1e9, 5), SIZES, [0, 0.001, 0.05])),
    "d_cpt": ([1.2, 300.0, 900.0, 0.1, 0.3, 0.35, 0.5, 0.2, 0.1], grid(SIZES, TOKENS, [0.05, 0.2, 0.4, 0.6, 0.8, 1])),
    "rising_exponential": ([0.1, 0.9, 60.0], CLOCK),
    "rising_power": ([0.1, 0.9, 60.0, 1.2], CLOCK),
    "rising_sigmoid": ([0.1, 0.9, 60.0, 1.5], CLOCK),
    "accuracy_sigmoid": ([0.7, 4.0, 1.8, 0.25], np.linspace(0.5, 3.5, 16)[:, None]),
    "error_exponential": ([0.95, 3.0, 0.9], np.linspace(2.0, 4.5, 16)[:, None]),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_what_was_planted_is_found(name: str) -> None:
    law, (truth, x) = LAWS[name], PLANTED[name]
    made = fit(law, Observations(x=x, y=law.value(np.array(truth), x)))
    np.testing.assert_allclose(made.theta, truth, rtol=2e-3)


def test_repetition_is_found_when_the_law_of_one_pass_is_held() -> None:
    law = LAWS["data_constrained"]
    sizes, unique, passes = np.meshgrid([3e8, 1e9, 3e9, 9e9], [1e9, 4e9, 2e10], [1, 4, 16, 50])
    x = np.stack([sizes.ravel(), (unique * passes).ravel(), unique.ravel()], axis=1)
    noise = np.exp(0.002 * np.random.default_rng(0).normal(size=len(x)))
    held = dict(zip(law.names[:5], MUENNIGHOFF[:5], strict=True))
    data = Observations(x=x, y=law.value(MUENNIGHOFF, x) * noise)
    made = fit(law, data, objective=Gaussian(log=True), fixed=held)
    np.testing.assert_allclose(made.theta[5:], MUENNIGHOFF[5:], rtol=0.15)


def test_up_to_four_passes_are_worth_nearly_as_much_as_new_tokens() -> None:
    """Muennighoff et al. 2023, abstract and section 3.1: beyond 4 epochs returns diminish, near 40 they vanish."""
    law = LAWS["data_constrained"]

    def worth(passes: float) -> float:
        """Tokens read once that give the loss of `passes` over 25 billion (with 1e9 parameters)."""
        once = np.geomspace(2.5e10, 2.5e12, 4000)
        loss = law.value(MUENNIGHOFF, np.stack([np.full(4000, 1e9), once, once], axis=1))
        repeated = law.value(MUENNIGHOFF, np.array([[1e9, passes * 2.5e10, 2.5e10]]))[0]
        return float(np.interp(-repeated, -loss, once)) / 2.5e10

    assert worth(4) > 0.9 * 4
    assert worth(16) == pytest.approx(1 + 15.39 * (1 - np.exp(-15 / 15.39)), rel=0.02)
    assert worth(60) - worth(40) < 0.06 * 20


def test_the_menu_takes_names_purposes_and_parts_of_either() -> None:
    assert shown("chinchilla").startswith("chinchilla: loss over parameters, tokens and compute")
    recovery = shown("Recovery")
    assert all(name in recovery for name in ("rising_exponential", "rising_power", "rising_sigmoid"))
    assert "chinchilla" not in recovery
    assert all(purpose in shown(None) for purpose in ("Relearning and recovery: curves that rise", "Human forgetting"))
    with pytest.raises(UserError, match=r"no law and no purpose is called 'recovry', did you mean recovery\?"):
        shown("recovry")


def test_every_input_of_a_law_is_described_in_the_menu() -> None:
    assert {name for law in LAWS.values() for name in law.inputs} == set(INPUTS)


def test_no_other_split_of_the_compute_has_a_lower_loss() -> None:
    for name, theta in (("chinchilla", [1.69, 406.4, 410.7, 0.34, 0.28]), ("gadre", [1.8, 160.0, 280.0, 0.27])):
        law = LAWS[name]
        assert law.optimum is not None
        size, tokens = law.optimum(1e21 / FLOPS, *theta)
        assert size * tokens * FLOPS == pytest.approx(1e21)
        factor = np.geomspace(0.5, 2, 101)
        losses = law.value(np.array(theta), np.stack([size * factor, tokens / factor], axis=1))
        assert losses.argmin() == 50


def test_hoffmanns_exponents_follow_from_their_parameters() -> None:
    """Hoffmann et al. 2022, table 2, approach 3: a = 0.46, b = 0.54 (from alpha = 0.34, beta = 0.28, rounded)."""
    theta = (1.69, 406.4, 410.7, 0.34, 0.28)
    found = {name: each.function(*theta) for name, each in LAWS["chinchilla"].derived.items()}
    assert found == pytest.approx({"a": 0.46, "b": 0.54}, abs=0.01)


@pytest.mark.parametrize("name", ["rising_exponential", "rising_power", "rising_sigmoid"])
def test_half_of_the_rise_is_made_at_the_time_to_half_recovery(name: str) -> None:
    law, theta = LAWS[name], np.array(PLANTED[name][0])
    half = law.half_life(theta)
    assert half is not None
    assert law.half_name == "time to half recovery"
    assert law.value(theta, np.reshape(half, (1, 1)))[0] == pytest.approx(0.5)  # between 0.1 and 0.9


DATA = Path(__file__).parents[4] / "shared" / "data" / "gemstones"
HOT = DATA / "published_fits" / "delta1e-3.approach_3_parameters_grid_search_0_hot.json"


@pytest.mark.skipif(not HOT.is_file(), reason=f"no published fits at {DATA}")
def test_the_compute_optimal_exponents_of_the_gemstones_are_those_of_their_published_fit() -> None:
    frame = pl.read_ndjson(DATA / "wandb_df_for_fitting_hot.jsonl")
    data = Observations(x=frame.select("params_active_precise", "tokens").to_numpy(), y=frame["final_loss"].to_numpy())
    made = fit(LAWS["chinchilla"], data, objective=Huber(), starts=32, diagnosed=False)
    alpha, beta = json.loads(HOT.read_text())["exponents"]["0"]
    found = {name: float(each.function(*made.theta)) for name, each in made.law.derived.items()}
    assert found == pytest.approx({"a": beta / (alpha + beta), "b": alpha / (alpha + beta)}, abs=1e-3)
