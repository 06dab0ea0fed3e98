"""Fits against published numbers, on published data (../shared/data)."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analysis.fitting.fit import fit, fit_many
from analysis.fitting.objectives import Binomial, Gaussian, Huber
from analysis.fitting.observations import Observations
from analysis.laws import LAWS
from analysis.laws.soft_prompts import conditional_distance
from tests.analysis.chinchilla import chinchilla_grid

DATA = Path(__file__).parents[4] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no published data at {DATA}")
PUBLISHED = sorted((DATA / "gemstones" / "published_fits").glob("*.json"))
VOCABULARY = 50304
"""Of the Gemstones models: `no_embeds` fits subtract one embedding of this size from the parameters."""

MURDOCK = Observations(
    x=np.array([1, 3, 6, 9, 12, 18]), hits=np.array([94, 77, 40, 26, 24, 16]), trials=np.full(6, 100)
)
STRONG = Observations(
    x=np.array([1, 5, 15, 30, 60, 120, 240, 480, 720, 1440, 2880, 5760, 10080]),
    y=np.array([0.84, 0.71, 0.61, 0.56, 0.54, 0.47, 0.45, 0.38, 0.36, 0.26, 0.20, 0.16, 0.08]),
)
CARPENTER = Observations(x=np.array([0.0035, 1, 2, 7, 14, 42]), y=np.array([0.93, 0.88, 0.86, 0.66, 0.47, 0.34]))
EBBINGHAUS = Observations(
    x=np.array([20, 64, 526, 1440, 2880, 8640, 44640]), y=np.array([0.582, 0.442, 0.358, 0.337, 0.278, 0.254, 0.211])
)


@pytest.mark.parametrize(
    ("law", "parameters", "likelihood"), [("power", (0.953, 0.498), -313.37), ("exponential", (1.070, 0.131), -305.31)]
)
def test_murdock_1961_by_maximum_likelihood(law: str, parameters: tuple[float, float], likelihood: float) -> None:
    """Published without a bound: the data begin at 1, and the level at 0 is above 1."""
    made = fit(replace(LAWS[law], levels=()), MURDOCK, objective=Binomial())
    rate = made.theta[1] if law == "power" else 1 / made.theta[1]
    above = "the fitted rate at x = 0 is 1.07, above 1"
    assert [warning for warning in made.warnings if "rate" in warning] == ([above] if law == "exponential" else [])
    assert (made.theta[0], rate) == pytest.approx(parameters, abs=6e-4)
    assert made.log_likelihood == pytest.approx(likelihood, abs=0.01)
    assert made.starts_at_optimum > 0.9
    made = fit(LAWS[law], MURDOCK, objective=Binomial())
    assert made.parameters["a"] == pytest.approx(min(parameters[0], 1), abs=6e-4)  # by default a rate


def test_strong_1913_is_linear_in_log_time() -> None:
    made = fit(LAWS["log"], STRONG)
    assert made.theta == pytest.approx([0.846, 0.0792], abs=5e-4)
    assert STRONG.y is not None
    unexplained = 2 * made.objective / ((STRONG.y - STRONG.y.mean()) ** 2).sum()
    assert 1 - unexplained == pytest.approx(0.990, abs=5e-4)


def test_carpenter_2008_by_least_squares() -> None:
    made = fit(LAWS["shifted_power"], CARPENTER)
    level, scale, exponent = made.theta
    assert (level, 1 / scale, exponent) == pytest.approx((0.948, 0.1321, 0.5817), abs=5e-4)


def test_ebbinghaus_1885_is_fitted_at_least_as_well_as_he_did() -> None:
    """His k = 1.84 and c = 1.25 are rounded and fitted by hand, with time counted from a minute before the end."""
    data = Observations(x=EBBINGHAUS.x + 1, y=EBBINGHAUS.y)
    made = fit(LAWS["ebbinghaus"], data)
    his = 0.5 * ((LAWS["ebbinghaus"].value(np.array([1.84, 1.25]), data.x) - data.response) ** 2).sum()
    assert made.objective <= his
    assert made.theta == pytest.approx([1.84, 1.25], abs=0.03)


def test_the_time_scale_of_a_power_law_is_not_identified_in_ebbinghaus() -> None:
    made = fit(LAWS["shifted_power"], EBBINGHAUS)
    assert any("T" in warning and "not identified" in warning for warning in made.warnings)


@cache
def gemstones(name: str) -> pl.DataFrame:
    return pl.read_ndjson(DATA / "gemstones" / f"wandb_df_for_fitting_{name}.jsonl")


@needs_data
@pytest.mark.parametrize(
    "path", PUBLISHED, ids=lambda path: path.stem.replace("approach_3_parameters_grid_search_0_", "")
)
def test_gemstones_objective_is_at_or_below_the_published(path: Path) -> None:
    delta = 1e-3 if path.name.startswith("delta1e-3") else 1e-4
    name = path.stem.partition("search_0_")[2]
    frame = gemstones(name.removesuffix("_no_embeds"))
    embedding = VOCABULARY * frame["width"] if name.endswith("_no_embeds") else 0
    inputs = frame.select(n=pl.col("params_active_precise") - embedding, d=pl.col("tokens")).to_numpy()
    data = Observations(x=inputs, y=frame["final_loss"].to_numpy())
    published = {key: value["0"] for key, value in json.loads(path.read_text()).items()}
    made = fit(LAWS["chinchilla"], data, objective=Huber(delta=delta), diagnosed=False)
    assert made.objective <= published["loss"] + (1e-7 if delta == 1e-3 else 0)
    at = np.exp([published["irreducible_error"], *published["coefficients"]])
    again = fit_many(
        LAWS["chinchilla"], data, objective=Huber(delta=delta), starts=np.array([[*at, *published["exponents"]]])
    )
    assert made.objective <= again.objective[0] + 1e-10  # no better optimum lies in the published one's basin


@needs_data
def test_gemstones_from_the_4500_starts_of_the_paper() -> None:
    frame = gemstones("hot")
    data = Observations(x=frame.select("params_active_precise", "tokens").to_numpy(), y=frame["final_loss"].to_numpy())
    law = LAWS["chinchilla"]
    grid = chinchilla_grid()
    assert grid.shape == (4500, 5)
    paper, sobol = (fit(law, data, objective=Huber(), starts=s, diagnosed=False) for s in (grid[::9], 64))
    assert paper.objective == pytest.approx(sobol.objective, abs=1e-12)
    assert paper.starts_at_optimum > 0.5


@needs_data
def test_gadre_2024_predicts_over_trained_and_larger_models() -> None:
    frame = pl.read_csv(DATA / "gadre_overtraining" / "models_flat.csv").filter(train_dataset="rpj")
    small = pl.col("model").str.starts_with("d=")
    least = pl.col("model") == "d=96_l=8_h=4"
    seen = frame.filter((small & (pl.col("chinchilla_mult") == 1)) | (least & (pl.col("chinchilla_mult") == 16)))
    assert seen.height == 5
    made = fit(LAWS["gadre"], Observations(x=seen.select("N", "D").to_numpy(), y=seen["loss_c4_val"].to_numpy()))
    for model, times, published in (("open_lm_1b", 32, 0.7103), ("open_lm_7b", 1, 0.7320)):
        held_out = frame.filter((pl.col("model") == model) & (pl.col("chinchilla_mult") == times))
        loss = held_out["loss_c4_val"][0]
        error = 100 * abs(made.predict(held_out.select("N", "D").to_numpy())[0] - loss) / loss
        assert error == pytest.approx(published, abs=0.1)


@needs_data
def test_routing_helps_less_the_larger_the_model() -> None:
    """Clark et al. 2022: negative exponents of size and experts, a positive interaction, for each kind of router."""
    frame = pl.read_csv(DATA / "routing" / "curves.csv.gz", infer_schema_length=None)
    last = frame.filter((pl.col("step") == pl.col("step").max().over("hyper_id")) & (pl.col("k") == 1))
    for router in ("S-Base", "RL-R", "Hash"):
        part = last.filter(router_type=router, routing_frequency=0.5)
        data = Observations(
            x=part.select("dense_parameter_count", "num_experts").to_numpy(), y=part["loss_validation"].to_numpy()
        )
        made = fit(LAWS["routing"], data, objective=Gaussian(log=True))
        _, a, b, c = made.theta
        assert a < 0
        assert b < 0
        assert c > 0
        spread = np.std(np.log(made.predict(data.x)) - np.log(data.response))
        assert spread < 0.01  # a percent of the loss


@needs_data
def test_nordby_2025_soft_prompt_curves() -> None:
    frame = pl.read_csv(DATA / "soft_prompt_runs" / "final_losses.csv").filter(
        pl.col("experiment") == "pathfinding 8x8", pl.col("model").str.contains("70m")
    )
    data = Observations(x=frame["soft_tokens"].to_numpy(), y=frame["final_test_loss"].to_numpy())
    made = fit(LAWS["soft_prompt_power"], data)
    np.testing.assert_allclose(made.predict(data.x), data.response, rtol=0.05)
    assert 1 <= conditional_distance(made.law, made.theta, 0.9) <= 16
    assert np.isinf(conditional_distance(made.law, made.theta, 0.3))


@needs_data
@pytest.mark.parametrize("every", [pytest.param(8, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.nightly)])
def test_a_break_extrapolates_better_than_a_power_law_on_the_slaw_benchmark(every: int) -> None:
    """92 learning curves, fitted where Training = 1, scored where it is 0: root mean squared error of ln loss."""
    errors: dict[str, list[float]] = {"power": [], "bnsl": []}
    for part in ("vision", "lang"):
        frame = pl.read_csv(DATA / "revisiting_slaw" / f"benchmark.{part}.csv")
        for _, task in list(frame.group_by(["Domain", "Task", "Model"], maintain_order=True))[::every]:
            seen, held = (task.filter(Training=t) for t in (1, 0))
            data = Observations(x=seen["Seen Examples"].to_numpy(), y=seen["Loss"].to_numpy())
            for name, found in errors.items():
                made = fit(LAWS[name], data, objective=Gaussian(log=True), diagnosed=False, starts=64)
                ahead = np.log(made.predict(held["Seen Examples"].to_numpy()[:, None]))
                found.append(float(np.sqrt(((ahead - np.log(held["Loss"].to_numpy())) ** 2).mean())))
    assert [len(found) for found in errors.values()] == [92 if every == 1 else 12] * 2
    mean = {name: float(np.mean(found)) for name, found in errors.items()}
    assert mean["bnsl"] < mean["power"]
